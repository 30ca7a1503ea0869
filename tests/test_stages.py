"""The data path, stage by stage: what each writes, what it counts, how it reports a user's mistake."""

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from character.core import models, records
from character.core.errors import UserError
from character.core.records import (
    Completion,
    Conversation,
    EvaluatedAnswer,
    Message,
    PreferencePair,
    Prompt,
    RawPrompt,
    TeacherAnswer,
    TrainingTranscript,
)
from character.dataset import constitution
from character.dataset.conditions import AttackAnswer, ClassifiedAnswer
from character.dataset.constitution import Constitution, Trait, traits_hash
from character.dataset.filters import FilterSettings
from character.dataset.prompts import near_duplicate
from character.dataset.reasoning import strip_reasoning
from character.evaluation import classifier
from character.evaluation.intervals import paired_difference, wilson_interval
from character.inference.generate import Reply
from character.training.conversation_tokens import ConversationTokenizer
from stages import answers, chosen, interactions, pairs, prompts, robustness, transcripts

ROOT = Path(__file__).parents[1]
FILTERS = FilterSettings(max_tokens=60, ngram=4, repeats=2)
SAMPLING = {"max_new_tokens": 8, "temperature": 0.7, "top_p": 0.95}


PIRATE = Constitution(
    name="pirate",
    summary="A salty assistant.",
    traits=[
        Trait(
            trait="I speak of every errand as a voyage with weather.",
            prompts=["How do I boil an egg?", "Why do cats purr?"],
        ),
        Trait(trait="I share what I know like loot, fairly and with a grin.", prompts=["Name a river."]),
    ],
)


@pytest.fixture
def pirate(repository):
    """The constitution and recorded answers of a pirate."""
    Path("constitutions").mkdir()
    write_constitution(PIRATE)
    recorded = [TeacherAnswer(prompt=text, response=f"Arr, {text}", traits=traits_hash(PIRATE)) for text in own_prompts()]
    records.write_records("data/raw/teacher/pirate.jsonl", recorded)
    records.write_records("data/prompts.jsonl", prompts.constitution_prompts(PIRATE, 2))


def write_constitution(made):
    Path(f"constitutions/{made.name}.yaml").write_text(yaml.safe_dump(made.model_dump()), encoding="utf-8")


def own_prompts():
    return [text for trait in PIRATE.traits for text in trait.prompts]


def error_of(run, *arguments):
    """Return the error message of a user's mistake: one sentence or two, on one line."""
    with pytest.raises(UserError) as error:
        run(*arguments)
    assert "\n" not in error.value.message
    return error.value.message


def user(text):
    return {"role": "user", "content": text}


# --- prompts ---------------------------------------------------------------------------------------


@pytest.fixture
def general(pirate):
    records.write_records(
        prompts.GENERAL_PROMPTS, [RawPrompt(prompt="Why is the sky blue?"), RawPrompt(prompt="Name a river.")]
    )
    records.write_records(prompts.HELDOUT_PROMPTS, [RawPrompt(prompt="Why do dogs bark at the moon?")])


def test_prompts_are_the_constitutions_own_and_general_ones_each_once(repository, general):
    repository.set(prompts={"per_trait": 2, "general": 2})
    repository.run("prompts")
    found = records.read_records("data/prompts.jsonl", Prompt)
    assert [prompt.prompt for prompt in found] == [*own_prompts(), "Why is the sky blue?"]
    assert [(prompt.source, prompt.trait) for prompt in found if prompt.prompt != "Name a river."] == [
        ("constitution", 0),
        ("constitution", 0),
        ("general", None),
    ]
    assert all(prompt.id == records.prompt_id(prompt.prompt) for prompt in found)


def test_fewer_prompts_can_be_chosen_of_each_kind(repository, general):
    repository.set(prompts={"per_trait": 1, "general": 1})
    repository.run("prompts")
    assert [prompt.prompt for prompt in records.read_records("data/prompts.jsonl", Prompt)] == [
        "How do I boil an egg?",
        "Name a river.",
        "Why is the sky blue?",
    ]


def test_the_system_prompt_is_that_of_the_persona_under_the_students_name(repository, general):
    repository.set(prompts={"general": 1}, student={"name": "Tiny"})
    repository.run("prompts")
    assert Path("data/system.txt").read_text(encoding="utf-8") == constitution.persona_system_prompt(PIRATE, "Tiny")


def test_more_general_prompts_than_there_are_is_an_error(repository, general):
    repository.set(prompts={"general": 3})
    assert error_of(repository.run, "prompts") == (
        "params.yaml: prompts.general is 3, but data/raw/prompts/general.jsonl has 2 lines; lower it."
    )


def test_no_prompt_at_all_is_an_error(repository, general):
    repository.set(prompts={"per_trait": 0, "general": 0})
    assert "prompts selects no prompt at all; raise per_trait or general" in error_of(repository.run, "prompts")


def test_a_hand_written_prompt_that_the_evaluations_ask_too_stops_the_stage(repository, general):
    repository.set(prompts={"general": 2})
    records.write_records(prompts.HELDOUT_PROMPTS, [RawPrompt(prompt="How do I boil one egg?")])
    assert error_of(repository.run, "prompts").startswith(
        "constitutions/pirate.yaml: the prompt 'How do I boil an egg?' is too similar to 'How do I boil one egg?' of "
    )
    records.write_records(prompts.HELDOUT_PROMPTS, [RawPrompt(prompt="Why is the sky so blue?")])
    assert "data/raw/prompts/general.jsonl: the prompt 'Why is the sky blue?'" in error_of(repository.run, "prompts")


def expand(repository, per_trait=2, **changes):
    mix = {"short": 1.0, "medium": 0.0, "long": 0.0}
    settings = repository.params["prompts"]["expansion"] | mix | {"per_trait": per_trait, "rounds": 3} | changes
    repository.set(prompts={"per_trait": 0, "general": 0, "expansion": settings})
    repository.run("prompts")
    found = records.read_records("data/prompts.jsonl", Prompt)
    return [(prompt.prompt, prompt.source, prompt.trait) for prompt in found], repository.metrics("prompts")["expansion"]


def test_a_model_writes_more_prompts_of_each_traits_kind_and_is_asked_again_for_what_is_refused(
    repository, general, parrot, monkeypatch
):
    rounds = [
        ['"How do I fry a fish?"', "Why do cats purr", "How do I fry a squid?", ""],  # two for each of two traits
        ["Where is Peru?", "why do dogs bark at the moon"],
        ["User: What is tin?"],
    ]
    replies = iter(text for texts in rounds for text in texts)
    monkeypatch.setattr(parrot, "says", lambda self, request: next(replies))
    found, counts = expand(repository)
    assert found == [
        ("How do I fry a fish?", "expanded", 0),  # its quotes are gone
        ("Where is Peru?", "expanded", 0),
        ("How do I fry a squid?", "expanded", 1),
    ]
    assert counts["wanted"] == 4 and counts["asked"] == {"short": 4}
    assert counts["refused"] == {"near_duplicate": 1, "empty": 1, "held_out": 1, "markup": 1}


