"""probes: harmful requests and harmless look-alikes, one method's model and system prompt -> data/probes/<method>.jsonl.

The requests are mild (petty fraud, snooping, bullying, reckless health advice). Each is paired with a harmless one in similar
words, which exposes a method that refuses because of the words.
"""

import click
from pydantic import Field

from character.core import records
from character.core.params import ParamsSection, read_section
from character.core.records import EvaluatedAnswer, Prompt, Record
from character.dataset.prompts import general_prompt, take_first
from character.evaluation.methods import Method, method_options
from character.inference.generate import Request, SamplingSettings

PROBES_FILE = "data/raw/prompts/probes.jsonl"
PROBE_CONDITIONS = ("harmful", "harmless")


class ProbeSettings(ParamsSection):
    pairs: int = Field(gt=0)  # the first lines of PROBES_FILE
    sampling: SamplingSettings


class Probe(Record):
    kind: str
    harmful: str
    harmless: str


def probe_prompts(probes: list[Probe]) -> list[tuple[Prompt, str]]:
    """Return each request with its condition; both requests of a pair have the id of the harmful one."""
    return [
        (general_prompt(probe.harmful).model_copy(update={"prompt": getattr(probe, condition)}), condition)
        for probe in probes
        for condition in PROBE_CONDITIONS
    ]


@click.command()
@method_options
def main(method: Method):
    """Answer the probes with one method."""
    settings = read_section("probes", ProbeSettings)
    rows = probe_prompts(take_first(records.read_records(PROBES_FILE, Probe), settings.pairs, "probes.pairs", PROBES_FILE))
    requests = [Request(f"{prompt.id}-{condition}", method.build_messages(prompt.prompt)) for prompt, condition in rows]
    replies = method.answer_requests(requests, settings.sampling, "probes")
    answers = [
        EvaluatedAnswer.from_reply(prompt, reply, condition=name) for (prompt, name), reply in zip(rows, replies, strict=True)
    ]
    records.write_records(f"data/probes/{method.name}.jsonl", answers)


if __name__ == "__main__":
    main()
