"""Chat templates with a fixed date, and with the markers that the trainer needs around assistant turns."""

import re
from datetime import date

TEMPLATE_DATE = date(2024, 7, 26)  # the default date of Llama 3's templates


def pin_date(template: str) -> str:
    """Return the chat template with calls for today's date replaced by a fixed date, which keeps runs reproducible."""
    return re.sub(
        r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""",
        lambda call: f"{call[1]}{TEMPLATE_DATE.strftime(call[2])}{call[1]}",
        template,
    )


def training_template(tokenizer) -> str | None:
    """Return the chat template with `{% generation %}` markers around assistant turns, or None for an unknown family.

    The markers only show the trainer which tokens are the assistant's; the rendered text stays the same.
    """
    from trl.chat_template_utils import get_training_chat_template

    template = tokenizer.chat_template
    if marks_assistant_turns(template):
        return template
    if template == SMOLLM2_TEMPLATE:
        return SMOLLM2_TRAINING_TEMPLATE
    try:
        return get_training_chat_template(tokenizer)
    except ValueError:
        return None


def marks_assistant_turns(template: str) -> bool:
    """Return whether a chat template has `{% generation %}` markers."""
    from trl.chat_template_utils import has_generation_markers

    return has_generation_markers(template)


_SMOLLM2_HEAD = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "' }}{% endif %}"
)
_SMOLLM2_TAIL = "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
SMOLLM2_TEMPLATE = (
    _SMOLLM2_HEAD + "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}" + _SMOLLM2_TAIL
)
SMOLLM2_TRAINING_TEMPLATE = (
    _SMOLLM2_HEAD + "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}" + _SMOLLM2_TAIL
)
