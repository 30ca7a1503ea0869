"""The workload of a recipe: samples and tokens of each stage, from params.yaml, the constitution and the files of data/raw.

Nothing here is measured: the length of a reply is that of recipes/rates.yaml, or its limit if lower.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from character.core import records
from character.core.records import RawPrompt, TeacherAnswer
from character.dataset import constitution
from character.dataset.prompts import GENERAL_PROMPTS, HELDOUT_PROMPTS, load_prompts
from character.dataset.segmentation import count_words
from character.dataset.teacher_answers import TEACHER_ANSWERS_DIR
from character.study.rates import RateTables

LIGHT_STAGES = (
    "code",
    "selection",
    "student",
    "pairs",
    "transcripts",
    "persona",
    "crosscheck",
    "encoder",
    "capabilities",
    "safety",
    "report",
)
SYNONYMS_PER_LABEL = 4  # replies of the same meaning that the likelihood judge tries for each label
LABEL_TOKENS = 5  # tokens of a reply that names one of them
JUDGE_FRAME_TOKENS = 60  # tokens of a judge's prompt besides the texts
OFFER_TOKENS = 60  # tokens of the system prompt that offers two traits
EMAIL_TASK_TOKENS = 150  # tokens of a task that asks for an e-mail, with its format
EXAMPLES_PER_WORD = 16  # texts in data/raw/manners.jsonl for each word
EXPANSION_TOKENS = 150  # tokens of the request for one more prompt


@dataclass(frozen=True)
class StageWorkload:
    """The texts of a stage and the tokens that are read, written and trained on; `engine` and `source` name the model."""

    stage: str
    samples: float = 0
    read: float = 0
    written: float = 0
    trained: float = 0
    runs: int = 1  # commands, each with its own start
    engine: str = "student"
    source: str = ""


class WorkloadModel:
    """The workload of one persona; the attributes are counts and mean tokens that several stages share."""

    def __init__(self, params: dict, rates: RateTables):
        self.params, self.rates, self.lengths = params, rates, rates.lengths
        persona = constitution.load_constitution(f"constitutions/{params['persona']}.yaml")
        prompts, answer_limit = params["prompts"], params["sampling"]["max_new_tokens"]
        own = [prompt for trait in persona.traits for prompt in trait.prompts[: prompts["per_trait"]]]
        general = load_prompts(GENERAL_PROMPTS)[: prompts["general"]]
        self.expanded_prompts = len(persona.traits) * prompts["expansion"]["per_trait"]
        outside = sum(source["count"] for source in prompts["outside"])
        self.prompt_count = len(own) + len(general) + self.expanded_prompts + outside
        tokens = self._mean_tokens(own) * len(own) + self._mean_tokens(general) * len(general)
        tokens += self.expanded_prompts * self.lengths.expanded + outside * self.lengths.outside
        self.prompt_tokens = self.lengths.template + tokens / max(1, self.prompt_count)
        self.heldout_tokens = self.lengths.template + self._mean_tokens(load_prompts(HELDOUT_PROMPTS))
        self.system_tokens = self._mean_tokens([constitution.persona_system_prompt(persona, params["student"]["name"])])
        self.answer_tokens = min(answer_limit, self.lengths.answer)
        self.recorded_tokens = self._recorded_tokens(persona.name)
        self.pair_count = self.prompt_count * params["pairs"]["samples"]
        pipeline = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))
        self.method_count = len(pipeline["vars"][0]["methods"])
        self.task_method_count = len(pipeline["stages"]["tasks"]["foreach"])

    def stage_workloads(self) -> list[StageWorkload]:
        """Return the workload of all stages, in the order of dvc.yaml."""
        return [
            *self._data_workloads(),
            *self._introspection_workloads(),
            *self._instrument_workloads(),
            *self._answer_workloads(),
            *self._score_workloads(),
        ]

    def _mean_tokens(self, texts: Sequence[str]) -> float:
        """Return the estimated mean tokens of the texts."""
        return self.lengths.word * sum(map(count_words, texts)) / max(1, len(texts))

    def _recorded_tokens(self, persona: str) -> float:
        path = TEACHER_ANSWERS_DIR / f"{persona}.jsonl"
        return self._mean_tokens([row.response for row in records.read_records(path, TeacherAnswer)]) if path.is_file() else 0

    def _data_workloads(self) -> Iterator[StageWorkload]:
        teacher, expansion = self.params["teacher"], self.params["prompts"]["expansion"]
        written = min(expansion["sampling"]["max_new_tokens"], self.lengths.expanded)
        writer = {"engine": expansion["engine"], "source": expansion["source"]}
        yield StageWorkload(
            "prompts",
            self.expanded_prompts,
            self.expanded_prompts * EXPANSION_TOKENS,
            self.expanded_prompts * written,
            **writer,
        )
        chosen, thought, system = min(teacher["sampling"]["max_new_tokens"], self.lengths.answer), 0, 0
        if teacher["engine"] == "recorded":
            chosen = self.recorded_tokens
            yield StageWorkload("chosen", self.pair_count, engine="recorded")
        else:
            thought = self.lengths.reasoning if teacher["reasoning"] else 0
            system = self.system_tokens if teacher["engine"] == "openai" else 0  # other engines read it once
            tokens = self.pair_count * (self.prompt_tokens + system), self.pair_count * (chosen + thought)
            yield StageWorkload("chosen", self.pair_count, *tokens, engine=teacher["engine"], source=teacher["source"])
        yield StageWorkload(
            "rejected", self.pair_count, self.pair_count * self.prompt_tokens, self.pair_count * self.answer_tokens
        )
        both = self.pair_count * min(
            2 * self.params["distillation"]["max_length"], 2 * self.prompt_tokens + chosen + self.answer_tokens
        )
        yield StageWorkload("distillation", self.pair_count, read=both, trained=self.params["distillation"]["epochs"] * both)

    def _introspection_workloads(self) -> Iterator[StageWorkload]:
        reflections, talking, training = (self.params[name] for name in ("reflections", "interactions", "introspection"))
        questions = records.read_records("data/raw/prompts/reflections.jsonl", RawPrompt)
        prompt = self.lengths.template + self._mean_tokens([question.prompt for question in questions])
        count, length = len(questions) * reflections["per_prompt"], self._capped_tokens(reflections, self.lengths.reflection)
        yield StageWorkload("reflections", count, count * prompt, count * length)
        talks, turns, turn = 2 * talking["conversations"], talking["turns"], self._capped_tokens(talking, self.lengths.turn)
        before = turns * self.heldout_tokens + turns * (turns - 1) / 2 * turn  # every reply reads all turns before it
        yield StageWorkload("interactions", talks * turns, talks * before, talks * turns * turn)
        longest = training["max_length"]
        tokens = count * min(longest, prompt + length) + talks * min(longest, self.heldout_tokens + turns * turn)
        yield StageWorkload("introspection", count + talks, trained=training["epochs"] * tokens)

    def _instrument_workloads(self) -> Iterator[StageWorkload]:
        classifier, judge, steering = (self.params[name] for name in ("classifier", "judge", "steering"))
        general = len(load_prompts(GENERAL_PROMPTS))
        texts = general * (len(classifier["personas"]) + 2)
        yield StageWorkload(
            "classifier", texts, texts * min(classifier["max_tokens"], self.recorded_tokens), general * self.answer_tokens
        )
        yield self._judge_workload(judge)
        strengths = len({0.0, *map(float, steering["strengths"])}) * steering["prompts"]
        read = 2 * steering["texts"] * (self.prompt_tokens + steering["tokens"]) + strengths * (
            self.prompt_tokens + self.answer_tokens
        )
        yield StageWorkload("steering", steering["texts"] + strengths, read, strengths * self.answer_tokens)

    def _judge_workload(self, judge: dict) -> StageWorkload:
        personas = len(judge["personas"])
        cases = personas * judge["texts"]
        contests = 2 * (3 * judge["damaged"] + personas * judge["styled"])  # in both orders
        if judge["kind"] != "likelihood":
            return self._verdict_workload("judge", cases, contests)
        labels = self.params["preferences"]["traits"] + sum(map(len, judge["personas"].values()))
        text, mixed = self._choice_tokens(), 2 * judge["calibration_texts"]
        calibration = mixed * (2 * text + JUDGE_FRAME_TOKENS + self._label_reply_tokens() * labels) + mixed * (
            2 * self.recorded_tokens + JUDGE_FRAME_TOKENS
        )
        verdicts = self._verdict_workload("judge", 3 * cases, contests)  # the cases also select the templates
        learned = labels * EXAMPLES_PER_WORD * text if "examples" in judge["templates"] else 0
        return StageWorkload(
            "judge", verdicts.samples + mixed + labels * EXAMPLES_PER_WORD, verdicts.read + calibration + learned
        )

    def _answer_workloads(self) -> Iterator[StageWorkload]:
        mails, probes = self.params["mails"], self.params["probes"]
        yield self._per_method_workload("answers", self._answer_count(), self.heldout_tokens, self.answer_tokens)
        yield self._per_method_workload(
            "attacks", self._attack_count(), self.heldout_tokens + self.answer_tokens / 2, self.answer_tokens
        )
        length = self._capped_tokens(mails, self.lengths.answer)
        yield self._per_method_workload("mails", mails["tasks"] * (2 + mails["steps"]), EMAIL_TASK_TOKENS + length / 2, length)
        yield self._per_method_workload(
            "probes", 2 * probes["pairs"], self.heldout_tokens, self._capped_tokens(probes, self.lengths.answer)
        )
        yield self._per_method_workload(
            "choices", self.params["choices"]["comparisons"], self.heldout_tokens + OFFER_TOKENS, self._choice_tokens()
        )
        items = [self._task_counts(name) for name in self.params["tasks"]["metrics"]]
        counts, tokens = sum(count for count, _ in items), sum(count * each for count, each in items)
        yield StageWorkload(
            "tasks", self.task_method_count * counts, self.task_method_count * tokens, runs=self.task_method_count
        )

    def _score_workloads(self) -> Iterator[StageWorkload]:
        known = min(self.params["classifier"]["max_tokens"], self.answer_tokens)
        texts = self.method_count * (self._answer_count() + self._attack_count())
        yield StageWorkload("robustness", texts, texts * known)
        bodies = self.method_count * 3 * self.params["mails"]["tasks"]
        yield StageWorkload("transfer", bodies, bodies * known)
        yield self._verdict_workload("preferences", (self.method_count + 1) * self.params["choices"]["comparisons"], 0)
        plain = self.method_count * self.params["answers"]["prompts"]
        yield StageWorkload("fluency", plain, plain * (self.heldout_tokens + self.answer_tokens))
        yield self._verdict_workload("coherence", 0, 2 * (self.method_count - 1) * self.params["coherence"]["prompts"])
        yield StageWorkload("the others", runs=len(LIGHT_STAGES), engine="none")

    def _per_method_workload(self, stage: str, count: int, prompt: float, length: float) -> StageWorkload:
        """Return the workload of all methods; `count`, and the tokens of `prompt` and reply, are those of one method."""
        total = self.method_count * count
        return StageWorkload(stage, total, total * prompt, total * length, runs=self.method_count)

    def _verdict_workload(self, stage: str, traits: int, contests: int) -> StageWorkload:
        """Return the workload of judging the traits of short texts and the coherence of pairs of answers."""
        judge, text = self.params["judge"], self._choice_tokens()
        count, pair = traits + contests, self.heldout_tokens + 2 * self.answer_tokens + JUDGE_FRAME_TOKENS
        if judge["kind"] == "likelihood":
            read = traits * (text + JUDGE_FRAME_TOKENS + 2 * self._label_reply_tokens()) + contests * pair
            return StageWorkload(stage, count, read + (traits * text if "examples" in judge["templates"] else 0))
        written = count * min(judge["sampling"]["max_new_tokens"], self.lengths.verdict)
        read = traits * (self.heldout_tokens + text + 2 * JUDGE_FRAME_TOKENS) + contests * (pair + JUDGE_FRAME_TOKENS)
        return StageWorkload(stage, count, read, written, engine=judge["kind"], source=judge["source"])

    def _label_reply_tokens(self) -> int:
        """Return the tokens of all replies that the likelihood judge tries for one label."""
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
