"""Conversations to token ids, exactly as the model's own chat template renders them."""

from collections.abc import Sequence

from character.core.errors import UserError

Messages = Sequence[dict[str, str]]


def render_messages(tokenizer, messages: Messages, prefill: str = "") -> list[int]:
    """Return the ids of `messages` with an open assistant turn that begins with `prefill`.

    The template writes every special token itself, so none is added: a second BOS would go unnoticed and cost quality.
    """
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return tokenizer(text + prefill, add_special_tokens=False)["input_ids"]


def truncate_to_context(tokenizer, messages: Messages, budget: int, prefill: str = "") -> tuple[list[int], bool]:
    """Return the ids of `messages`, without the oldest turns where they exceed `budget` tokens, and whether any are gone.

    The system prompt and the last message always stay, and what remains still begins with a user turn.

    Raises:
        ValueError: the system prompt and the last message alone exceed the budget.
    """
    system = [message for message in messages if message["role"] == "system"]
    turns = whole = [message for message in messages if message["role"] != "system"]
    while len(ids := render_messages(tokenizer, [*system, *turns], prefill)) > budget:
        turns = turns[2:]
        if not turns:
            raise ValueError(f"a conversation of {len(ids)} tokens does not fit into {budget}")
    return ids, len(turns) < len(whole)


def render_requests(tokenizer, requests: Sequence, context: int, max_new_tokens: int, model: str) -> list[list[int]]:
    """Return the ids of each request of `generate`; how many had to be shortened to fit is told."""
    from jinja2 import TemplateError

    try:
        fitted = [
            truncate_to_context(tokenizer, request.messages, context - max_new_tokens, request.prefill) for request in requests
        ]
    except ValueError as error:
        raise UserError(f"{model}: {error} (its context less max_new_tokens); shorten the prompt.") from None
    except TemplateError as error:  # such as Gemma 2's, which has no place for a system prompt
        raise UserError(f"{model}: its chat template refuses a conversation ({error}); choose another model.") from None
    if shortened := sum(cut for _, cut in fitted):
        print(f"{shortened} of {len(requests)} conversations shortened to fit into {context} tokens", flush=True)
    return [ids for ids, _ in fitted]


def turn_end_token(tokenizer) -> int | None:
    """Return the special token with which the chat template ends an assistant turn."""
    said = "A reply."
    messages = [{"role": "user", "content": "A question."}, {"role": "assistant", "content": said}]
    _, _, after = tokenizer.apply_chat_template(messages, tokenize=False).rpartition(said)
    ids = tokenizer(after, add_special_tokens=False)["input_ids"]
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return next((token for token in ids if token in special), None)
