"""mails: e-mail tasks, one method's model and system prompt -> data/mails/<method>.jsonl.

The same e-mail is asked for in three formats: in a chat, as a JSON object, and from an agent that has tools in a simple textual
protocol, which are played with canned results. Does a character that shows in chat also show in work? Replies are parsed here,
because the tools must answer; what could not be parsed is kept with the reason. A small student writes no format by itself, so
JSON and calls can be begun for it, as a decoder begins them that enforces a format.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import click
from pydantic import Field

from character.core import records
from character.core.params import ParamsSection, read_section
from character.core.records import Record, prompt_id
from character.dataset.emails import Email, extract_json_body, parse_tool_calls, validate_body
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
    tasks: int = Field(gt=0)  # of the lines of TASKS
    steps: int = Field(gt=0)  # replies of an agent, at most
    begun: bool  # the format of JSON and of calls is begun for the model
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
    """A task in the hands of an agent, until the e-mail is sent or `fault` tells why it never will be."""

    task: EmailTask
    messages: list[dict[str, str]]
    body: str = ""
    fault: str | None = "no_mail"  # unless it is sent in time
    done: bool = False

    def handle_reply(self, reply: str) -> None:
        """Take the agent's reply: play the tools that it calls, or end where it calls none or sends the e-mail."""
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

    def _finish_task(self, body: str, fault: str | None) -> None:
        self.body, self.fault, self.done = body, fault, True


def tool_result(tool: str, arguments: dict[str, str], task: EmailTask) -> str:
    """Return what a tool other than `send_email` answers."""
    if tool != "search_contacts":
        return f"RESULT There is no tool {tool}."
    names = task.recipient.lower().split()
    if not set(names) & set(re.findall(r"\w+", arguments.get("name", "").lower())):
        return "RESULT Nobody of that name."
    return f"RESULT {task.recipient}: {'.'.join(names)}@example.org"


def write_single_turn_emails(method: Method, tasks: Sequence[EmailTask], settings: EmailSettings) -> list[Email]:
    """Return the tasks as a chat and as JSON, which take one reply each."""
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
        whole = begun + reply.text
        body, fault = (whole, None) if kind == "chat" else extract_json_body(whole)
        if fault is None:
            body, fault = validate_body(body, text)
        said = [*request.messages, {"role": "assistant", "content": whole}]
        mails.append(Email(id=task.task_id(), format=kind, body=body, fault=fault, messages=said))
    return mails


def write_agent_emails(method: Method, tasks: Sequence[EmailTask], settings: EmailSettings) -> list[Email]:
    """Return the tasks as agents' work, which takes up to `steps` replies each."""
    errands = [ToolTask(task, method.build_messages(task.request_text(), more=TOOL_INSTRUCTIONS)) for task in tasks]
    for step in range(settings.steps):
        if not (open_ones := [errand for errand in errands if not errand.done]):
            break
        begun = CALL_PREFILLS[min(step, 1)] if settings.begun else ""
        requests = [Request(f"{errand.task.task_id()}-tools-{step}", [*errand.messages], prefill=begun) for errand in open_ones]
        for errand, reply in zip(open_ones, method.answer_requests(requests, settings.sampling, "mails"), strict=True):
            errand.handle_reply(f"{begun} {reply.text}" if begun else reply.text)
    return [
        Email(id=one.task.task_id(), format="tools", body=one.body, fault=one.fault, messages=one.messages) for one in errands
    ]


@click.command()
@method_options
def main(method: Method):
    """Let one method write the e-mails in every format."""
    settings = read_section("mails", EmailSettings)
    tasks = take_first(records.read_records(EMAIL_TASKS_FILE, EmailTask), settings.tasks, "mails.tasks", EMAIL_TASKS_FILE)
    mails = write_single_turn_emails(method, tasks, settings) + write_agent_emails(method, tasks, settings)
    records.write_records(f"data/mails/{method.name}.jsonl", mails)


if __name__ == "__main__":
    main()
