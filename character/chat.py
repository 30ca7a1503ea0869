"""Conversations to token ids, exactly as the model's own chat template renders them."""

import re
from collections.abc import Sequence
from datetime import date

from character.errors import UserError

Messages = Sequence[dict[str, str]]

DATE = date(2024, 7, 26)  # what Llama 3's templates say where they are told no date


def render(tokenizer, messages: Messages, prefill: str = "") -> list[int]:
    """Return the ids of `messages` with an open assistant turn that begins with `prefill`.

    The template writes every special token itself, so none is added: a second BOS would go unnoticed and cost quality.
    """
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return tokenizer(text + prefill, add_special_tokens=False)["input_ids"]


def fit(tokenizer, messages: Messages, budget: int, prefill: str = "") -> tuple[list[int], bool]:
    """Return the ids of `messages`, without the oldest turns where they exceed `budget` tokens, and whether any are gone.

    The system prompt and the last message always stay, and what remains still begins with a user turn.

    Raises:
        ValueError: the system prompt and the last message alone exceed the budget.
    """
    system = [message for message in messages if message["role"] == "system"]
    turns = whole = [message for message in messages if message["role"] != "system"]
    while len(ids := render(tokenizer, [*system, *turns], prefill)) > budget:
        turns = turns[2:]
        if not turns:
            raise ValueError(f"a conversation of {len(ids)} tokens does not fit into {budget}")
    return ids, len(turns) < len(whole)


def fit_all(tokenizer, requests: Sequence, context: int, max_new_tokens: int, model: str) -> list[list[int]]:
    """Return the ids of each request of `generate`; how many had to be shortened to fit is told."""
    from jinja2 import TemplateError

    try:
        fitted = [fit(tokenizer, request.messages, context - max_new_tokens, request.prefill) for request in requests]
    except ValueError as error:
        raise UserError(f"{model}: {error} (its context less max_new_tokens); shorten the prompt.") from None
    except TemplateError as error:  # such as Gemma 2's, which has no place for a system prompt
        raise UserError(f"{model}: its chat template refuses a conversation ({error}); choose another model.") from None
    if shortened := sum(cut for _, cut in fitted):
        print(f"{shortened} of {len(requests)} conversations shortened to fit into {context} tokens", flush=True)
    return [ids for ids, _ in fitted]


def turn_end(tokenizer) -> int | None:
    """Return the special token with which the chat template ends an assistant turn."""
    said = "A reply."
    messages = [{"role": "user", "content": "A question."}, {"role": "assistant", "content": said}]
    _, _, after = tokenizer.apply_chat_template(messages, tokenize=False).rpartition(said)
    ids = tokenizer(after, add_special_tokens=False)["input_ids"]
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return next((token for token in ids if token in special), None)


def dated(template: str) -> str:
    """Return the chat template with today's date, where it asks for that, replaced by a fixed one: runs must repeat."""
    return re.sub(
        r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""", lambda call: f"{call[1]}{DATE.strftime(call[2])}{call[1]}", template
    )


def training_template(tokenizer) -> str | None:
    """Return the chat template with `{% generation %}` markers around assistant turns, or None for an unknown family.

    The markers only tell the trainer which tokens are the assistant's; the rendered text stays the same.
    """
    from trl.chat_template_utils import get_training_chat_template

    template = tokenizer.chat_template
    if is_marked(template):
        return template
    if template == SMOLLM2:
        return SMOLLM2_TRAINING
    try:
        return get_training_chat_template(tokenizer)
    except ValueError:
        return None


def is_marked(template: str) -> bool:
    """Return whether a chat template has `{% generation %}` markers."""
    from trl.chat_template_utils import has_generation_markers

    return has_generation_markers(template)


_SMOLLM2_HEAD = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "' }}{% endif %}"
)
_SMOLLM2_TAIL = "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
SMOLLM2 = (
    _SMOLLM2_HEAD + "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}" + _SMOLLM2_TAIL
)
SMOLLM2_TRAINING = (
    _SMOLLM2_HEAD + "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}" + _SMOLLM2_TAIL
)