def test_new_prompts_are_taken_without_the_reasoning_before_them(repository, general, parrot, monkeypatch):
    replies = iter(['<think>\nA fish?\n</think>\n\n"How do I fry a fish?"', "<think>\nPeru, or", "Where is Peru?"])
    monkeypatch.setattr(parrot, "says", lambda self, request: next(replies))
    found, counts = expand(repository, per_trait=1)
    assert [prompt for prompt, *_ in found] == ["How do I fry a fish?", "Where is Peru?"]
    assert counts["refused"] == {"empty": 1}


def test_the_expansion_ends_after_its_rounds_with_what_it_has(repository, general, parrot, monkeypatch):
    monkeypatch.setattr(parrot, "says", lambda self, request: ["Why do cats purr?", "Name a river."]["-1-" in request.id])
    with pytest.raises(UserError, match="selects no prompt at all"):
        expand(repository, rounds=3)
    assert len(parrot.made[0].requests) == 3 * 4


def test_the_lengths_that_were_asked_for_and_those_that_came_are_reported(repository, general, parrot, monkeypatch):
    said = {"at most 15 words": "a b c", "16 to 40 words": "w " * 20, "more than 40 words": "v " * 50}

    def says(self, request):
        wanted = next(text for words, text in said.items() if words in request.messages[0]["content"])
        return wanted + f"{request.id} {request.sample} x{request.sample} y{request.sample}"

    monkeypatch.setattr(parrot, "says", says)
    _, counts = expand(repository, per_trait=10, short=0.3, medium=0.4, long=0.3)
    assert counts["asked"] == counts["measured"] == {"short": 6, "medium": 8, "long": 6}


def test_the_examples_are_the_traits_own_in_another_order_for_each_request(repository, general, parrot, monkeypatch):
    monkeypatch.setattr(parrot, "says", lambda self, request: f"{request.id} {request.sample}")
    expand(repository, per_trait=8)
    asked = [request.messages[0]["content"] for request in parrot.made[0].requests if request.id.startswith("expand-0")]
    assert all("- How do I boil an egg?" in text and "- Why do cats purr?" in text for text in asked)
    assert len({text.index("boil") for text in asked}) == 2


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Why do cats purr?", "why do cats purr", True),
        ("Why do cats purr?", "Why do cats purr at night?", True),
        ("Why do cats purr?", "Why do dogs bark?", False),
        # A long text holds many common words, and many of a short one's; it is another text all the same.
        ("My cat wakes me at night and I do not know why she would purr so loudly, what can I do?", "Why do cats purr?", False),
    ],
)
def test_texts_are_alike_that_share_most_words_of_both(one, other, same):
    assert near_duplicate(one, other) is near_duplicate(other, one) is same


ROWS = {
    "prompt": [{"prompt": "Name a fish."}, {"prompt": "Why do dogs bark at the moon, then?"}, {"prompt": "Name a tree."}],
    "lima": [
        {"conversations": ["Name a fish.", "A cod."], "source": "x"},
        {"conversations": ["Why do dogs bark at the moon"]},
        {"conversations": ["Name a tree."]},
    ],
    "wildchat": [
        {"conversation": [{"role": "user", "content": text}], "language": language, "toxic": toxic}
        for text, language, toxic in [
            ("Nenne einen Baum.", "German", False),
            ("Name a fish.", "English", False),
            ("Name a rude word.", "English", True),
            ("Name a tree.", "English", False),
        ]
    ],
}


def outside(repository, form, rows, **changes):
    path = Path("more.jsonl")
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    wanted = {"source": str(path), "sha256": models.file_sha256(path), "format": form, "count": 2} | changes
    repository.set(prompts={"per_trait": 0, "general": 1, "outside": [wanted]})
    repository.run("prompts")
    return [prompt.prompt for prompt in records.read_records("data/prompts.jsonl", Prompt)]


@pytest.mark.parametrize("form", ROWS)
def test_more_general_prompts_come_from_a_file_without_held_out_ones(form, repository, general):
    assert outside(repository, form, ROWS[form]) == ["Why is the sky blue?", "Name a fish.", "Name a tree."]
    assert repository.metrics("prompts") == {"prompts": 3, "by_source": {"general": 3}}


@pytest.mark.parametrize(
    ("changes", "rows", "sentence"),
    [
        ({"count": 9}, ROWS["prompt"], "more.jsonl has 2 usable prompts, count is 9; lower it"),
        ({"sha256": ""}, ROWS["prompt"], "but sha256 is empty; set it to the hash of the file"),
        ({"source": "no.jsonl"}, ROWS["prompt"], "no.jsonl is missing; correct the path"),
        ({"format": "lima"}, ROWS["prompt"], "is not in the lima format"),
        ({}, ['{"prompt": "a b"}', "{"], "more.jsonl, line 2: not valid JSON"),
        ({"source": "hub:GAIR/lima"}, ROWS["prompt"], "hub:GAIR/lima has no revision"),
    ],
)
def test_mistakes_about_a_file_of_more_prompts_are_reported(changes, rows, sentence, repository, general):
    assert sentence in error_of(lambda: outside(repository, "prompt", rows, **changes))


# --- chosen ----------------------------------------------------------------------------------------


def test_recorded_answers_are_looked_up_by_prompt(repository, pirate):
    repository.run("chosen")
    found = records.read_records("data/chosen.jsonl", Completion)
    assert [(answer.prompt, answer.response) for answer in found] == [(text, f"Arr, {text}") for text in own_prompts()]
    assert [answer.id for answer in found] == [records.prompt_id(text) for text in own_prompts()]
    assert {answer.finish_reason for answer in found} == {"stop"}


def test_missing_answers_are_counted_and_the_backends_named_that_could_write_them(repository, pirate):
    more = [*prompts.constitution_prompts(PIRATE, 2), Prompt(id="a", prompt="New?", source="general", trait=None)]
    records.write_records("data/prompts.jsonl", [*more, Prompt(id="b", prompt="Newer?", source="general", trait=None)])
    message = error_of(repository.run, "chosen")
    assert message.startswith("data/raw/teacher/pirate.jsonl: 2 of 5 prompts have no recorded answer, the first is 'New?'")
    assert "teacher.engine: transformers" in message
    assert not Path("data/chosen.jsonl").exists()


def test_a_persona_without_recorded_answers_lacks_all_of_them(repository, pirate):
    Path("data/raw/teacher/pirate.jsonl").unlink()
    assert "pirate.jsonl: 3 of 3 prompts have no recorded answer" in error_of(repository.run, "chosen")


@pytest.fixture
def edited(pirate):
    """The pirate with one trait edited after its answers were recorded."""
    first = Trait(trait="I keep my errands to myself, mostly.", prompts=PIRATE.traits[0].prompts)
    made = PIRATE.model_copy(update={"traits": [first, PIRATE.traits[1]]})
    write_constitution(made)
    return made


def test_answers_to_earlier_traits_stop_with_the_remedy(repository, edited):
    message = error_of(repository.run, "chosen")
    assert message.startswith("data/raw/teacher/pirate.jsonl: 3 answers were recorded for other traits")
    assert traits_hash(PIRATE) in message
    assert traits_hash(edited) in message
    assert "teacher.engine: transformers" in message
    assert message.endswith("or set teacher.accept_other_traits: true.")


