"""Reasoning: the markup of every family is found and stripped, and what only looks like it is left alone."""

from pathlib import Path

import pytest
import trl
from tokenizers import AddedToken
from transformers import AutoTokenizer

from character.dataset.reasoning import holds_reasoning, is_reasoning_token, strip_reasoning
from character.inference.chat_format import render_messages, reply_decoder

FAMILIES = {
    "think": ("<think>\nSalt?\n</think>\n\n", "Arr!", ""),
    "upper case": ("<THINKING>Salt?</THINKING>", "Arr!", ""),
    "thought and output": ("<Thought>\nSalt?\n</Thought>\n<Output>\n", "Arr!", "\n</Output>"),
    "reasoning": ("<reasoning>Salt?</reasoning> ", "Arr!", ""),
    "thinking, reflection and output": (
        "<thinking>Salt? <reflection>No, tar.</reflection> Tar.</thinking>\n<output>",
        "Arr!",
        "</output>",
    ),
    "Seed": ("<seed:think>S<seed:cot_budget_reflect>9 left</seed:cot_budget_reflect>alt?</seed:think>", "Arr!", ""),
    "LongCat": ("<longcat_think>\nSalt?\n</longcat_think>\n", "Arr!", ""),
    "Magistral": ("[THINK]Salt? `[/THINK]` ends it.[/THINK]", "Arr!", ""),
    "Kimi": ("◁think▷Salt?◁/think▷", "Arr!", ""),
    "Sky-T1": (
        "<|begin_of_thought|>\n\nSalt?\n\n<|end_of_thought|>\n\n<|begin_of_solution|>\n\n",
        "Arr!",
        "\n\n<|end_of_solution|>",
    ),
    "Command A": ("<|START_THINKING|>Salt?<|END_THINKING|><|START_RESPONSE|>", "Arr!", "<|END_RESPONSE|>"),
    "Apertus": ("<|inner_prefix|>Salt?<|inner_suffix|>", "Arr!", ""),
    "gpt-oss": (
        "<|channel|>analysis<|message|>Salt?<|end|><|start|>assistant<|channel|>commentary to=functions.x <|constrain|>json"
        "<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>",
        "Arr!",
        "<|return|>",
    ),
    "gpt-oss without some tokens": ("<|channel|>analysis<|message|>Salt?assistant<|channel|>final<|message|>", "Arr!", ""),
    "gpt-oss without any": ("analysisThe user asks of salt.assistantfinal", "Arr!", ""),
    "Gemma 4": ("<|channel>thought\nSalt?\n<channel|>", "Arr!", ""),
    "MedGemma": ("<unused94>thought\nSalt?<unused95>", "Arr!", ""),
    "Granite 3.2": ("Here is my thought process: salt?\n\nHere's my response: ", "Arr!", ""),
    "Granite 3.3": ("<think>Salt?</think>\n<response>", "Arr!", "</response>"),
    "Hunyuan": ("<think>\nSalt?\n</think>\n<answer>\n", "Arr!", "\n</answer>"),
    "an answer cut off before its end mark": ("<think>\nSalt?\n</think>\n<answer>\n", "Arr! And th", ""),
    "unopened": ("Salt?\n</think>\n", "Arr!", ""),
    "unopened, of another family": ("Salt?[/THINK]", "Arr!", ""),
    "nested": ("<think>Salt <think>or tar</think>?</think>", "Arr!", ""),
    "ended twice": ("Salt?</think> or tar</think>", "Arr!", ""),
    "begun twice": ("<think>\n<think>Salt?</think>", "Arr!", ""),
    "empty": ("<think>\n\n</think>\n\n", "Arr!", ""),
    "Hindi": ("<think>नमक?</think>", "अरे! यहाँ।", ""),
}


@pytest.mark.parametrize(("before", "answer", "after"), FAMILIES.values(), ids=FAMILIES)
def test_the_reasoning_of_every_family_is_stripped_and_found(before, answer, after):
    assert strip_reasoning(before + answer + after, thinking=False) == answer
    assert holds_reasoning(before + answer + after)
    assert not holds_reasoning(answer)


@pytest.mark.parametrize(("before", "answer", "after"), FAMILIES.values(), ids=FAMILIES)
def test_after_a_prefill_that_began_the_reasoning_the_same_is_left(before, answer, after):
    if "Here is my" in before or before.startswith("analysis"):
        pytest.skip("such a model begins no reasoning that was begun for it")
    assert strip_reasoning("Let me see. " + before + answer + after, thinking=True) == answer


@pytest.mark.parametrize(
    ("text", "thinking"),
    [
        ("salt, salt, and more sal", True),
        ("<|channel|>analysis<|message|>salt, and more sal", False),
        ("[THINK]salt, and", False),
        ("analysisThe user asks of", False),
        ("Arr! <think>or rather", False),
        ("<think>one</think>two<think>and", False),
        ("salt</think>", True),
        ("", True),
    ],
)
def test_reasoning_that_never_ends_leaves_no_answer(text, thinking):
    assert strip_reasoning(text, thinking) == ""


def test_reasoning_between_two_parts_of_an_answer_is_cut_out():
    assert strip_reasoning("<think>a</think>Arr, <think>b</think>matey!", thinking=False) == "Arr, matey!"


@pytest.mark.parametrize(
    "text",
    [
        "I think <5 minutes is enough; thinking> is a habit.",
        "My analysis: The sea is deep. In my final response, salt.",
        "Here is my response: salt.",
        "Here's my thought process: first the salt,\nthen the tar.",
        "[think] of me, [THINKING] aloud, <thinker> and <output-device>.",
        "Channels: analysis, final | message.",
        "<p>A thought</p>",
    ],
)
def test_what_only_looks_like_reasoning_is_left_alone(text):
    assert not holds_reasoning(text)
    assert strip_reasoning(text, thinking=False) == text


