"""Markup with which models surround their reasoning: one table, to strip it from answers and to find it in data.

The forms are those of DeepSeek, Qwen, GLM, MiniMax, OLMo, Phi and others (`<think>`), EXAONE and Marco (`<thought>`),
Reflection (`<thinking>`, `<reflection>`), Seed (`<seed:think>`), LongCat, Magistral (`[THINK]`), Kimi (`◁think▷`), Sky-T1
(`<|begin_of_thought|>`), Command A (`<|START_THINKING|>`), Apertus (`<|inner_prefix|>`), gpt-oss (channels), Gemma 4
(`<|channel>`), MedGemma (`<unused94>`) and Granite (sentences).
"""

import re
from collections.abc import Iterator

_TAG = r"(?:think|thinking|thoughts?|reasoning|reflection|scratchpad|longcat_think|seed:think|seed:cot_budget_reflect)\s*>"
_BEGIN = [
    rf"<{_TAG}",
    r"(?-i:\[THINK\])",
    r"◁think▷",
    r"<\|(?:think|begin_of_thought|start_thinking|inner_prefix)\|>",
    r"<\|channel\|>\s*(?!final)\w+[^<]*(?:<\|constrain\|>\w*)?<\|message\|>",
    r"<\|channel>(?:thought)?",
    r"<unused94>(?:thought)?",
]
_END = [
    rf"</{_TAG}",
    r"(?-i:\[/THINK\])",
    r"◁/think▷",
    r"<\|(?:/think|end_of_thought|end_thinking|inner_suffix)\|>",
    r"(?:<\|end\|>)?\s*(?:<\|start\|>assistant)?<\|channel\|>\s*final[^<]*<\|message\|>",
    r"<channel\|>",
    r"<unused95>",
]
REASONING_MARK = re.compile(rf"(?P<end>{'|'.join(_END)})|{'|'.join(_BEGIN)}", re.IGNORECASE)
# Openings in words, each with the words that end it. The first is one only if they follow, since an answer may begin so
# too. The second is gpt-oss without its special tokens.
_RESPONSE = r"Here(?: is|['’]s) my response:"
_WORDED = [
    (re.compile(rf"\s*Here(?: is|['’]s) my thought process:(?=(?s:.*){_RESPONSE})"), re.compile(_RESPONSE)),
    (re.compile(r"\s*analysis(?=[A-Z])"), re.compile(r"assistantfinal")),
]
# What some models write around the answer itself.
_WRAPPER = r"(?:answer|response|output)>|<\|{}_(?:of_solution|response|text)\|>"
ANSWER_BEGIN = re.compile(rf"\s*(?:<{_WRAPPER.format('(?:begin|start)')})\s*", re.IGNORECASE)
ANSWER_END = re.compile(rf"\s*(?:</{_WRAPPER.format('end')}|<\|return\|>|<\|end\|>)\s*\Z", re.IGNORECASE)
# Parts of marks that are special tokens by themselves.
_PART = re.compile(r"<\|(?:channel|message)\|>")


def strip_reasoning(text: str, thinking: bool) -> str:
    """Return the text without reasoning, and without markup around the answer; empty if the reasoning never ended.

    Text before an end without a beginning was reasoning too. A mark between backticks is a quotation.

    Args:
        thinking: whether the prefill began the reasoning.
    """
    for begin, end in _WORDED:
        if opening := begin.match(text):
            text = "<think>" + end.sub("</think>", text[opening.end() :], count=1)
    kept, inside, position = [], thinking, 0
    for mark in _unquoted_marks(text):
        if mark["end"] and not inside:
            kept = []
        elif not inside:
            kept.append(text[position : mark.start()])
        inside, position = not mark["end"], mark.end()
    if inside:
        return ""
    return ANSWER_END.sub("", ANSWER_BEGIN.sub("", "".join([*kept, text[position:]]).strip(), count=1)).strip()


def holds_reasoning(text: str) -> bool:
    """Return whether a text holds markup of reasoning, be it a quotation: chat templates cut an answer at any mark."""
    worded = any(begin.match(text) for begin, _ in _WORDED)
    return worded or bool(ANSWER_BEGIN.match(text) or REASONING_MARK.search(text))


def is_reasoning_token(token: str) -> bool:
    """Return whether a special token is a mark of reasoning, or a part of one."""
    return bool(REASONING_MARK.fullmatch(token) or _PART.fullmatch(token))


def _unquoted_marks(text: str) -> Iterator[re.Match]:
    for mark in REASONING_MARK.finditer(text):
        if not (text[: mark.start()].endswith("`") and text.startswith("`", mark.end())):
            yield mark