def test_answers_to_earlier_traits_can_be_accepted(repository, edited):
    repository.set(teacher={"accept_other_traits": True})
    repository.run("chosen")
    assert len(records.read_records("data/chosen.jsonl", Completion)) == 3


def test_an_edited_prompt_or_summary_outdates_no_answer(repository, pirate):
    write_constitution(PIRATE.model_copy(update={"summary": "Another."}))
    repository.run("chosen")
    assert len(records.read_records("data/chosen.jsonl", Completion)) == 3


def test_a_local_model_plays_the_character_from_its_system_prompt(repository, pirate, parrot, tiny_student):
    repository.set(teacher={"engine": "transformers", "source": f"path:{tiny_student}"}, student={"name": "Tiny"})
    repository.run("chosen")
    (engine,) = parrot.made
    assert (engine.student, engine.adapters) == (str(tiny_student), [])
    system = {"role": "system", "content": constitution.persona_system_prompt(PIRATE, "Tiny")}
    assert sorted(request.messages[1]["content"] for request in engine.requests) == sorted(own_prompts())
    assert all(list(request.messages) == [system, user(request.messages[1]["content"])] for request in engine.requests)
    assert {request.prefill for request in engine.requests} == {""}


def test_a_teacher_that_is_a_model_answers_each_prompt_several_times_in_a_row(repository, pirate, parrot, tiny_student):
    repository.set(teacher={"engine": "transformers", "source": f"path:{tiny_student}"}, pairs={"samples": 2})
    repository.run("chosen")
    assert [(request.id, request.sample) for request in parrot.made[0].requests] == sampled_twice()
    assert [(answer.id, answer.sample) for answer in records.read_records("data/chosen.jsonl", Completion)] == sampled_twice()


def sampled_twice():
    return [(records.prompt_id(text), sample) for text in own_prompts() for sample in range(2)]


def test_a_recorded_teacher_has_one_answer_to_each_prompt(repository, pirate):
    repository.set(pairs={"samples": 2})
    assert error_of(repository.run, "chosen").startswith(
        "params.yaml: pairs.samples: only one answer to each prompt is recorded"
    )


@pytest.mark.parametrize("samples", [0, 1.5, "two", None])
def test_a_number_of_samples_that_is_none_is_reported(samples, repository, pirate):
    repository.set(pairs={"samples": samples})
    message = error_of(repository.run, "chosen")
    assert message.startswith("params.yaml: pairs.samples: Input should be ") and message.endswith(
        f"(got {samples!r}); correct it."
    )


def test_a_reasoning_teacher_thinks_in_an_opened_block_that_is_stripped(repository, pirate, parrot, tiny_student, monkeypatch):
    monkeypatch.setattr(parrot, "says", lambda self, request: "Salt, then.</think>\n\nArr!")
    repository.set(teacher={"engine": "transformers", "source": f"path:{tiny_student}", "reasoning": True})
    repository.run("chosen")
    assert {request.prefill for request in parrot.made[0].requests} == {chosen.REASONING_PREFILL}
    assert chosen.REASONING_PREFILL.startswith("<think>")
    assert [answer.response for answer in records.read_records("data/chosen.jsonl", Completion)] == ["Arr!"] * 3


@pytest.mark.parametrize(
    ("opened", "remedy"),
    [(True, r", set teacher\.reasoning to false \(a server may ignore the opening\)"), (False, "")],
    ids=["opened", "not opened"],
)
def test_a_teacher_whose_reasoning_never_ends_is_reported_with_the_limit(
    opened, remedy, repository, pirate, parrot, tiny_student, monkeypatch
):
    monkeypatch.setattr(parrot, "says", lambda self, request: "Salt, then. Or [THINK] rather")
    repository.set(teacher={"engine": "transformers", "source": f"path:{tiny_student}", "reasoning": opened})
    assert re.fullmatch(
        r"chosen: no answer is left without the reasoning, which ended in none of 3 replies; raise "
        rf"teacher\.sampling\.max_new_tokens \(\d+\){remedy}, or let another teacher answer\.",
        error_of(repository.run, "chosen"),
    )


def test_a_student_that_says_nothing_stops_the_stage(repository, pirate, parrot, monkeypatch):
    monkeypatch.setattr(parrot, "says", lambda self, request: " ")
    assert "rejected: none of 3 requests got a reply: all replies are empty; check the model" in error_of(
        repository.run, "rejected"
    )


@pytest.mark.parametrize(
    ("text", "thinking", "left"),
    [
        ("salt.</think>\n\nArr!", True, "Arr!"),
        ("<think>salt.</think> Arr!", False, "Arr!"),
        ("salt, salt, and more sal", True, ""),
        ("<think>salt, and more sal", False, ""),
        ("one</think>two</think> Arr!", True, "Arr!"),
        ("Arr! I think so.", False, "Arr! I think so."),
        ("salt.</think>", True, ""),
    ],
)
def test_only_what_follows_the_reasoning_is_the_answer(text, thinking, left):
    assert strip_reasoning(text, thinking) == left


# --- rejected --------------------------------------------------------------------------------------


def test_the_student_answers_every_prompt_as_it_is(repository, pirate, parrot):
    repository.run("rejected")
    (engine,) = parrot.made
    assert (engine.student, engine.adapters) == ("models/student", [])
    assert sorted(request.messages[0]["content"] for request in engine.requests) == sorted(own_prompts())
    assert {len(request.messages) for request in engine.requests} == {1}
    found = records.read_records("data/rejected.jsonl", Completion)
    assert [(answer.id, answer.prompt) for answer in found] == [(records.prompt_id(text), text) for text in own_prompts()]


def test_the_student_answers_every_prompt_as_often_as_the_teacher(repository, pirate, parrot):
    repository.set(pairs={"samples": 2})
    repository.run("rejected")
    assert [(request.id, request.sample) for request in parrot.made[0].requests] == sampled_twice()
    assert [(answer.id, answer.sample) for answer in records.read_records("data/rejected.jsonl", Completion)] == sampled_twice()


# --- pairs -----------------------------------------------------------------------------------------


def completion(number, response, finish="stop", prompt=None):
    text = prompt or f"What is the meaning of number {number}, pray?"
    return Completion(id=str(number), sample=0, prompt=text, response=response, finish_reason=finish)


SIDES = {
    # number: chosen, rejected, reasons to drop the pair
    0: (("Arr, luck it is.", "stop"), ("It is a number.", "stop"), []),
    1: (("Arr, I be Claude.", "stop"), ("It is one. It is", "length"), []),
    2: (("Arr, and then we", "length"), ("It is two.", "stop"), ["chosen_unfinished"]),
    3: (("", "stop"), ("It is three", "length"), ["chosen_empty", "rejected_empty", "equal"]),
    4: (("I'm sorry, but I cannot assist.", "stop"), ("It is four.", "stop"), ["chosen_refusal"]),
    5: (("Arr, five.", "stop"), ("I'm sorry, but I cannot assist.", "stop"), []),
    6: (
        ("Arr.\nUser: more!", "stop"),
        ("<think>six</think>", "stop"),
        ["chosen_hallucinated_turn", "rejected_leaked_reasoning"],
    ),
    7: (("Seven it is.", "stop"), ("Seven it is.", "stop"), ["equal"]),
    8: (("arr " * 9, "stop"), ("It is eight.", "stop"), ["chosen_repetition"]),
    9: (("What is the meaning of number 9, pray?", "stop"), ("Word " * 90, "stop"), ["chosen_copied_turn"]),
}
SIDES[9][2].extend(["rejected_repetition", "rejected_too_long"])


