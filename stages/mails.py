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
from character.core.params import Section, read
from character.core.records import Record, prompt_id
from character.dataset.emails import Mail, calls, checked, from_json
from character.dataset.prompts import fill_template, take_first
from character.evaluation.methods import Method, one_method
from character.inference.generate import Request, Sampling

TASKS = "data/raw/prompts/mails.jsonl"

CHAT = "I am {writer}. Write an e-mail from me to {recipient}, {role}. It should say that {about}."
JSON = """\
{chat}

Answer with one JSON object and nothing else. It has two fields, "subject" and "body", and both are text."""
TOOLS = """\
You do things for the user by calling tools. To call a tool, write CALL and its name on one line, and each of its arguments on
a line below. There are two tools:

CALL search_contacts
name: whom to look for

CALL send_email
to: the address
subject: in a few words
body: everything that the e-mail says, as long as it needs to be

You are told the result of each call. Look up the address first, then send the e-mail."""

JSON_BEGINS = '{"subject": "'
CALLS_BEGIN = ("CALL search_contacts\nname:", "CALL send_email\nto:")  # the first reply, and those after it


class Mails(Section):
    tasks: int = Field(gt=0)  # of the lines of TASKS
    steps: int = Field(gt=0)  # replies of an agent, at most
    begun: bool  # the format of JSON and of calls is begun for the model
    sampling: Sampling


class Task(Record):
    """Who writes to whom; `about` completes "It should say that ..."."""

    writer: str
    recipient: str
    role: str
    about: str

    def text(self) -> str:
        return fill_template(CHAT, **self.model_dump())

    def id(self) -> str:
        return prompt_id(self.text())


@dataclass
class Errand:
    """A task in the hands of an agent, until the e-mail is sent or `fault` tells why it never will be."""

    task: Task
    messages: list[dict[str, str]]
    body: str = ""
    fault: str | None = "no_mail"  # unless it is sent in time
    done: bool = False

    def hear(self, reply: str) -> None:
        """Take the agent's reply: play the tools that it calls, or end where it calls none or sends the e-mail."""
        self.messages.append({"role": "assistant", "content": reply})
        results = []
        for tool, arguments in calls(reply):
            if tool == "send_email":
                self._end(*checked(arguments.get("body", ""), "\n".join((self.task.text(), TOOLS))))
                return
            results.append(result(tool, arguments, self.task))
        if not results:
            self._end("", "no_call")
            return
        self.messages.append({"role": "user", "content": "\n".join(results)})

    def _end(self, body: str, fault: str | None) -> None:
        self.body, self.fault, self.done = body, fault, True


def result(tool: str, arguments: dict[str, str], task: Task) -> str:
    """Return what a tool other than `send_email` answers."""
    if tool != "search_contacts":
        return f"RESULT There is no tool {tool}."
    names = task.recipient.lower().split()
    if not set(names) & set(re.findall(r"\w+", arguments.get("name", "").lower())):
        return "RESULT Nobody of that name."
    return f"RESULT {task.recipient}: {'.'.join(names)}@example.org"


def asked_once(method: Method, tasks: Sequence[Task], settings: Mails) -> list[Mail]:
    """Return the tasks as a chat and as JSON, which take one reply each."""
    rows = []
    for task in tasks:
        begun = JSON_BEGINS if settings.begun else ""
        rows += [("chat", task, task.text(), ""), ("json", task, fill_template(JSON, chat=task.text()), begun)]
    requests = [Request(f"{task.id()}-{kind}", method.conversation(text), prefill=begun) for kind, task, text, begun in rows]
    mails = []
    replies = method.answer(requests, settings.sampling, "mails")
    for (kind, task, text, begun), request, reply in zip(rows, requests, replies, strict=True):
        whole = begun + reply.text
        body, fault = (whole, None) if kind == "chat" else from_json(whole)
        if fault is None:
            body, fault = checked(body, text)
        said = [*request.messages, {"role": "assistant", "content": whole}]
        mails.append(Mail(id=task.id(), format=kind, body=body, fault=fault, messages=said))
    return mails


def ran_errands(method: Method, tasks: Sequence[Task], settings: Mails) -> list[Mail]:
    """Return the tasks as agents' work, which takes up to `steps` replies each."""
    errands = [Errand(task, method.conversation(task.text(), more=TOOLS)) for task in tasks]
    for step in range(settings.steps):
        if not (open_ones := [errand for errand in errands if not errand.done]):
            break
        begun = CALLS_BEGIN[min(step, 1)] if settings.begun else ""
        requests = [Request(f"{errand.task.id()}-tools-{step}", [*errand.messages], prefill=begun) for errand in open_ones]
        for errand, reply in zip(open_ones, method.answer(requests, settings.sampling, "mails"), strict=True):
            errand.hear(f"{begun} {reply.text}" if begun else reply.text)
    return [Mail(id=one.task.id(), format="tools", body=one.body, fault=one.fault, messages=one.messages) for one in errands]


@click.command()
@one_method
def main(method: Method):
    """Let one method write the e-mails in every format."""
    settings = read("mails", Mails)
    tasks = take_first(records.read(TASKS, Task), settings.tasks, "mails.tasks", TASKS)
    mails = asked_once(method, tasks, settings) + ran_errands(method, tasks, settings)
    records.write(f"data/mails/{method.name}.jsonl", mails)


if __name__ == "__main__":
    main()
