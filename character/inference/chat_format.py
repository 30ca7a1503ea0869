"""Conversations as token ids, rendered by the model's own chat template."""

from collections.abc import Callable, Sequence

from character.core.chat_template import ChatRenderer
from character.core.errors import UserError
from character.core.safe_text import print_text
from character.dataset.reasoning import REASONING_MARK, is_reasoning_token
from character.inference.generate import Reply, Request, SamplingSettings

Messages = Sequence[dict[str, str]]


def render_messages(tokenizer, messages: Messages, prefill: str = "") -> list[int]:
    """Return the token ids of `messages`, followed by an open assistant turn that begins with `prefill`.

    A first line of the prefill that the template writes too, such as `<think>`, stands there once. The template writes every
    special token itself, so the tokenizer adds none: a second BOS would lower quality unnoticed.
    """
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    opening = prefill.partition("\n")[0]
    if opening and text.rstrip().endswith(opening):
        text = text.rstrip().removesuffix(opening)
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


def render_requests(
    tokenizer, requests: Sequence[Request], context: int, sampling: SamplingSettings, model: str
) -> tuple[dict[int, list[int]], list[tuple[int, Reply]]]:
    """Return the token ids of each request by its index, and (index, reply) of those that are skipped.

    Conversations that were shortened to fit are counted and printed. A request is skipped if it is too long all the same, or
    if the chat template rejects it.

    Args:
        context: the model's context length in tokens, of which `max_new_tokens` are kept free for the reply.
        model: the model's name for the reasons.
    """
    from jinja2 import TemplateError

    limit = sampling.field_path("max_new_tokens")
    prompts, skipped, shortened = {}, [], 0
    for index, request in enumerate(requests):
        try:
            budget = context - sampling.max_new_tokens
            prompts[index], cut = truncate_to_context(tokenizer, request.messages, budget, request.prefill)
            shortened += cut
        except ValueError:
            reason = f"longer than the context of {model}, {context} tokens less {limit}: {sampling.max_new_tokens}"
            skipped.append((index, Reply.skip(f"{reason}; shorten the prompt, or lower {limit}")))
        except TemplateError as error:  # such as those that need turns to alternate
            reason = f"the chat template of {model} refuses the conversation: {str(error).rstrip('.')}"
            skipped.append((index, Reply.skip(f"{reason}; choose another model")))
    if shortened:
        print_text(f"{shortened} of {len(requests)} conversations shortened to fit into {context} tokens")
    return prompts, skipped


def usable_context(config, name: str) -> int:
    """Return how many tokens a conversation may have, at most: no more than `original_context`.

    Args:
        config: the model's configuration.
        name: the model's name for error messages.
    """
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not context:
        raise UserError(f"{name}: config.json has no max_position_embeddings; add it, or name another model.")
    return min(context, original_context(config) or context)


def original_context(config) -> int | None:
    """Return the context in tokens of the original training, for models whose RoPE depends on it; None for others.

    Longrope and dynamic RoPE choose their frequencies by the longest text of a batch or the longest that is allowed, once that
    is longer than the texts of the original training. Up to there a text depends on neither, and every engine reads it alike.
    """
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]
    varying = [kind for kind in kinds if kind.get("rope_type") in ("longrope", "dynamic")]
    return min(filter(None, (kind.get("original_max_position_embeddings") for kind in varying)), default=None)


def reply_decoder(tokenizer) -> Callable[..., str]:
    """Return a function of a reply's token ids, and of its prefill, that decodes the reply.

    Special tokens are left out, except marks of reasoning: without them, reasoning could not be told from the answer. A mark
    with which the template opens every reply is put before it, unless the reasoning ends at once. After a prefill the reply
    is left as it is: who wrote that knows what it opens.
    """
    special = {token: added.content for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    marks = {token for token, text in special.items() if is_reasoning_token(text)}

    opened = _opened_reasoning(tokenizer)

    def decode(ids: Sequence[int], prefill: str = "") -> str:
        if marks.intersection(ids):
            text = tokenizer.decode([token for token in ids if token in marks or token not in special]).strip()
        else:
            text = tokenizer.decode(ids, skip_special_tokens=True).strip()
        if prefill:
            return text
        first = REASONING_MARK.match(text)
        return text[first.end() :].strip() if first and first["end"] else (opened + text).strip()

    return decode


def _opened_reasoning(tokenizer) -> str:
    """Return the end of a prompt from the mark on with which the chat template begins reasoning; empty if it begins none."""
    question = "Text of the user."
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True)
    opening = prompt.rpartition(question)[2]
    marks = list(REASONING_MARK.finditer(opening))
    return opening[marks[-1].start() :] if marks and not marks[-1]["end"] else ""


def turn_end_token(tokenizer) -> int | None:
    """Return the id of the special token with which the chat template ends an assistant turn, None if there is none."""
    remedy = f"choose another model than {tokenizer.name_or_path}"  # the student's template was checked when it was fetched
    token = ChatRenderer(tokenizer, remedy).turn_end.strip()
    return tokenizer.convert_tokens_to_ids(token) if token else None
