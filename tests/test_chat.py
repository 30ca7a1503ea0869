"""Conversations to ids: as the model's own template renders them, nothing added, nothing important cut away."""

import copy
import re
from typing import NamedTuple

import pytest
from templates import SMOLLM2_TEMPLATE
from transformers import AutoTokenizer

from character.core.chat_template import pin_date
from character.core.errors import UserError
from character.core.params import ParamsSection, read_section
from character.inference.chat_format import render_messages, render_requests, truncate_to_context, turn_end_token
from character.inference.generate import Reply, Request, SamplingSettings

TEN_TOKENS = SamplingSettings(max_new_tokens=10, temperature=0, top_p=1)
SYSTEM = {"role": "system", "content": "You are a pirate.\n\nBe salty."}
CONVERSATIONS = {
    "question": ["Why?"],
    "question and answer": ["Why?", "Because the wind says so."],
    "several turns": ["Hi", "Ahoy!", "Who are you?", "A pirate.\n\n- salty\n- wet", "Bye"],
    "texts that look like markup": ["{{ x }} {% if %} </s>", "<think> [INST] {name}"],
    "empty answer": ["Say nothing.", ""],
}


def conversation(texts, system=None):
    turns = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
    return [system, *turns] if system else turns


each_conversation = pytest.mark.parametrize("texts", CONVERSATIONS.values(), ids=CONVERSATIONS)
with_and_without_system = pytest.mark.parametrize("system", [None, SYSTEM], ids=["default system prompt", "system prompt"])