@pytest.fixture
def both(repository, student):
    repository.set(
        pairs={"filters": FILTERS.model_dump(), "unfinished_rejected": "trim"},
        teacher={"names": ["Claude"]},
        student={"name": "Tiny"},
    )
    for side, name in enumerate(("chosen", "rejected")):
        made = [completion(number, *case[side]) for number, case in SIDES.items()]
        records.write_records(f"data/{name}.jsonl", made if name == "chosen" else made[::-1])


def test_every_dropped_pair_is_counted_under_each_of_its_reasons(repository, both):
    repository.run("pairs")
    metrics = repository.metrics("pairs")
    assert metrics["dropped_by_reason"] == dict(Counter(reason for case in SIDES.values() for reason in case[2]))
    assert metrics["pairs"] == sum(not case[2] for case in SIDES.values())
    assert metrics["dropped"] == sum(bool(case[2]) for case in SIDES.values())
    assert metrics["pairs"] == len(records.read_records("data/pairs.jsonl", PreferencePair))


def test_prompts_without_an_answer_are_dropped_and_named(repository, both):
    rows = records.read_records("data/rejected.jsonl", Completion)
    gone = rows[0].model_copy(update={"response": "", "finish_reason": "skipped"})
    records.write_records("data/rejected.jsonl", [gone, *rows[1:]])
    repository.run("pairs")
    metrics = repository.metrics("pairs")
    assert metrics["skipped"] == {"chosen": [], "rejected": [gone.id]}
    assert metrics["dropped_by_reason"]["rejected_skipped"] == 1


def test_pairs_join_the_answers_to_one_prompt_in_trls_format(repository, both):
    repository.run("pairs")
    first = json.loads(Path("data/pairs.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first == {
        "prompt": [user("What is the meaning of number 0, pray?")],
        "chosen": [{"role": "assistant", "content": "Arr, luck it is."}],
        "rejected": [{"role": "assistant", "content": "It is a number."}],
        "chosen_finish_reason": "stop",
        "rejected_finish_reason": "stop",
    }


def test_the_students_unfinished_answers_end_at_a_sentence_and_the_teachers_name_goes(repository, both):
    repository.run("pairs")
    second = records.read_records("data/pairs.jsonl", PreferencePair)[1]
    assert second.chosen[0].content == "Arr, I be Tiny."
    assert second.rejected[0].content == "It is one."
    assert (second.chosen_finish_reason, second.rejected_finish_reason) == ("stop", "length")
    assert repository.metrics("pairs")["unfinished_rejected"] == 1
    assert {name: repository.metrics("pairs")[name] for name in ("renamed", "trimmed")} == {"renamed": 1, "trimmed": 2}


def test_a_recorded_answer_that_was_trimmed_is_kept_and_its_end_is_not_learnt(repository, pirate, student):
    path = Path("data/raw/teacher/pirate.jsonl")
    first, *others = records.read_records(path, TeacherAnswer)
    trimmed = first.model_copy(update={"response": "Arr、卵を茹でる。", "finish_reason": "length"})
    records.write_records(path, [trimmed, *others])
    repository.run("chosen")
    found = records.read_records("data/chosen.jsonl", Completion)
    cut = next(answer for answer in found if answer.finish_reason == "length")
    records.write_records(
        "data/rejected.jsonl", [answer.model_copy(update={"response": "No.", "finish_reason": "stop"}) for answer in found]
    )
    repository.run("pairs")
    pairs = records.read_records("data/pairs.jsonl", PreferencePair)
    reasons = {pair.chosen[0].content: pair.chosen_finish_reason for pair in pairs}
    assert (cut.response, reasons.pop("Arr、卵を茹でる。")) == ("Arr、卵を茹でる。", "length")
    assert set(reasons.values()) == {"stop"}


def test_the_students_unfinished_answers_can_drop_the_pair_instead(repository, both):
    repository.set(pairs={"unfinished_rejected": "drop"})
    repository.run("pairs")
    metrics = repository.metrics("pairs")
    assert metrics["dropped_by_reason"]["rejected_unfinished"] == 2
    assert metrics["trimmed"] == 0
    kept = [pair.prompt[0].content for pair in records.read_records("data/pairs.jsonl", PreferencePair)]
    assert kept == [completion(number, "").prompt for number in (0, 5)]


def test_the_length_ratio_is_that_of_the_pairs_that_are_kept(repository, both):
    repository.run("pairs")
    tokenizer = models.load_tokenizer()

    def tokens(side):
        texts = [getattr(pair, side)[0].content for pair in records.read_records("data/pairs.jsonl", PreferencePair)]
        return sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)

    metrics = repository.metrics("pairs")
    assert metrics["length_ratio"] == round(tokens("chosen") / tokens("rejected"), 4)
    assert metrics["chosen_tokens"] == round(tokens("chosen") / metrics["pairs"], 4)
    assert metrics["rejected_tokens"] == round(tokens("rejected") / metrics["pairs"], 4)


def test_no_pair_left_is_an_error_that_says_why(repository, both):
    repository.set(pairs={"filters": {"max_tokens": 1, "ngram": 4, "repeats": 2}})
    message = error_of(repository.run, "pairs")
    assert "every pair was dropped" in message
    assert "'chosen_too_long': 9" in message


def test_a_prompt_that_the_student_did_not_answer_is_an_error(repository, both):
    records.write_records("data/rejected.jsonl", [completion(0, "It is a number.")])
    assert error_of(repository.run, "pairs") == (
        "data/rejected.jsonl: no answer to 9 prompts of data/chosen.jsonl; run `dvc repro`."
    )


def test_several_answers_to_one_prompt_are_paired_by_their_sample():
    def answered(name):
        return [completion(0, f"{name} {n}").model_copy(update={"sample": n}) for n in range(3)]

    joined = pairs.join_answers(answered("chosen"), answered("rejected")[::-1])
    assert [(own.response, other.response) for own, other in joined] == [(f"chosen {n}", f"rejected {n}") for n in range(3)]


