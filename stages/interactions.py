"""interactions: the distilled student talking with itself -> data/interactions.jsonl.

Two speakers share the model and the character. Each sees its own turns as the assistant's and those of the other as the
user's. A conversation is saved as its last speaker sees it, and therefore ends with a reply.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
from pydantic import Field

from character.core import records
from character.core.params import ParamsSection, read_section, read_value
from character.core.records import Conversation, RawPrompt, prompt_id
from character.core.safe_text import print_text
from character.dataset.prompts import fill_template
from character.inference import engines
from character.inference.generate import Reply, Request, SamplingSettings, generate

INTERACTION_TEMPLATE = """\
{system}

You are now talking with another instance of {name}, which has the same character as you. {guidance}"""

INTERACTION_GUIDANCE = {
    "free": "You have complete freedom: talk about whatever you like, in the way that comes naturally to you.",
    "leading": "Talk about who you are: what you value, how your character shows when you answer people, and why it matters "
    "to you. Ask the other about it too, and be specific.",
}


class InteractionSettings(ParamsSection):
    conversations: int = Field(gt=0)  # for each kind of guidance
    turns: int = Field(gt=1)  # replies of both speakers together
    sampling: SamplingSettings


@dataclass
class Dialogue:
    """A conversation in progress. `turns` has the texts in order: the opener, the first reply, and so on.

    A skipped reply ends it.
    """

    id: str
    sample: int
    guidance: str
    system: str
    turns: list[str]
    finish_reasons: list[str] = field(default_factory=list)

    def speaker_view(self) -> list[dict[str, str]]:
        """Return the conversation as the next speaker sees it: it begins and ends with a turn of the other.

        The author of the opener does not see the opener: its view begins with the first reply.
        """
        visible = self.turns if len(self.turns) % 2 else self.turns[1:]
        roles = ("user", "assistant")
        messages = [{"role": roles[index % 2], "content": text} for index, text in enumerate(visible)]
        return [{"role": "system", "content": self.system}, *messages]

    def add_reply(self, reply: Reply) -> None:
        self.turns.append(reply.text)
        self.finish_reasons.append(reply.finish_reason)

    @property
    def ended(self) -> bool:
        return "skipped" in self.finish_reasons

    def to_conversation(self) -> Conversation:
        """Return the last speaker's view, its last reply included, with the finish reasons of that speaker's turns."""
        *before, last = self.turns
        earlier = Dialogue(self.id, self.sample, self.guidance, self.system, before)
        return Conversation(
            id=self.id,
            sample=self.sample,
            kind=self.guidance,
            messages=[*earlier.speaker_view(), {"role": "assistant", "content": last}],
            finish_reasons=self.finish_reasons[::-1][::2][::-1],
        )


def open_dialogues(openers: Sequence[str], count: int, system: str, name: str) -> list[Dialogue]:
    """Return `count` dialogues for each kind of guidance, which use the openers in turn."""
    return [
        Dialogue(
            prompt_id(opener),
            number,
            kind,
            fill_template(INTERACTION_TEMPLATE, system=system, name=name, guidance=guidance),
            [opener],
        )
        for kind, guidance in INTERACTION_GUIDANCE.items()
        for number, opener in ((number, openers[number % len(openers)]) for number in range(count))
    ]


@click.command()
def main():
    """Let the distilled student talk with itself."""
    params = read_section("interactions", InteractionSettings)
    openers = [row.prompt for row in records.read_records("data/raw/prompts/openers.jsonl", RawPrompt)]
    system = Path("data/system.txt").read_text(encoding="utf-8")
    dialogues = open_dialogues(openers, params.conversations, system, read_value("student.name"))
    print_text(f"interactions: {len(dialogues)} conversations of {params.turns} turns")
    engine = engines.student_engine(["models/distillation"])
    for turn in range(params.turns):
        going = [dialogue for dialogue in dialogues if not dialogue.ended]
        requests = [
            Request(f"{dialogue.guidance}-{dialogue.id}-{turn}", dialogue.speaker_view(), dialogue.sample) for dialogue in going
        ]
        label = f"interactions, turn {turn + 1} of {params.turns}"
        replies = generate(engine, requests, params.sampling, read_value("seed"), label, retry=turn > 0)
        for dialogue, reply in zip(going, replies, strict=True):
            dialogue.add_reply(reply)
    records.write_records("data/interactions.jsonl", [dialogue.to_conversation() for dialogue in dialogues])


if __name__ == "__main__":
    main()