@pytest.fixture(scope="module")
def smollm2(tiny_student):
    """A tokenizer with the template that the real student comes with."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_student)
    tokenizer.chat_template = SMOLLM2_TEMPLATE
    return tokenizer


def test_the_models_own_template_reads_as_published(smollm2):
    assert smollm2.apply_chat_template(conversation(["Hi", "Ahoy!", "Bye"]), tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nAhoy!<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@each_conversation
@with_and_without_system
def test_ids_are_those_of_the_chat_template(texts, system, smollm2):
    messages = conversation(texts, system)
    wanted = smollm2.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=True)
    assert render_messages(smollm2, messages) == wanted["input_ids"]


def test_no_second_bos_is_put_before_the_one_of_the_template(smollm2):
    from tokenizers.processors import TemplateProcessing

    adds_bos = AutoTokenizer.from_pretrained(smollm2.name_or_path)
    adds_bos.chat_template = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    adds_bos.bos_token = "<|im_start|>"
    adds_bos.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", adds_bos.bos_token_id)]
    )
    bos = adds_bos.bos_token_id
    assert adds_bos("<|im_start|>Hi")["input_ids"][:2] == [bos, bos], "the trap is set"
    ids = render_messages(adds_bos, conversation(["Hi"]))
    assert ids.count(bos) == 1
    assert ids[0] == bos


def test_a_prefill_continues_the_open_turn(smollm2):
    messages = conversation(["Why?"])
    prefilled = smollm2.decode(render_messages(smollm2, messages, "<think>\nI am"))
    assert prefilled == smollm2.decode(render_messages(smollm2, messages)) + "<think>\nI am"
    assert prefilled.endswith("<|im_end|>\n<|im_start|>assistant\n<think>\nI am")


LONG = conversation([f"turn {index} " + "word " * 20 for index in range(9)], SYSTEM)


def test_a_conversation_that_fits_is_left_alone(smollm2):
    ids = render_messages(smollm2, LONG)
    assert truncate_to_context(smollm2, LONG, len(ids)) == (ids, False)


def test_the_oldest_turns_go_first_and_the_system_prompt_never(smollm2):
    budget = len(render_messages(smollm2, LONG)) - 1
    assert truncate_to_context(smollm2, LONG, budget) == (render_messages(smollm2, [SYSTEM, *LONG[3:]]), True)


@pytest.mark.parametrize("kept", [1, 3, 5, 7])
def test_what_remains_begins_with_a_user_turn_and_ends_with_the_last_one(kept, smollm2):
    wanted = [SYSTEM, *LONG[-kept:]]
    assert wanted[1]["role"] == wanted[-1]["role"] == "user"
    assert truncate_to_context(smollm2, LONG, len(render_messages(smollm2, wanted))) == (render_messages(smollm2, wanted), True)


def test_the_prefill_counts_towards_the_budget(smollm2):
    whole = render_messages(smollm2, LONG)
    assert truncate_to_context(smollm2, LONG, len(whole), "And so I") == (
        render_messages(smollm2, [SYSTEM, *LONG[3:]], "And so I"),
        True,
    )


def test_a_last_message_that_does_not_fit_is_an_error_and_not_cut(smollm2):
    smallest = len(render_messages(smollm2, [SYSTEM, LONG[-1]]))
    with pytest.raises(ValueError, match=f"a conversation of {smallest} tokens does not fit into {smallest - 1}"):
        truncate_to_context(smollm2, LONG, smallest - 1)


def test_a_template_that_refuses_a_system_prompt_is_reported_in_one_sentence(tiny_student):
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    asked = [Request("a", conversation(["Why?"], SYSTEM))]
    prompts, skipped = render_requests(with_template(tiny_student, refusing), asked, 100, TEN_TOKENS, "gemma")
    assert not prompts
    reason = "the chat template of gemma refuses the conversation: System role not supported; choose another model"
    assert skipped == [(0, Reply.skip(reason))]


def test_a_prompt_that_does_not_fit_is_skipped_alone_and_its_reason_names_the_setting(smollm2, tmp_path):
    (tmp_path / "params.yaml").write_text(
        "teacher:\n  sampling: {max_new_tokens: 10, temperature: 0.9, top_p: 1}\n", encoding="utf-8"
    )

    class Teacher(ParamsSection):
        sampling: SamplingSettings

    sampling = read_section("teacher", Teacher, tmp_path / "params.yaml").sampling
    asked = [Request(str(number), conversation([text])) for number, text in enumerate(["Why?", "雨はなぜ降る? " * 40, "How?"])]
    prompts, skipped = render_requests(smollm2, asked, 90, sampling, "models/student")
    assert prompts == {index: render_messages(smollm2, asked[index].messages) for index in (0, 2)}
    reason = (
        "longer than the context of models/student, 90 tokens less teacher.sampling.max_new_tokens: 10; "
        "shorten the prompt, or lower teacher.sampling.max_new_tokens"
    )
    assert skipped == [(1, Reply.skip(reason))]


def test_how_many_conversations_were_shortened_is_reported(smollm2, capsys):
    asked = [Request("long", LONG), Request("short", conversation(["Why?"]))]
    prompts, skipped = render_requests(smollm2, asked, len(render_messages(smollm2, LONG)) + 9, TEN_TOKENS, "model")
    assert capsys.readouterr().out.startswith("1 of 2 conversations shortened to fit into ")
    assert [*prompts.values()] == [
        render_messages(smollm2, [SYSTEM, *LONG[3:]]),
        render_messages(smollm2, conversation(["Why?"])),
    ]
    assert not skipped


def with_template(tiny_student, template):
    tokenizer = AutoTokenizer.from_pretrained(tiny_student)
    tokenizer.chat_template = template
    return tokenizer


# --- the real templates of the families that are trained most -----------------------------------------


class Family(NamedTuple):
    """A chat template that TRL ships as published, with what its tokenizer has for it."""

    template: str
    bos: str | None
    end: str
    opening: str
    default_system: str | None  # what it says where no system prompt is given


FAMILIES = {
    "llama3_1": Family(
        "llama3_1", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>\n\n", "2024"
    ),
    "llama3_2": Family(
        "llama3_2", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>\n\n", "2024"
    ),
    "qwen2_5": Family("qwen2_5", None, "<|im_end|>", "<|im_start|>assistant\n", "You are Qwen"),
    "qwen3": Family("qwen3", None, "<|im_end|>", "<|im_start|>assistant\n", None),
    "gemma3": Family("gemma3", "<bos>", "<end_of_turn>", "<start_of_turn>model\n", None),
}
MARKERS = [
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<bos>",
    "<start_of_turn>",
    "<end_of_turn>",
]
TALK = conversation(["Hi", "Ahoy!", "Bye"], SYSTEM)


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def family(request, tiny_student):
    from trl import chat_template_utils

    tokenizer = AutoTokenizer.from_pretrained(tiny_student)
    tokenizer.add_special_tokens({"additional_special_tokens": MARKERS})
    if request.param.bos:
        tokenizer.bos_token = request.param.bos
    tokenizer.chat_template = pin_date(getattr(chat_template_utils, f"{request.param.template}_chat_template"))
    return request.param, tokenizer


def test_there_is_one_bos_and_the_text_is_the_templates_own(family):
    about, tokenizer = family
    ids = render_messages(tokenizer, TALK)
    text = tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(ids) == text
    assert ids == tokenizer.apply_chat_template(TALK, add_generation_prompt=True, return_dict=True)["input_ids"]
    if about.bos:
        assert ids.count(tokenizer.convert_tokens_to_ids(about.bos)) == 1


def test_the_system_prompt_is_there_once_in_the_templates_own_way(family):
    about, tokenizer = family
    text = tokenizer.decode(render_messages(tokenizer, TALK))
    assert text.count("You are a pirate.") == 1
    assert text.index("You are a pirate.") < text.index("Hi")
    if about.template == "gemma3":
        assert "system" not in text, "Gemma has no such role: it stands before the user's first words"


def test_a_default_system_text_is_kept(family):
    about, tokenizer = family
    text = tokenizer.decode(render_messages(tokenizer, conversation(["Hi"])))
    assert about.default_system is None or about.default_system in text


def test_the_date_never_changes(family):
    about, tokenizer = family
    assert "strftime_now" not in tokenizer.chat_template.replace("strftime_now is defined", "")
    if about.template.startswith("llama"):
        assert "Today Date: 26 Jul 2024" in tokenizer.decode(render_messages(tokenizer, TALK))


def test_a_prefill_continues_the_turn_that_the_template_opens(family):
    about, tokenizer = family
    assert tokenizer.decode(render_messages(tokenizer, TALK, "I am")).endswith(about.opening + "I am")


def test_the_token_that_ends_a_turn_is_found_in_the_template(family):
    about, tokenizer = family
    assert turn_end_token(tokenizer) == tokenizer.convert_tokens_to_ids(about.end)


def test_another_models_template_without_answers_is_none_of_the_students(family):
    _, tokenizer = copy.deepcopy(family)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] if m['role'] == 'user' }}{% endfor %}"
    sentence = f"leaves out, repeats or reorders answers; choose another model than {re.escape(tokenizer.name_or_path)}"
    with pytest.raises(UserError, match=sentence):
        turn_end_token(tokenizer)


def test_what_is_too_long_loses_its_oldest_turns_and_not_the_system_prompt(family):
    _, tokenizer = family
    whole = render_messages(tokenizer, LONG)
    ids, cut = truncate_to_context(tokenizer, LONG, len(whole) - 1)
    text = tokenizer.decode(ids)
    assert cut and "You are a pirate." in text and "turn 0" not in text and "turn 2" in text and "turn 8" in text