@pytest.mark.parametrize("text", ["The tag `<think>` opens it, and `</think>` closes it.", "`[/THINK]`", "说`◁think▷`吧"])
def test_a_quoted_mark_is_no_reasoning_but_a_template_may_cut_the_answer_there(text):
    assert strip_reasoning(text, thinking=False) == text
    assert holds_reasoning(text)


def test_backticks_that_quote_something_else_hide_no_mark():
    assert strip_reasoning("Use ` here</think>Arr, use `x` now.", thinking=False) == "Arr, use `x` now."
    assert strip_reasoning("`x</think>`y`", thinking=False) == "`y`"


TOKENS = ["[THINK]", "[/THINK]", "<think>", "</think>", "<|channel|>", "<|message|>", "<|channel>", "<channel|>", "◁/think▷"]


def test_special_tokens_that_mark_reasoning_are_known():
    assert all(map(is_reasoning_token, TOKENS))
    assert not any(map(is_reasoning_token, ["<|im_end|>", "</s>", "[INST]", "<|end|>", "<|start|>", "<pad>"]))


@pytest.mark.parametrize(
    "tokens",
    [
        ["[THINK]", "[/THINK]"],
        ["<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|return|>"],
        ["<|channel>", "<channel|>"],
    ],
    ids=["Magistral", "gpt-oss", "Gemma 4"],
)
def test_reasoning_between_special_tokens_can_be_told_from_the_answer(tokens, tiny_student):
    tokenizer = AutoTokenizer.from_pretrained(tiny_student)
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    reasoning = {
        "[THINK]": "[THINK]Salt?[/THINK]",
        "<|channel|>": "<|channel|>analysis<|message|>Salt?<|end|><|start|>assistant<|channel|>final<|message|>",
        "<|channel>": "<|channel>thought\nSalt?<channel|>",
    }[tokens[0]]
    ids = tokenizer(f"{reasoning}Arr!{tokenizer.eos_token}", add_special_tokens=False)["input_ids"]
    assert tokens[0] not in tokenizer.decode(ids, skip_special_tokens=True)
    text = reply_decoder(tokenizer)(ids)
    assert (strip_reasoning(text, thinking=False), holds_reasoning(text)) == ("Arr!", True)
    plain = tokenizer(f"Arr!{tokenizer.eos_token}", add_special_tokens=False)["input_ids"]
    assert reply_decoder(tokenizer)(plain) == "Arr!"


OPENING = {"deepseek_r1_distill": "<think>\n", "qwen3_5_think": "<think>\n", "nemotron_3_super": "<think>\n"}


def tokenizer_with(name: str, folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (Path(trl.__file__).parent / f"chat_templates/{name}.jinja").read_text(encoding="utf-8")
    return tokenizer


@pytest.mark.parametrize(("name", "opening"), OPENING.items(), ids=OPENING)
def test_reasoning_that_the_prompt_opens_is_found_in_a_reply_however_it_ends(name, opening, tiny_student):
    tokenizer = tokenizer_with(name, tiny_student)
    decode = reply_decoder(tokenizer)

    def said(text, **more):
        return decode(tokenizer(text, add_special_tokens=False)["input_ids"], **more)

    assert said("Salt, and. Then") == f"{opening}Salt, and. Then"
    assert holds_reasoning(said("盐。然后")) and strip_reasoning(said("盐。然后"), thinking=False) == ""
    assert strip_reasoning(said("Salt?\n</think>\n\nArr!"), thinking=False) == "Arr!"
    assert said("</think>\n\nArr!") == "Arr!"
    begun = said("or tar?</think>Arr!", prefill="<think>\nSalt ")
    assert (begun, strip_reasoning(begun, thinking=True)) == ("or tar?</think>Arr!", "Arr!")
    assert strip_reasoning(said("</think>Arr!", prefill="<think>\nSalt. "), thinking=True) == "Arr!"


@pytest.mark.parametrize(("name", "opening"), OPENING.items(), ids=OPENING)
def test_a_prefill_repeats_no_opening_of_the_prompt(name, opening, tiny_student):
    tokenizer, asked = tokenizer_with(name, tiny_student), [{"role": "user", "content": "Why <think>?"}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(render_messages(tokenizer, asked, "<think>\nSalt ")) == prompt + "Salt "
    assert tokenizer.decode(render_messages(tokenizer, asked, "Well, ")) == prompt + "Well, "
    tokenizer.chat_template = tokenizer.chat_template.replace(opening, "")
    assert tokenizer.decode(render_messages(tokenizer, asked, "<think>\nSalt ")).endswith("<think>\nSalt ")


def test_a_template_that_closes_its_reasoning_opens_none(tiny_student):
    tokenizer = tokenizer_with("qwen3_5_nothink", tiny_student)
    assert "</think>" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "Why?"}], tokenize=False, add_generation_prompt=True
    )
    assert reply_decoder(tokenizer)(tokenizer("Arr!", add_special_tokens=False)["input_ids"]) == "Arr!"


@pytest.mark.parametrize("mark", ["<|channel|>final<|message|>", "[/THINK]", "<channel|>"])
def test_a_reply_that_begins_with_its_answers_mark_holds_no_reasoning(mark, tiny_student):
    tokenizer = AutoTokenizer.from_pretrained(tiny_student)
    special = ["<|channel|>", "<|message|>", "[/THINK]", "<channel|>"]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    decode = reply_decoder(tokenizer)
    ids = tokenizer(f" {mark}Arr!", add_special_tokens=False)["input_ids"]
    assert decode(ids) == "Arr!"
    assert strip_reasoning(decode(ids, prefill="<think>\nSalt. "), thinking=True) == "Arr!"
