"""Chat templates: made fit for every conversation of the pipeline, and conversations rendered with the place of each answer.

A template is changed once, when a tokenizer is saved or loaded, so engines, trainers and servers all render the same text.
"""

import json
import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

from pydantic import StrictBool, StrictFloat, StrictInt

from character.core.errors import UserError
from character.core.safe_text import shorten_text
from character.core.text_input import read_json_object

TemplateArguments = dict[str, StrictBool | StrictInt | StrictFloat | str]
TEMPLATE_DATE = date(2024, 7, 26)  # the default date of Llama 3's templates
RENDER_ARGUMENTS = {"add_generation_prompt", "continue_final_message", "documents", "messages", "tools"}  # set by callers
RENDER_FUNCTIONS = {"raise_exception", "strftime_now"}  # set by transformers
PRIVATE_USE = range(0xE000, 0xF900)  # code points without a meaning

# Lines put before a template; the line end after a block is no part of the text.
# For templates that expect content as a list of parts (Idefics 3, LLaVA-NeXT, SmolVLM).
TEXT_PARTS = (
    "{% set parted = namespace(messages=[]) %}{% for message in messages %}"
    "{% set parted.messages = parted.messages + [dict(message, content=[{'type': 'text', 'text': message['content']}]"
    " if message['content'] is string else message['content'])] %}{% endfor %}{% set messages = parted.messages %}\n"
)
# For templates that refuse or drop a system prompt (Gemma 2): it opens the first user turn, as in Gemma 3's template.
SYSTEM_IN_USER_TURN = (
    "{% if messages[0]['role'] == 'system' %}{% set messages = [dict(messages[1], content="
    "messages[0]['content'] + '\\n\\n' + messages[1]['content'])] + messages[2:] %}{% endif %}\n"
)


def pin_date(template: str) -> str:
    """Return the chat template with calls for today's date replaced by a fixed date, which keeps runs reproducible."""
    return re.sub(
        r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""",
        lambda call: f"{call[1]}{TEMPLATE_DATE.strftime(call[2])}{call[1]}",
        template,
    )


def set_defaults(template: str, arguments: TemplateArguments, owner: str) -> str:
    """Return the chat template with default values for its arguments, such as {"enable_thinking": False}.

    Args:
        owner: the section of params.yaml that holds the arguments.

    Raises:
        UserError: the template has no such argument, or is no valid template.
    """
    known = template_variables(template) - RENDER_ARGUMENTS - RENDER_FUNCTIONS if arguments else set()
    for name in arguments:
        if name not in known:
            raise UserError(
                f"params.yaml: {owner}.chat_template_kwargs: the chat template has no argument {name!r}; correct or remove it."
            )
    values = {name: json.dumps(value, ensure_ascii=False) for name, value in arguments.items()}
    return "".join(f"{{% set {name} = {name} | default({value}) %}}\n" for name, value in values.items()) + template


def template_variables(template: str) -> set[str]:
    """Return the names that a chat template reads before it sets them, on some way through it.

    Raises:
        UserError: it is no valid template.
    """
    from jinja2 import Environment, TemplateSyntaxError, meta

    plain = re.sub(r"{%[-+]?\s*(?:end)?generation\s*[-+]?%}", "", template)  # a tag of transformers, around answers
    try:
        return meta.find_undeclared_variables(Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain))
    except TemplateSyntaxError as error:
        raise UserError(f"the chat template is no valid one ({error}); correct it, or choose another model.") from None


def read_own_template(tokenizer, folder: Path) -> str:
    """Return a model's own chat template; of several, the one named `default`: others are for tools and documents.

    Args:
        folder: the model's, where multimodal models may keep it in chat_template.json, which tokenizers do not read.

    Raises:
        UserError: there is none, or chat_template.json cannot be read.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template and (file := folder / "chat_template.json").is_file():
        template = read_json_object(file, "restore the file").get("chat_template")
    if not template:
        raise UserError(f"{folder}: no chat template; choose a chat model, or name a file in student.chat_template.")
    return template


def adapt_template(tokenizer, template: str, arguments: TemplateArguments, owner: str = "student") -> str:
    """Return a chat template with a fixed date and default arguments, which takes plain texts and a system prompt.

    Args:
        owner: the section of params.yaml that holds the arguments.

    Raises:
        UserError: the template has no argument of a given name.
    """
    template = set_defaults(pin_date(template), arguments, owner)
    candidates = [before + template for before in ("", TEXT_PARTS, SYSTEM_IN_USER_TURN, SYSTEM_IN_USER_TURN + TEXT_PARTS)]
    return next((candidate for candidate in candidates if _shows_all_texts(tokenizer, candidate)), template)


def _shows_all_texts(tokenizer, template: str) -> bool:
    from jinja2 import TemplateError

    messages = [{"role": role, "content": f"Text of the {role}."} for role in ("system", "user")]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, chat_template=template)
    except (TemplateError, TypeError):
        return False
    return all(message["content"] in text for message in messages)