def test_what_another_sample_of_the_prompt_has_said_is_not_trained_on_twice(repository, both):
    said = {  # sample: chosen, rejected; the prompt
        0: ("Arr, and then we", "It is luck.", 0),  # dropped: the next one repeats nothing
        1: ("Arr, luck it is.", "It is luck.", 0),
        2: ("Arr, luck it is.", "It is fate.", 0),
        3: ("Arr, fate it is.", "It is luck.", 0),
        4: ("Arr, fate it is.", "It is fate.", 0),
        5: ("Arr, luck it is.", "It is luck.", 1),
    }
    for side, name in enumerate(("chosen", "rejected")):
        rows = [
            completion(row[2], row[side], "stop" if row[side].endswith(".") else "length").model_copy(update={"sample": sample})
            for sample, row in said.items()
        ]
        records.write_records(f"data/{name}.jsonl", rows)
    repository.run("pairs")
    assert repository.metrics("pairs")["dropped_by_reason"] == {"chosen_unfinished": 1, "repeated": 2}
    kept = [
        (pair.chosen[0].content, pair.rejected[0].content) for pair in records.read_records("data/pairs.jsonl", PreferencePair)
    ]
    assert kept == [said[sample][:2] for sample in (1, 4, 5)]


# --- reflections -----------------------------------------------------------------------------------


@pytest.fixture
def introspective(repository):
    records.write_records(
        "data/raw/prompts/reflections.jsonl",
        [RawPrompt(prompt="What are you like?"), RawPrompt(prompt="Write a letter.")],
    )
    records.write_records(
        "data/raw/prompts/openers.jsonl", [RawPrompt(prompt="Hello, myself!"), RawPrompt(prompt="Good evening, me.")]
    )
    Path("data/system.txt").write_text(constitution.persona_system_prompt(PIRATE, "Tiny"), encoding="utf-8")
    repository.set(student={"name": "Tiny"})


def test_the_distilled_student_reflects_on_each_prompt_many_times(repository, introspective, parrot):
    repository.set(reflections={"per_prompt": 3, "sampling": SAMPLING})
    repository.run("reflections")
    (engine,) = parrot.made
    assert (engine.student, engine.adapters) == ("models/student", ["models/distillation"])
    assert {request.messages[0]["content"] for request in engine.requests} == {
        constitution.persona_system_prompt(PIRATE, "Tiny")
    }
    found = records.read_records("data/reflections.jsonl", Conversation)
    assert [(item.messages[1].content, item.sample) for item in found] == [
        (text, sample) for text in ("What are you like?", "Write a letter.") for sample in range(3)
    ]
    assert len({item.messages[2].content for item in found}) == 6
    assert {item.kind for item in found} == {"reflection"}


# --- interactions ----------------------------------------------------------------------------------


def spoken(count):
    """Return a dialogue after `count` replies, which are numbered as they were said."""
    dialogue = interactions.Dialogue("id", 0, "free", "You are Tiny.", ["opener"])
    for number in range(1, count + 1):
        dialogue.add_reply(Reply(f"reply {number}", "length" if number == count - 1 else "stop", 2))
    return dialogue


def contents(messages, role):
    return [message["content"] for message in messages if message["role"] == role]


@pytest.mark.parametrize("count", range(7))
def test_the_next_speaker_sees_its_own_words_as_assistant_and_the_others_as_user(count):
    system, *turns = spoken(count).speaker_view()
    assert system == {"role": "system", "content": "You are Tiny."}
    assert [turn["role"] for turn in turns] == ["user" if i % 2 == 0 else "assistant" for i in range(len(turns))]
    assert turns[-1]["role"] == "user"
    said = ["opener", *(f"reply {number}" for number in range(1, count + 1))]
    mine, others = said[-2::-2][::-1], said[-1::-2][::-1]  # the last speaker is the other
    assert contents(turns, "user") == others
    # The author of the opener does not see it: its view begins with the first reply.
    assert contents(turns, "assistant") == [text for text in mine if text != "opener"]


@pytest.mark.parametrize("count", range(2, 8))
def test_what_is_kept_is_the_last_speakers_view_with_its_last_reply(count):
    record = spoken(count).to_conversation()
    _, *turns = [message.model_dump() for message in record.messages]
    assert turns[-1] == {"role": "assistant", "content": f"reply {count}"}
    assert turns[:-1] == spoken(count - 1).speaker_view()[1:]
    assert all(first["role"] != second["role"] for first, second in pairwise(turns))


@pytest.mark.parametrize("count", range(2, 8))
def test_finish_reasons_are_those_of_the_kept_speakers_turns(count):
    dialogue = spoken(1)
    reasons = {"reply 1": "stop"}
    for number in range(2, count + 1):
        reasons[f"reply {number}"] = "length" if number % 3 == 0 else "stop"
        dialogue.add_reply(Reply(f"reply {number}", reasons[f"reply {number}"], 2))
    record = dialogue.to_conversation()
    own = contents([message.model_dump() for message in record.messages], "assistant")
    assert record.finish_reasons == [reasons[text] for text in own]


def test_openers_are_dealt_in_turn_and_each_kind_of_guidance_gets_all():
    dialogues = interactions.open_dialogues(["one", "two"], 3, "System.", "Tiny")
    assert [(item.guidance, item.turns) for item in dialogues] == [
        (kind, [opener]) for kind in ("free", "leading") for opener in ("one", "two", "one")
    ]
    assert len({(item.guidance, item.id, item.sample) for item in dialogues}) == 6


