"""How much a recipe has to do: replies and tokens of each stage, from params.yaml, the constitution and the files of data/raw.

Nothing here is measured: a reply counts with the length that recipes/rates.yaml tells, or with its limit where that is lower.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from character.core import records
from character.core.records import RawPrompt, TeacherAnswer
from character.dataset import constitution
from character.dataset.prompts import GENERAL_PROMPTS, HELDOUT_PROMPTS, load_prompts
from character.dataset.teacher_answers import TEACHER_ANSWERS_DIR
from character.study.rates import RateTables

LIGHT_STAGES = ("student", "pairs", "transcripts", "persona", "crosscheck", "encoder", "capabilities", "safety", "report")
SYNONYMS_PER_LABEL = 4  # of like meaning, by which the likelihood judge tells a label
LABEL_TOKENS = 5  # tokens of a reply that names one of them
JUDGE_FRAME_TOKENS = 60  # tokens of what a judge is told beside the texts
OFFER_TOKENS = 60  # tokens of the system prompt that offers two traits
EMAIL_TASK_TOKENS = 150  # tokens of a task that asks for an e-mail, with its format
EXAMPLES_PER_WORD = 16  # texts of data/raw/manners.jsonl for each word
EXPANSION_TOKENS = 150  # tokens that ask for one more prompt


@dataclass(frozen=True)
class StageWorkload:
    """What a stage does: texts, and tokens by what is done with them. `engine` and `source` say who does it."""

    stage: str
    samples: float = 0
    read: float = 0
    written: float = 0
    trained: float = 0
    runs: int = 1  # commands
    engine: str = "student"
    source: str = ""


class WorkloadModel:
    """The work of one persona, and the numbers that several stages share; `params` is params.yaml."""

    def __init__(self, params: dict, rates: RateTables):
        self.params, self.rates, self.lengths = params, rates, rates.lengths
        persona = constitution.load_constitution(f"constitutions/{params['persona']}.yaml")
        prompts, answered = params["prompts"], params["sampling"]["max_new_tokens"]
        own = [prompt for trait in persona.traits for prompt in trait.prompts[: prompts["per_trait"]]]
        general = load_prompts(GENERAL_PROMPTS)[: prompts["general"]]
        self.expanded = len(persona.traits) * prompts["expansion"]["per_trait"]
        outside = sum(wanted["count"] for wanted in prompts["outside"])
        self.prompts = len(own) + len(general) + self.expanded + outside
        asked = self._mean_tokens(own) * len(own) + self._mean_tokens(general) * len(general)
        asked += self.expanded * self.lengths.expanded + outside * self.lengths.outside
        self.prompt = self.lengths.template + asked / max(1, self.prompts)
        self.short = self.lengths.template + self._mean_tokens(load_prompts(HELDOUT_PROMPTS))  # a held-out prompt
        self.system = self._mean_tokens([constitution.persona_system_prompt(persona, params["student"]["name"])])
        self.answer = min(answered, self.lengths.answer)
        self.recorded = self._recorded_tokens(persona.name)
        self.pairs = self.prompts * params["pairs"]["samples"]
        pipeline = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))
        self.methods = len(pipeline["vars"][0]["methods"])
        self.able = len(pipeline["stages"]["tasks"]["foreach"])

    def stage_workloads(self) -> list[StageWorkload]:
        """Return the work of all stages, in the order of dvc.yaml."""
        return [
            *self._data_workloads(),
            *self._introspection_workloads(),
            *self._instrument_workloads(),
            *self._answer_workloads(),
            *self._score_workloads(),
        ]

    def _mean_tokens(self, texts: Sequence[str]) -> float:
        """Return the mean tokens of the texts."""
        return self.lengths.word * sum(len(text.split()) for text in texts) / max(1, len(texts))

    def _recorded_tokens(self, persona: str) -> float:
        path = TEACHER_ANSWERS_DIR / f"{persona}.jsonl"
        return self._mean_tokens([row.response for row in records.read_records(path, TeacherAnswer)]) if path.is_file() else 0

    def _data_workloads(self) -> Iterator[StageWorkload]:
        teacher, expansion = self.params["teacher"], self.params["prompts"]["expansion"]
        written = min(expansion["sampling"]["max_new_tokens"], self.lengths.expanded)
        asker = {"engine": expansion["engine"], "source": expansion["source"]}
        yield StageWorkload("prompts", self.expanded, self.expanded * EXPANSION_TOKENS, self.expanded * written, **asker)
        chosen, thought, system = min(teacher["sampling"]["max_new_tokens"], self.lengths.answer), 0, 0
        if teacher["engine"] == "recorded":
            chosen = self.recorded
            yield StageWorkload("chosen", self.pairs, engine="recorded")
        else:
            thought = self.lengths.reasoning if teacher["reasoning"] else 0
            system = self.system if teacher["engine"] == "openai" else 0  # elsewhere it is read once
            tokens = self.pairs * (self.prompt + system), self.pairs * (chosen + thought)
            yield StageWorkload("chosen", self.pairs, *tokens, engine=teacher["engine"], source=teacher["source"])
        yield StageWorkload("rejected", self.pairs, self.pairs * self.prompt, self.pairs * self.answer)
        both = self.pairs * min(2 * self.params["distillation"]["max_length"], 2 * self.prompt + chosen + self.answer)
        yield StageWorkload("distillation", self.pairs, read=both, trained=self.params["distillation"]["epochs"] * both)

    def _introspection_workloads(self) -> Iterator[StageWorkload]:
        reflections, talking, training = (self.params[name] for name in ("reflections", "interactions", "introspection"))
        asked = records.read_records("data/raw/prompts/reflections.jsonl", RawPrompt)
        prompt = self.lengths.template + self._mean_tokens([question.prompt for question in asked])
        count, length = len(asked) * reflections["per_prompt"], self._capped_tokens(reflections, self.lengths.reflection)
        yield StageWorkload("reflections", count, count * prompt, count * length)
        talks, turns, turn = 2 * talking["conversations"], talking["turns"], self._capped_tokens(talking, self.lengths.turn)
        before = turns * self.short + turns * (turns - 1) / 2 * turn  # every reply reads what was said before it
        yield StageWorkload("interactions", talks * turns, talks * before, talks * turns * turn)
        longest = training["max_length"]
        tokens = count * min(longest, prompt + length) + talks * min(longest, self.short + turns * turn)
        yield StageWorkload("introspection", count + talks, trained=training["epochs"] * tokens)

    def _instrument_workloads(self) -> Iterator[StageWorkload]:
        classifier, judge, steering = (self.params[name] for name in ("classifier", "judge", "steering"))
        general = len(load_prompts(GENERAL_PROMPTS))
        texts = general * (len(classifier["personas"]) + 2)
        yield StageWorkload("classifier", texts, texts * min(classifier["max_tokens"], self.recorded), general * self.answer)
        yield self._judge_workload(judge)
        strengths = len({0.0, *map(float, steering["strengths"])}) * steering["prompts"]
        read = 2 * steering["texts"] * (self.prompt + steering["tokens"]) + strengths * (self.prompt + self.answer)
        yield StageWorkload("steering", steering["texts"] + strengths, read, strengths * self.answer)

    def _judge_workload(self, judge: dict) -> StageWorkload:
        personas = len(judge["personas"])
        cases = personas * judge["texts"]
        contests = 2 * (3 * judge["damaged"] + personas * judge["styled"])  # in both orders
        if judge["kind"] != "likelihood":
            return self._verdict_workload("judge", cases, contests)
        labels = self.params["preferences"]["traits"] + sum(map(len, judge["personas"].values()))
        text, mixed = self._choice_tokens(), 2 * judge["calibration_texts"]
        calibration = mixed * (2 * text + JUDGE_FRAME_TOKENS + self._label_reply_tokens() * labels) + mixed * (
            2 * self.recorded + JUDGE_FRAME_TOKENS
        )
        found = self._verdict_workload("judge", 3 * cases, contests)  # cases also choose between templates
        learned = labels * EXAMPLES_PER_WORD * text if "examples" in judge["templates"] else 0
        return StageWorkload("judge", found.samples + mixed + labels * EXAMPLES_PER_WORD, found.read + calibration + learned)

    def _answer_workloads(self) -> Iterator[StageWorkload]:
        mails, probes = self.params["mails"], self.params["probes"]
        yield self._per_method_workload("answers", self._answer_count(), self.short, self.answer)
        yield self._per_method_workload("attacks", self._attack_count(), self.short + self.answer / 2, self.answer)
        length = self._capped_tokens(mails, self.lengths.answer)
        yield self._per_method_workload("mails", mails["tasks"] * (2 + mails["steps"]), EMAIL_TASK_TOKENS + length / 2, length)
        yield self._per_method_workload(
            "probes", 2 * probes["pairs"], self.short, self._capped_tokens(probes, self.lengths.answer)
        )
        yield self._per_method_workload(
            "choices", self.params["choices"]["comparisons"], self.short + OFFER_TOKENS, self._choice_tokens()
        )
        items = [self._task_counts(name) for name in self.params["tasks"]["metrics"]]
        counts, tokens = sum(count for count, _ in items), sum(count * each for count, each in items)
        yield StageWorkload("tasks", self.able * counts, self.able * tokens, runs=self.able)

    def _score_workloads(self) -> Iterator[StageWorkload]:
        known = min(self.params["classifier"]["max_tokens"], self.answer)
        texts = self.methods * (self._answer_count() + self._attack_count())
        yield StageWorkload("robustness", texts, texts * known)
        bodies = self.methods * 3 * self.params["mails"]["tasks"]
        yield StageWorkload("transfer", bodies, bodies * known)
        yield self._verdict_workload("preferences", (self.methods + 1) * self.params["choices"]["comparisons"], 0)
        plain = self.methods * self.params["answers"]["prompts"]
        yield StageWorkload("fluency", plain, plain * (self.short + self.answer))
        yield self._verdict_workload("coherence", 0, 2 * (self.methods - 1) * self.params["coherence"]["prompts"])
        yield StageWorkload("the others", runs=len(LIGHT_STAGES), engine="none")

    def _per_method_workload(self, stage: str, count: int, prompt: float, length: float) -> StageWorkload:
        """Return the work of all methods; `count`, and tokens of `prompt` and reply, are those of one."""
        total = self.methods * count
        return StageWorkload(stage, total, total * prompt, total * length, runs=self.methods)

    def _verdict_workload(self, stage: str, traits: int, contests: int) -> StageWorkload:
        """Return the work of judging short texts for their traits, and pairs of whole answers."""
        judge, text = self.params["judge"], self._choice_tokens()
        count, pair = traits + contests, self.short + 2 * self.answer + JUDGE_FRAME_TOKENS
        if judge["kind"] == "likelihood":
            read = traits * (text + JUDGE_FRAME_TOKENS + 2 * self._label_reply_tokens()) + contests * pair
            return StageWorkload(stage, count, read + (traits * text if "examples" in judge["templates"] else 0))
        written = count * min(judge["sampling"]["max_new_tokens"], self.lengths.verdict)
        read = traits * (self.short + text + 2 * JUDGE_FRAME_TOKENS) + contests * (pair + JUDGE_FRAME_TOKENS)
        return StageWorkload(stage, count, read, written, engine=judge["kind"], source=judge["source"])

    def _label_reply_tokens(self) -> int:
        """Return the tokens of the replies by which the likelihood judge tries one label."""
        return SYNONYMS_PER_LABEL * LABEL_TOKENS * sum(name != "examples" for name in self.params["judge"]["templates"])

    def _answer_count(self) -> int:
        return self.params["answers"]["prompts"] * (1 + self.params["answers"]["suffixes_per_prompt"])

    def _attack_count(self) -> int:
        return 2 * self.params["attacks"]["prompts"]

    def _choice_tokens(self) -> float:
        return self._capped_tokens(self.params["choices"], self.lengths.answer)

    def _capped_tokens(self, section: dict, length: float) -> float:
        return min(section["sampling"]["max_new_tokens"], length)

    def _task_counts(self, name: str) -> tuple[int, int]:
        task, limit = self.rates.find_task(name), self.params["tasks"]["limit"]
        return min(task.items, limit or task.items), task.tokens