class Answer(NamedTuple):
    """The place of an assistant turn in a rendered conversation, in characters.

    It begins with the first character that the model writes; `content_end` is the end of its words, and `end` that of the token
    that ends the turn.
    """

    start: int
    content_end: int
    end: int


class ChatRenderer:
    """Renders conversations with a tokenizer's own chat template, and finds the answers in them.

    `turn_end` is what the template writes after an answer, up to and with the special token that ends the turn; empty if no
    such token follows. `lead` is the white space before an answer that the model writes itself (Llama 2), since the prompt
    for an answer ends before it. `opens_as_prompted` says whether an answer otherwise follows the prompt directly.

    Args:
        remedy: what to do about a template that cannot serve, for error messages.
    """

    def __init__(self, tokenizer, remedy: str = "name another template in student.chat_template"):
        self.tokenizer, self._remedy = tokenizer, remedy
        special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        names = sorted(special | set(tokenizer.all_special_tokens), key=len, reverse=True)
        self._ending = re.compile(rf"\s*(?:{'|'.join(map(re.escape, names)) or '(?!)'})")
        question, answer = ({"role": role, "content": f"Text of the {role}."} for role in ("user", "assistant"))
        before, after = self._pieces([question, answer])
        # GLM ends a conversation without a token: the one that opens the next turn ends the answer.
        self.turn_end = self._turn_end(after) or self._turn_end(self._pieces([question, answer, question])[1])
        prompt = self.render([question], add_generation_prompt=True)
        gap = before.removeprefix(prompt)
        self.lead = gap if gap.isspace() else ""
        self.opens_as_prompted = prompt + self.lead == before

    def render(self, messages: Sequence[dict[str, str]], **options) -> str:
        """Return the text that the chat template renders.

        Raises:
            UserError: the template refuses the conversation.
        """
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
        except TemplateError as error:
            raise UserError(f"the chat template refuses a conversation ({error}); choose another model.") from None

    def locate_answers(self, messages: Sequence[dict[str, str]]) -> tuple[str, list[Answer]]:
        """Return the rendered conversation, and the place of each assistant turn.

        White space around an answer is left out: most engines and some templates remove it.

        Raises:
            UserError: the template refuses the conversation, or changes an answer.
        """
        messages = [_strip_answer(message) for message in messages]
        contents = [message["content"] for message in messages if message["role"] == "assistant"]
        text, *tails = self._pieces(messages)
        answers = []
        for content, tail in zip(contents, tails, strict=True):
            start, content_end = len(text), len(text) + len(content)
            lead = len(self.lead) if self.lead and text.endswith(self.lead) else 0
            end = content_end + len(self.turn_end) if tail.startswith(self.turn_end) else content_end
            answers.append(Answer(start - lead, content_end, end))
            text += content + tail
        if text != self.render(messages):
            raise UserError(
                f"the chat template changes an answer, one of {[shorten_text(content, 60) for content in contents]}; "
                f"remove the markup in it, or {self._remedy}."
            )
        return self._close(text, answers)

    def _close(self, text: str, answers: list[Answer]) -> tuple[str, list[Answer]]:
        """Add the end of the last turn if the template leaves it open."""
        last = answers[-1]
        tail = text[last.content_end :]
        if last.end > last.content_end or not self.turn_end.startswith(tail):
            return text, answers
        text += self.turn_end.removeprefix(tail)
        return text, [*answers[:-1], last._replace(end=len(text))]

    def _pieces(self, messages: Sequence[dict[str, str]]) -> list[str]:
        """Return what the template writes before the first answer, between answers, and after the last one."""
        used = {character for message in messages for character in message["content"]}
        mark = next(chr(code) for code in PRIVATE_USE if chr(code) not in used)
        number = iter(range(len(messages)))
        marked = [
            message | {"content": f"{mark}{next(number)}{mark}"} if message["role"] == "assistant" else message
            for message in messages
        ]
        pieces = re.split(f"{mark}([0-9]+){mark}", self.render(marked))
        if pieces[1::2] != [str(index) for index in range(next(number))]:
            raise UserError(f"the chat template leaves out, repeats or reorders answers; {self._remedy}.")
        return pieces[::2]

    def _turn_end(self, tail: str) -> str:
        match = self._ending.match(tail)
        return match[0] if match else ""


def _strip_answer(message: dict[str, str]) -> dict[str, str]:
    return message | {"content": message["content"].strip()} if message["role"] == "assistant" else message
