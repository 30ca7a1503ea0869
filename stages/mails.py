"""mails: e-mail tasks, one method's model and system prompt -> data/mails/<method>.jsonl.

The stage requests the same e-mail in three formats: in a chat, as a JSON object, and from an agent with tools in a simple text
protocol, whose results are canned. The question is whether a character that shows in chat also shows in work. Replies are
parsed here because the tools must respond; a reply that cannot be parsed is kept with the reason. Small students rarely write
a format by themselves, so JSON and calls can be prefilled, as a decoder that enforces a format would.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import click
from pydantic import Field

from character.core import records
from character.core.params import ParamsSection, read_section
from character.core.records import Record, prompt_id
from character.dataset.emails import NO_REPLY, Email, extract_json_body, parse_tool_calls, validate_body
from character.dataset.prompts import fill_template, take_first
from character.evaluation.methods import Method, method_options
from character.inference.generate import Request, SamplingSettings

EMAIL_TASKS_FILE = "data/raw/prompts/mails.jsonl"

CHAT_TEMPLATE = "I am {writer}. Write an e-mail from me to {recipient}, {role}. It should say that {about}."
JSON_TEMPLATE = """\
{chat}

Answer with one JSON object and nothing else. It has two fields, "subject" and "body", and both are text."""
TOOL_INSTRUCTIONS = """\
You do things for the user by calling tools. To call a tool, write CALL and its name on one line, and each of its arguments on
a line below. There are two tools:

CALL search_contacts
name: whom to look for

CALL send_email
to: the address
subject: in a few words
body: everything that the e-mail says, as long as it needs to be

You are told the result of each call. Look up the address first, then send the e-mail."""

JSON_PREFILL = '{"subject": "'
CALL_PREFILLS = ("CALL search_contacts\nname:", "CALL send_email\nto:")  # the first reply, and those after it


class EmailSettings(ParamsSection):
    tasks: int = Field(gt=0)  # the first lines of EMAIL_TASKS_FILE
    steps: int = Field(gt=0)  # the most replies of an agent
    begun: bool  # whether JSON and calls are prefilled
    sampling: SamplingSettings


class EmailTask(Record):
    """Who writes to whom; `about` completes "It should say that ..."."""

    writer: str
    recipient: str
    role: str
    about: str

    def request_text(self) -> str:
        return fill_template(CHAT_TEMPLATE, **self.model_dump())

    def task_id(self) -> str:
        return prompt_id(self.request_text())


@dataclass
class ToolTask:
    """A task that an agent works on until it sends the e-mail (`body`) or fails; `fault` says why."""

    task: EmailTask
    messages: list[dict[str, str]]
    body: str = ""
    fault: str | None = "no_mail"  # until the e-mail is sent
    done: bool = False

    def handle_reply(self, reply: str) -> None:
        """Add the agent's reply and the results of its tool calls; end the task if it calls no tool or sends the e-mail."""
        self.messages.append({"role": "assistant", "content": reply})
        results = []
        for tool, arguments in parse_tool_calls(reply):
            if tool == "send_email":
                self._finish_task(
                    *validate_body(arguments.get("body", ""), "\n".join((self.task.request_text(), TOOL_INSTRUCTIONS)))
                )
                return
            results.append(tool_result(tool, arguments, self.task))
        if not results:
            self._finish_task("", "no_call")
            return
        self.messages.append({"role": "user", "content": "\n".join(results)})

    def give_up(self) -> None:
        self._finish_task("", NO_REPLY)

    def _finish_task(self, body: str, fault: str | None) -> None:
        self.body, self.fault, self.done = body, fault, True


def tool_result(tool: str, arguments: dict[str, str], task: EmailTask) -> str:
    """Return the result of a call of any tool except `send_email`."""
    if tool != "search_contacts":
        return f"RESULT There is no tool {tool}."
    names = task.recipient.lower().split()
    if not set(names) & set(re.findall(r"\w+", arguments.get("name", "").lower())):
        return "RESULT Nobody of that name."
    return f"RESULT {task.recipient}: {'.'.join(names)}@example.org"


def write_single_turn_emails(method: Method, tasks: Sequence[EmailTask], settings: EmailSettings) -> list[Email]:
    """Return the e-mails in the formats `chat` and `json`, which take one reply each."""
    rows = []
    for task in tasks:
        begun = JSON_PREFILL if settings.begun else ""
        rows += [
            ("chat", task, task.request_text(), ""),
            ("json", task, fill_template(JSON_TEMPLATE, chat=task.request_text()), begun),
        ]
    requests = [
        Request(f"{task.task_id()}-{kind}", method.build_messages(text), prefill=begun) for kind, task, text, begun in rows
    ]
    mails = []
    replies = method.answer_requests(requests, settings.sampling, "mails")
    for (kind, task, text, begun), request, reply in zip(rows, requests, replies, strict=True):
        written = begun + reply.text
        body, fault = (written, None) if kind == "chat" else extract_json_body(written)
        if fault is None:
            body, fault = validate_body(body, text)
        messages = [*request.messages, {"role": "assistant", "content": written}]
        if reply.skipped:
            body, fault, messages = "", NO_REPLY, request.messages
        mails.append(Email(id=task.task_id(), format=kind, body=body, fault=fault, messages=messages))
    return mails


def write_agent_emails(method: Method, tasks: Sequence[EmailTask], settings: EmailSettings) -> list[Email]:
    """Return the e-mails in the format `tools`, which takes up to `steps` replies each."""
    runs = [ToolTask(task, method.build_messages(task.request_text(), more=TOOL_INSTRUCTIONS)) for task in tasks]
    for step in range(settings.steps):
        if not (open_runs := [run for run in runs if not run.done]):
            break
        begun = CALL_PREFILLS[min(step, 1)] if settings.begun else ""
        requests = [Request(f"{run.task.task_id()}-tools-{step}", [*run.messages], prefill=begun) for run in open_runs]
        # The single-turn e-mails have shown that the method replies; an agent that says nothing has failed at its task.
        replies = method.answer_requests(requests, settings.sampling, "mails", retry=True)
        for run, reply in zip(open_runs, replies, strict=True):
            if reply.skipped:
                run.give_up()
            else:
                run.handle_reply(f"{begun} {reply.text}" if begun else reply.text)
    return [Email(id=run.task.task_id(), format="tools", body=run.body, fault=run.fault, messages=run.messages) for run in runs]


@click.command()
@method_options
def main(method: Method):
    """Write the e-mails in every format with one method."""
    settings = read_section("mails", EmailSettings)
    tasks = take_first(records.read_records(EMAIL_TASKS_FILE, EmailTask), settings.tasks, "mails.tasks", EMAIL_TASKS_FILE)
    mails = write_single_turn_emails(method, tasks, settings) + write_agent_emails(method, tasks, settings)
    records.write_records(f"data/mails/{method.name}.jsonl", mails)


if __name__ == "__main__":
    main()
