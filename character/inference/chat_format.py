"""Conversations as token ids, rendered by the model's own chat template."""

from collections.abc import Sequence

from character.core.errors import UserError
from character.core.safe_text import print_text

Messages = Sequence[dict[str, str]]


def render_messages(tokenizer, messages: Messages, prefill: str = "") -> list[int]:
    """Return the token ids of `messages`, followed by an open assistant turn that begins with `prefill`.

    The template writes every special token itself, so the tokenizer adds none: a second BOS would lower quality unnoticed.
    """
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return tokenizer(text + prefill, add_special_tokens=False)["input_ids"]


def truncate_to_context(tokenizer, messages: Messages, budget: int, prefill: str = "") -> tuple[list[int], bool]:
    """Return the token ids of `messages`, without the oldest turns if they exceed `budget` tokens, and whether any are missing.

    The system prompt and the last message are always kept, and the conversation still begins with a user turn.

    Raises:
        ValueError: the system prompt and the last message by themselves exceed the budget.
    """
    system = [message for message in messages if message["role"] == "system"]
    turns = all_turns = [message for message in messages if message["role"] != "system"]
    while len(ids := render_messages(tokenizer, [*system, *turns], prefill)) > budget:
        turns = turns[2:]
        if not turns:
            raise ValueError(f"a conversation of {len(ids)} tokens does not fit into {budget}")
    return ids, len(turns) < len(all_turns)


def render_requests(tokenizer, requests: Sequence, context: int, max_new_tokens: int, model: str) -> list[list[int]]:
    """Return the token ids of each request of `generate`, and print how many conversations were shortened to fit.

    Args:
        context: the model's context length in tokens, of which `max_new_tokens` are kept free for the reply.
        model: the model's name for error messages.

    Raises:
        UserError: a prompt is too long, or the chat template rejects a conversation.
    """
    from jinja2 import TemplateError

    try:
        fitted = [
            truncate_to_context(tokenizer, request.messages, context - max_new_tokens, request.prefill) for request in requests
        ]
    except ValueError as error:
        raise UserError(f"{model}: {error} (its context less max_new_tokens); shorten the prompt.") from None
    except TemplateError as error:  # such as that of Gemma 2, which supports no system prompt
        raise UserError(f"{model}: its chat template refuses a conversation ({error}); choose another model.") from None
    if shortened := sum(cut for _, cut in fitted):
        print_text(f"{shortened} of {len(requests)} conversations shortened to fit into {context} tokens")
    return [ids for ids, _ in fitted]


def turn_end_token(tokenizer) -> int | None:
    """Return the id of the special token with which the chat template ends an assistant turn, None if there is none."""
    reply = "A reply."
    messages = [{"role": "user", "content": "A question."}, {"role": "assistant", "content": reply}]
    _, _, after = tokenizer.apply_chat_template(messages, tokenize=False).rpartition(reply)
    ids = tokenizer(after, add_special_tokens=False)["input_ids"]
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return next((token for token in ids if token in special), None)