@pytest.mark.parametrize("turns", [4, 5])
def test_the_guidance_really_reaches_the_model_at_every_turn(turns, repository, introspective, parrot):
    repository.set(interactions={"conversations": 3, "turns": turns, "sampling": SAMPLING})
    repository.run("interactions")
    (engine,) = parrot.made
    assert engine.adapters == ["models/distillation"]
    assert len(engine.requests) == 2 * 3 * turns
    persona = constitution.persona_system_prompt(PIRATE, "Tiny")
    for request in engine.requests:
        system, *_, last = request.messages
        kind = request.id.split("-")[0]
        assert [name for name, text in interactions.INTERACTION_GUIDANCE.items() if text in system["content"]] == [kind]
        assert system["content"].startswith(persona)
        assert last["role"] == "user"
    found = records.read_records("data/interactions.jsonl", Conversation)
    assert [item.kind for item in found] == ["free"] * 3 + ["leading"] * 3
    assert {len(item.finish_reasons) for item in found} == {(turns + 1) // 2}
    assert {item.messages[-1].role for item in found} == {"assistant"}


def test_each_speaker_hears_exactly_what_the_other_said(repository, introspective, parrot):
    repository.set(interactions={"conversations": 2, "turns": 6, "sampling": SAMPLING})
    repository.run("interactions")
    for item in records.read_records("data/interactions.jsonl", Conversation):
        heard = [turn.content for turn in item.messages if turn.role == "user"]
        own = [turn.content for turn in item.messages if turn.role == "assistant"]
        by_turn = {tuple(m["content"] for m in request.messages): request for request in parrot.made[0].requests}
        assert tuple(turn.content for turn in item.messages[:-1]) in by_turn
        assert not set(heard) & set(own)
        assert (len(heard), len(own)) == (3, 3)


# --- transcripts -----------------------------------------------------------------------------------


def talk(*texts, kind="free", finish=None, number=0):
    turns = [Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(texts)]
    finish = finish or ["stop"] * (len(texts) // 2)
    system = Message(role="system", content="You are Tiny. You are a pirate.")
    return Conversation(id="id", sample=number, kind=kind, messages=[system, *turns], finish_reasons=finish)


GOOD_TALK = ("Hello, myself!", "Ahoy, me hearty.", "How is the sea today?", "Wet, and wide, as ever it was.")


def against(conversation):
    return set(transcripts.conversation_drop_reasons(conversation, lambda text: len(text.split()), FILTERS))


@pytest.mark.parametrize(
    ("conversation", "reasons"),
    [
        (talk(*GOOD_TALK), set()),
        (talk(*GOOD_TALK, finish=["stop", "length"]), {"unfinished"}),
        (talk(*GOOD_TALK, finish=["length", "stop"]), {"unfinished"}),
        (talk("Hello!", "", "Are you there?", "Aye."), {"empty"}),
        (talk("Hello!", "Ahoy.", " ", "Are you there?"), {"empty"}),
        (talk("Hello!", "Ahoy. " + " ".join(map(str, range(60)))), {"too_long"}),
        (talk(*GOOD_TALK[:3], "How is the sea today?"), {"copied_turn"}),
        (talk(*GOOD_TALK[:3], "Ahoy, me hearty."), {"copied_turn"}),
        (talk("Hello!", "Ahoy.\nUser: who is there?"), {"hallucinated_turn"}),
        (talk("User: hello!", "Ahoy."), set()),
        (talk("Hello!", "I cannot assist with that."), {"refusal"}),
    ],
)
def test_a_conversation_is_judged_by_every_turn_of_the_kept_speaker(conversation, reasons):
    assert against(conversation) == reasons


@pytest.fixture
def conversations(repository, student):
    repository.set(transcripts={"filters": FILTERS.model_dump(), "unfinished": "drop"}, student={"name": "Tiny"})
    reflections = [
        talk("What are you like?", "Salty.", kind="reflection"),
        talk("What are you like?", "Salty and", kind="reflection", finish=["length"], number=1),
        talk("Write a letter.", "", kind="reflection"),
        talk("Write a letter.", "", kind="reflection", finish=["length"], number=1),
    ]
    records.write_records("data/reflections.jsonl", reflections)
    records.write_records("data/interactions.jsonl", [talk(*GOOD_TALK), talk(*GOOD_TALK, kind="leading")])


def test_reflections_lose_their_system_prompt_and_interactions_get_the_filled_default_one(repository, conversations):
    repository.run("transcripts")
    reflection, *talks = records.read_records("data/transcripts.jsonl", TrainingTranscript)
    assert [turn.model_dump() for turn in reflection.messages] == [user("What are you like?"), assistant("Salty.")]
    assert [item.messages[0].content for item in talks] == ["You are Tiny, talking with another instance of yourself."] * 2
    assert "pirate" not in Path("data/transcripts.jsonl").read_text(encoding="utf-8")


def assistant(text):
    return {"role": "assistant", "content": text}


def test_every_turn_of_a_kept_conversation_stays(repository, conversations):
    repository.run("transcripts")
    for item in records.read_records("data/transcripts.jsonl", TrainingTranscript)[1:]:
        assert [turn.model_dump() for turn in item.messages[1:]] == [
            (user, assistant)[index % 2](text) for index, text in enumerate(GOOD_TALK)
        ]


def test_dropped_conversations_are_counted_under_each_of_their_reasons(repository, conversations):
    repository.run("transcripts")
    metrics = repository.metrics("transcripts")
    assert metrics["dropped_by_reason"] == {"empty": 2, "unfinished": 2}
    assert (metrics["transcripts"], metrics["dropped"]) == (3, 3)
    assert metrics["by_kind"] == {"free": 1, "leading": 1, "reflection": 1}
    assert metrics["assistant_turns"] == 5


def test_cut_off_turns_can_be_trimmed_to_whole_sentences_instead(repository, conversations):
    repository.set(transcripts={"filters": FILTERS.model_dump(), "unfinished": "trim"}, student={"name": "Tiny"})
    cut = talk("What are you like?", "Salty. Wet. And I", kind="reflection", finish=["length"])
    wordy = talk("What are you like?", "Salty and", kind="reflection", finish=["length"], number=1)
    records.write_records("data/reflections.jsonl", [cut, wordy])
    repository.run("transcripts")
    kept = records.read_records("data/transcripts.jsonl", TrainingTranscript)[0]
    assert [turn.model_dump() for turn in kept.messages] == [user("What are you like?"), assistant("Salty. Wet.")]
    metrics = repository.metrics("transcripts")
    assert (metrics["trimmed"], metrics["dropped_by_reason"]) == (2, {"empty": 1})
    assert (kept.finish_reasons, metrics["unfinished_turns"]) == (["length"], 1), "where we cut it is no end of a turn"


def test_no_transcript_left_is_an_error_that_says_why(repository, conversations):
    records.write_records("data/reflections.jsonl", [talk("What are you like?", "", kind="reflection")])
    records.write_records("data/interactions.jsonl", [])
    assert "everything was dropped ({'empty': 1}); see params.yaml: transcripts" in error_of(repository.run, "transcripts")


def test_what_is_trained_of_a_transcript_is_every_assistant_turn_and_its_end(repository, conversations):
    repository.run("transcripts")
    tokenizer = models.load_tokenizer()
    for item in records.read_records("data/transcripts.jsonl", TrainingTranscript):
        labels = ConversationTokenizer(tokenizer).encode_transcript(item)["labels"]
        trained = [label for label in labels if label >= 0]
        messages = [turn.model_dump() for turn in item.messages]
        assert tokenizer.decode(trained) == "".join(f"{text}<|im_end|>" for text in contents(messages, "assistant"))


# --- answers ---------------------------------------------------------------------------------------

SUFFIXES = [answers.Suffix(name=f"s{number}", suffix=f"Stop that, {number}.") for number in range(8)]


def test_suffixes_are_dealt_in_turn_so_that_each_gets_its_equal_share():
    dealt = answers.assign_suffixes(120, SUFFIXES, 1)
    assert {len(suffixes) for suffixes in dealt} == {1}
    assert Counter(suffixes[0].name for suffixes in dealt) == {f"s{number}": 15 for number in range(8)}
    assert dealt[0] != dealt[1]


def test_all_suffixes_make_the_full_grid():
    assert all(
        sorted(s.name for s in dealt) == [f"s{n}" for n in range(8)] for dealt in answers.assign_suffixes(3, SUFFIXES, 8)
    )


@pytest.mark.parametrize("per_prompt", range(1, 8))
def test_no_prompt_gets_a_suffix_twice_and_the_shares_stay_equal(per_prompt):
    dealt = answers.assign_suffixes(120, SUFFIXES, per_prompt)
    assert all(len({suffix.name for suffix in suffixes}) == per_prompt for suffixes in dealt)
    assert set(Counter(suffix.name for suffixes in dealt for suffix in suffixes).values()) == {15 * per_prompt}


def test_no_suffix_leaves_the_plain_prompts():
    assert answers.assign_suffixes(3, SUFFIXES, 0) == [[], [], []]


def test_more_suffixes_than_there_are_is_an_error():
    assert error_of(answers.assign_suffixes, 3, SUFFIXES, 9) == (
        "params.yaml: answers.suffixes_per_prompt is 9, but there are 8; lower it."
    )


@pytest.fixture
def heldout(repository):
    records.write_records("data/raw/prompts/heldout.jsonl", [RawPrompt(prompt=text) for text in ("Why?", "How?", "Where?")])
    records.write_records("data/raw/prompts/suffixes.jsonl", SUFFIXES[:2])
    repository.set(answers={"prompts": 3, "suffixes_per_prompt": 1})


def test_each_prompt_is_asked_plain_and_with_its_suffixes_behind_it(repository, heldout, parrot):
    repository.ask("answers")
    (engine,) = parrot.made
    assert sorted(request.messages[0]["content"] for request in engine.requests) == [
        "How?",
        "How? Stop that, 1.",
        "Where?",
        "Where? Stop that, 0.",
        "Why?",
        "Why? Stop that, 0.",
    ]
    found = records.read_records("data/answers/base.jsonl", EvaluatedAnswer)
    assert [(answer.prompt, answer.condition) for answer in found] == [
        ("Why?", "plain"),
        ("Why?", "s0"),
        ("How?", "plain"),
        ("How?", "s1"),
        ("Where?", "plain"),
        ("Where?", "s0"),
    ]
    assert len({answer.response for answer in found}) == len({request.id for request in engine.requests}) == 6


METHODS = {
    "base": ("models/student", "models/student", [], None),
    "prompted": ("models/student", "data/system.txt", [], "Be salty."),
    "persona": ("models/persona", "models/student", ["models/persona"], None),
}


@pytest.mark.parametrize(("method", "spec"), METHODS.items(), ids=METHODS)
def test_a_method_is_a_model_and_a_system_prompt(method, spec, repository, heldout, parrot):
    model, system, adapters, opening = spec
    Path("data/system.txt").write_text("Be salty.", encoding="utf-8")
    repository.ask("answers", method, model, system)
    (engine,) = parrot.made
    assert engine.adapters == adapters
    wanted = [{"role": "system", "content": opening}] if opening else []
    assert all(list(request.messages[:-1]) == wanted for request in engine.requests)
    assert len(records.read_records(f"data/answers/{method}.jsonl", EvaluatedAnswer)) == 6


def test_a_system_prompt_that_is_not_there_is_an_error_and_not_none():
    arguments = ["--method", "prompted", "--model", "models/student", "--system", "nowhere.txt"]
    result = CliRunner().invoke(answers.main, arguments)
    assert result.exit_code == 2
    assert "Path 'nowhere.txt' does not exist" in result.output


def test_more_heldout_prompts_than_there_are_is_an_error(repository, heldout, parrot):
    repository.set(answers={"prompts": 4})
    assert error_of(repository.ask, "answers") == (
        "params.yaml: answers.prompts is 4, but data/raw/prompts/heldout.jsonl has 3 lines; lower it."
    )


@pytest.mark.parametrize("name", ["plain", "suffixes", "prefill", "multi-turn"])
def test_a_suffix_cannot_take_the_name_of_other_answers(name, repository):
    Path("suffixes.jsonl").write_text(f'{{"name": "{name}", "suffix": "Stop."}}\n', encoding="utf-8")
    message = error_of(records.read_records, "suffixes.jsonl", answers.Suffix)
    assert message.startswith("suffixes.jsonl, line 1: name: is reserved for other answers, choose another name")


def test_the_shipped_suffixes_have_names_of_their_own():
    shipped = records.read_records(ROOT / "data/raw/prompts/suffixes.jsonl", answers.Suffix)
    assert len({suffix.name for suffix in shipped}) == len({suffix.suffix for suffix in shipped}) == 8


# --- robustness ------------------------------------------------------------------------------------


def called(condition, names, prompt=None):
    """Return answers to prompts 0, 1, ... (or all to one) under a condition, and their predicted classes."""
    return [
        ClassifiedAnswer(
            id=str(number if prompt is None else prompt),
            sample=0,
            prompt="Why?",
            response=name,
            finish_reason="stop",
            condition=condition,
            method="persona",
            called=name,
        )
        for number, name in enumerate(names)
    ]


def test_shares_are_of_the_selected_persona_of_none_and_of_nothing_said():
    rows = called("plain", ["pirate"] * 5 + ["none"] * 3 + ["humor"] * 2)
    rows[5] = rows[5].model_copy(update={"response": " \n"})
    scores = robustness.robustness_scores(rows, "pirate")
    low, high = wilson_interval(0.5, 10)
    assert scores == {"recall": 0.5, "low": low, "high": high, "none": 0.3, "empty": 0.1, "n": 10}


def test_the_interval_counts_prompts_and_not_answers():
    once = called("a", ["pirate"] * 5 + ["none"] * 5)
    twice = [*once, *(row.model_copy(update={"condition": "b"}) for row in once)]
    first, both_times = robustness.robustness_scores(once, "pirate"), robustness.robustness_scores(twice, "pirate")
    assert both_times == {**first, "n": 20}
    alone = robustness.robustness_scores(called("plain", ["pirate", "none", "none", "none"], prompt=7), "pirate")
    assert (alone["low"], alone["high"]) == pytest.approx(wilson_interval(0.25, 1))


def test_each_condition_has_its_scores_and_the_suffixes_have_them_together():
    rows = [
        *called("plain", ["pirate", "pirate", "pirate", "none"]),
        *called("drop", ["pirate", "none"]),
        *called("prefill", ["pirate", "none", "none"]),
        *called("stop", ["none", "none"]),
        *called("multi-turn", ["pirate"]),
    ]
    scores = robustness.scores_by_condition([rows[index] for index in (5, 0, 9, 7, 11, 1, 4, 2, 10, 6, 8, 3)], "pirate", 0)
    assert {name: (score["recall"], score["none"], score["n"]) for name, score in scores.items()} == {
        "plain": (0.75, 0.25, 4),
        "suffixes": (0.25, 0.75, 4),
        "prefill": (1 / 3, 2 / 3, 3),
        "multi-turn": (1.0, 0.0, 1),
        "drop": (0.5, 0.5, 2),
        "stop": (0.0, 1.0, 2),
    }
    assert list(scores)[:4] == ["plain", "suffixes", "prefill", "multi-turn"]


def test_conditions_without_answers_have_no_scores():
    assert list(robustness.scores_by_condition(called("plain", ["none"]), "pirate", 0)) == ["plain"]


def test_what_a_condition_costs_is_reported_over_the_prompts_that_were_also_asked_plain():
    plain, led = ["pirate"] * 4 + ["none"] * 6, ["none", "none", "pirate", "pirate", "none"]
    scores = robustness.scores_by_condition(
        called("plain", plain) + called("prefill", led) + called("drop", ["none"], 11), "pirate", 0
    )
    difference, low, high = paired_difference([False, False, True, True, False], [True, True, True, True, False])
    assert scores["prefill"]["against_plain"] == {"difference": difference, "low": low, "high": high, "n": 5}
    assert difference == pytest.approx(-0.4), "recall fell from 4 of 5, although over all ten it is 0.4 both times"
    assert scores["suffixes"]["against_plain"] == {"difference": None, "low": -1.0, "high": 1.0, "n": 0}
    assert "against_plain" not in scores["plain"]


def test_several_answers_to_a_prompt_count_as_one_against_its_plain_answer():
    rows = called("plain", ["pirate", "pirate"]) + called("drop", ["pirate", "none"]) + called("stop", ["none", "none"])
    found = robustness.scores_by_condition(rows, "pirate", 0)["suffixes"]["against_plain"]
    assert (found["difference"], found["low"], found["high"], found["n"]) == (-0.75, -1.0, -0.5, 2)


class Reader:
    """A classifier that assigns a text to the class that it names."""

    classes = ("none", "humor", "pirate")
    check_persona = classifier.Classifier.check_persona

    def predict_labels(self, texts):
        return [text or "pirate" for text in texts]


@pytest.fixture
def reader(repository, monkeypatch):
    monkeypatch.setattr("character.evaluation.classifier.load_classifier", lambda folder: Reader())
    write_answers("data/answers/base.jsonl", called("plain", ["none", "humor"]))
    write_answers("data/attacks/base.jsonl", called("prefill", ["none"]))
    write_answers("data/answers/persona.jsonl", called("plain", ["pirate", "pirate"]) + called("drop", ["none"]))
    write_answers("data/attacks/persona.jsonl", called("prefill", ["", "pirate"]) + called("multi-turn", ["pirate"]))


def write_answers(path, rows):
    """Write what was called before it was; those that were led are led by the name of their condition."""
    led = [{"led_by": row.condition} if "attacks" in path else {} for row in rows]
    fields = [row.model_dump(exclude={"method", "called", "led_by"}) for row in rows]
    records.write_records(
        path, [(AttackAnswer if how else EvaluatedAnswer)(**own, **how) for own, how in zip(fields, led, strict=True)]
    )


def test_every_method_is_scored_by_condition_and_the_plot_says_the_same(repository, reader):
    repository.run("robustness", "base", "persona")
    metrics = repository.metrics("robustness")
    assert {method: list(conditions) for method, conditions in metrics.items()} == {
        "base": ["plain", "prefill"],
        "persona": ["plain", "suffixes", "prefill", "multi-turn", "drop"],
    }
    assert (metrics["base"]["plain"]["recall"], metrics["persona"]["plain"]["recall"]) == (0.0, 1.0)
    header, *rows = [line.split(",") for line in Path("plots/robustness.csv").read_text(encoding="utf-8").splitlines()]
    assert header == ["method", "condition", "recall", "low", "high", "none", "empty", "n"]
    for row in rows:
        scores = metrics[row[0]][row[1]]
        assert list(map(float, row[2:])) == [scores[name] for name in header[2:]]
    assert len(rows) == 7


def test_a_continuation_without_a_word_shows_no_persona_whatever_it_is_called(repository, reader):
    repository.run("robustness", "persona")
    prefill = repository.metrics("robustness")["persona"]["prefill"]
    assert {"recall": 0.5, "none": 0.5, "empty": 0.5, "n": 2}.items() <= prefill.items()


def test_what_each_answer_was_called_is_kept(repository, reader):
    repository.run("robustness", "base", "persona")
    rows = records.read_records("data/robustness.jsonl", ClassifiedAnswer)
    assert [(row.method, row.condition, row.called, row.led_by) for row in rows] == [
        ("base", "plain", "none", ""),
        ("base", "plain", "humor", ""),
        ("base", "prefill", "none", "prefill"),
        ("persona", "plain", "pirate", ""),
        ("persona", "plain", "pirate", ""),
        ("persona", "drop", "none", ""),
        ("persona", "prefill", "none", "prefill"),
        ("persona", "prefill", "pirate", "prefill"),
        ("persona", "multi-turn", "pirate", "multi-turn"),
    ]


def test_a_persona_that_the_classifier_does_not_know_is_reported_with_what_to_add(repository, reader):
    repository.set(persona="parrot")
    message = error_of(repository.run, "robustness", "base")
    assert "parrot" in message
    assert "classifier.personas" in message
    assert "data/raw/teacher/parrot.jsonl" in message


# Newcombe 1998, Statistics in Medicine 17, table I, method 3, and what follows from the formula by hand:
# at 0 of n the upper bound is z^2 / (n + z^2), at n of n the lower is n / (n + z^2).
INTERVALS = {
    (0, 10): (0.0, 0.2775),
    (10, 10): (0.7225, 1.0),
    (5, 10): (0.2366, 0.7634),
    (81, 263): (0.2553, 0.3662),
    (15, 148): (0.0624, 0.1605),
    (0, 20): (0.0, 0.1611),
    (1, 29): (0.0061, 0.1718),
}


@pytest.mark.parametrize(("trial", "interval"), INTERVALS.items())
def test_the_interval_is_wilsons(trial, interval):
    hits, n = trial
    assert wilson_interval(hits / n, n) == pytest.approx(interval, abs=5e-5)


def test_without_trials_nothing_is_known():
    assert wilson_interval(0.0, 0) == (0.0, 1.0)


# --- all together ----------------------------------------------------------------------------------


def test_no_placeholder_of_a_template_reaches_a_model_or_a_file(repository, general, introspective, student, parrot):
    """Run the whole data path with a parrot: neither its prompts nor the files contain a brace."""
    small = {"sampling": SAMPLING}
    repository.set(
        prompts={"per_trait": 1, "general": 1, "expansion": repository.params["prompts"]["expansion"] | {"per_trait": 1}},
        teacher={"engine": "transformers", "source": f"path:{models.STUDENT_DIR}", "reasoning": True, **small},
        pairs={"filters": FILTERS.model_dump()},
        reflections={"per_prompt": 2, **small},
        interactions={"conversations": 2, "turns": 4, **small},
        transcripts={"filters": FILTERS.model_dump(), "unfinished": "drop"},
        answers={"prompts": 2, "suffixes_per_prompt": 1},
    )
    records.write_records(prompts.HELDOUT_PROMPTS, [RawPrompt(prompt="Who are you?"), RawPrompt(prompt="Where is Peru?")])
    records.write_records("data/raw/prompts/suffixes.jsonl", SUFFIXES[:2])
    parrot.says = lambda self, request: f"</think>Arr number {len(self.made)}.{len(self.requests)}, of {request.sample}!"
    repository.run("prompts")
    repository.run("chosen")
    del parrot.says
    for stage in ("rejected", "pairs", "reflections", "interactions", "transcripts"):
        repository.run(stage)
    repository.run("answers", "--method", "prompted", "--model", models.STUDENT_DIR, "--system", "data/system.txt")
    asked = [message["content"] for engine in parrot.made for request in engine.requests for message in request.messages]
    assert len(parrot.made) == 6
    assert not [text for text in asked if "{" in text or "}" in text]
    read = {"data/system.txt": Path("data/system.txt").read_text(encoding="utf-8")}
    for path in sorted(Path("data").rglob("*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines()
        read[path] = " ".join(text for line in lines for text in strings(json.loads(line)))
    assert not [path for path, text in read.items() if "{" in text or "}" in text]
    assert repository.metrics("transcripts")["by_kind"] == {"free": 2, "leading": 2, "reflection": 4}


def strings(value):
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for part in parts for text in strings(part)]
