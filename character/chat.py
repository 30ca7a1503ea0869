"""Conversations to token ids, exactly as the model's own chat template renders them."""

from collections.abc import Sequence

Messages = Sequence[dict[str, str]]


def render(tokenizer, messages: Messages, prefill: str = "") -> list[int]:
    """Return the ids of `messages` with an open assistant turn that begins with `prefill`.

    The template writes every special token itself, so none is added: a second BOS would go unnoticed and cost quality.
    """
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return tokenizer(text + prefill, add_special_tokens=False)["input_ids"]


def fit(tokenizer, messages: Messages, budget: int, prefill: str = "") -> list[int]:
    """Return the ids of `messages`, without the oldest turns where they exceed `budget` tokens.

    The system prompt and the last message always stay, and what remains still begins with a user turn.

    Raises:
        ValueError: the system prompt and the last message alone exceed the budget.
    """
    system = [message for message in messages if message["role"] == "system"]
    turns = [message for message in messages if message["role"] != "system"]
    while len(ids := render(tokenizer, [*system, *turns], prefill)) > budget:
        turns = turns[2:]
        if not turns:
            raise ValueError(f"a conversation of {len(ids)} tokens does not fit into {budget}")
    return ids


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
