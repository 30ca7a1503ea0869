"""What is trained: an answer and the token that ends its turn, for the chat templates of all families that TRL knows."""

import copy
import re
from functools import cache
from itertools import groupby, product
from pathlib import Path

import pytest
import trl
from templates import SMOLLM2_TEMPLATE
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from character.core.chat_template import ChatRenderer, adapt_template
from character.core.errors import UserError
from character.core.records import Message, PreferencePair, TrainingTranscript
from character.inference.chat_format import render_messages, turn_end_token
from character.training.conversation_tokens import IGNORED_LABEL, ConversationTokenizer
from stages.student import check_template

TEMPLATES = {path.stem: path for path in sorted((Path(trl.__file__).parent / "chat_templates").glob("*.jinja"))}
ENDS = {  # by the beginning of the file's name; the longest counts
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "cohere2": "<|END_RESPONSE|>",
    "deepseek": "<｜end▁of▁sentence｜>",
    "diffusion_gemma": "<turn|>",
    "gemma": "<end_of_turn>",
    "gemma4": "<turn|>",
    "glm4moe": "<|user|>",  # which opens the next turn
    "gptoss": "<|return|>",
    "idefics3": "<end_of_utterance>",
    "lfm2": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "llava_next": "</s>",
    "muse_glimmer": "<|eot|>",
    "nemotron_3": "<|im_end|>",
    "phi3": "<|end|>",
    "qwen": "<|im_end|>",
    "smolvlm": "<end_of_utterance>",
}
LEADS = {"idefics3": " ", "llava_next": " ", "smolvlm": " "}  # the model writes the space before its answer itself
# These open an answer with a thought or a channel, which the prompt for an answer leaves to the model.
CHANNELS = r"deepseek.*|gptoss|muse_glimmer"
THOUGHTS = r"glm4moe|nemotron_3.*|qwen3|qwen3_5_think|qwen3_6|qwen3_8"  # not with enable_thinking: false

each_template = pytest.mark.parametrize("name", TEMPLATES)


def family(name: str) -> str:
    return name.removesuffix("_training")


def value_for(table: dict[str, str], name: str) -> str:
    return table[max((beginning for beginning in table if name.startswith(beginning)), key=len)]


@cache
def markers() -> list[str]:
    """Return everything in TRL's templates that looks like a special token."""
    text = "".join(path.read_text(encoding="utf-8") for path in TEMPLATES.values())
    shapes = r"<\|[a-zA-Z_]+\|>|<｜[^｜>]+｜>|<[a-z]+_of_[a-z]+>|</?s>|<turn\|>|<\|turn>"
    return sorted(set(re.findall(shapes, text)) | set(ENDS.values()))


@pytest.fixture(scope="module")
def tokenizer(tiny_student) -> PreTrainedTokenizerFast:
    made = AutoTokenizer.from_pretrained(tiny_student)
    made.add_special_tokens({"additional_special_tokens": markers()})
    return made


@pytest.fixture
def tokenizer_with(tokenizer):
    def make(template: str, arguments=None) -> PreTrainedTokenizerFast:
        tokenizer.chat_template = adapt_template(tokenizer, template, arguments or {})
        return tokenizer

    return make


@pytest.fixture
def tokenizer_of(tokenizer_with):
    return lambda name, arguments=None: tokenizer_with(TEMPLATES[name].read_text(encoding="utf-8"), arguments)


def talk(*texts: str, system: str | None = None) -> list[Message]:
    turns = [Message(role=("user", "assistant")[index % 2], content=text) for index, text in enumerate(texts)]
    return [Message(role="system", content=system), *turns] if system else turns


def trained_texts(tokenizer, messages: list[Message], finish_reasons: list[str] | None = None) -> list[str]:
    """Return each run of tokens that have a label, as text."""
    reasons = finish_reasons or ["stop"] * sum(message.role == "assistant" for message in messages)
    row = ConversationTokenizer(tokenizer).encode_transcript(TrainingTranscript(messages=messages, finish_reasons=reasons))
    pairs = list(zip(row["input_ids"], row["labels"], strict=True))
    assert all(label in (token, IGNORED_LABEL) for token, label in pairs)
    runs = groupby(pairs, key=lambda pair: pair[1] != IGNORED_LABEL)
    return [tokenizer.decode([token for token, _ in run]) for trained, run in runs if trained]


def pair_of(prompt: str, chosen: str, rejected: str, finish: str = "stop", system: str | None = None) -> PreferencePair:
    return PreferencePair(
        prompt=talk(prompt, system=system),
        chosen=talk("", chosen)[1:],
        rejected=talk("", rejected)[1:],
        chosen_finish_reason="stop",
        rejected_finish_reason=finish,
    )


ANSWERS = ["  नमस्ते! मैं ठीक हूँ।\n", "1.\tEins\n\n2. Zwei  — “drei”…", "\u3000你好。\u3000", "العربية؟ 🍵"]


@each_template
@pytest.mark.parametrize("system", [None, "Sé amable.\n\nY breve."], ids=["no system prompt", "system prompt"])
def test_an_answer_and_its_end_are_trained_and_nothing_else(name, system, tokenizer_of):
    tokenizer, end, lead = tokenizer_of(name), value_for(ENDS, name), value_for(LEADS | {"": ""}, name)
    for turns in (1, 2, 4):
        answers = ANSWERS[:turns]
        texts = [text for index, answer in enumerate(answers) for text in (f" Frage {index}?\n", answer)]
        # In a history, gpt-oss ends answers with <|end|>, which ends no generation.
        ends = ["" if name.startswith("gptoss") else end] * (turns - 1) + [end]
        wanted = [f"{lead}{answer.strip()}{end}" for answer, end in zip(answers, ends, strict=True)]
        assert trained_texts(tokenizer, talk(*texts, system=system)) == wanted


@each_template
def test_the_student_stage_takes_the_template_and_the_engines_stop_where_it_ends_an_answer(name, tokenizer_of):
    tokenizer = tokenizer_of(name)
    check_template(ChatRenderer(tokenizer))
    assert turn_end_token(tokenizer) == tokenizer.convert_tokens_to_ids(value_for(ENDS, name))


@each_template
def test_the_tokens_are_those_of_the_rendered_conversation(name, tokenizer_of):
    tokenizer = tokenizer_of(name)
    messages = talk("Wie?", "So.", "Warum?", "Darum.", system="Kurz.")
    row = ConversationTokenizer(tokenizer).encode_transcript(
        TrainingTranscript(messages=messages, finish_reasons=["stop", "length"])
    )
    text = tokenizer.apply_chat_template([message.model_dump() for message in messages], tokenize=False)
    if name == "glm4moe":
        text += "<|user|>"  # its end of the last answer
    assert row["input_ids"] == tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", [name for name in TEMPLATES if not re.fullmatch(CHANNELS, family(name))])
def test_the_prompt_of_a_pair_is_what_generation_reads(name, tokenizer_of):
    pair = pair_of("Wie geht’s?", "你好。", "Arr!", system="Kurz.")
    tokenizer = tokenizer_of(name, {"enable_thinking": False} if re.fullmatch(THOUGHTS, family(name)) else {})
    row = ConversationTokenizer(tokenizer).encode_pair(pair)
    assert row["prompt_ids"] == render_messages(tokenizer, [message.model_dump() for message in pair.prompt])


@each_template
def test_a_template_that_opens_an_answer_in_two_ways_is_told_from_others(name, tokenizer_of):
    thinks = re.fullmatch(f"{CHANNELS}|{THOUGHTS}", family(name))
    assert ChatRenderer(tokenizer_of(name)).opens_as_prompted == (not thinks)


@each_template
def test_an_answer_that_was_cut_off_does_not_teach_its_end(name, tokenizer_of):
    tokenizer, end, lead = tokenizer_of(name), value_for(ENDS, name), value_for(LEADS | {"": ""}, name)
    row = ConversationTokenizer(tokenizer).encode_pair(pair_of("Wie?", "So.", "Ganz anders, und", "length"))
    assert tokenizer.decode(row["chosen_ids"]) == f"{lead}So.{end}"
    assert tokenizer.decode(row["rejected_ids"]) == f"{lead}Ganz anders, und"
    texts = trained_texts(tokenizer, talk("Wie?", "So, und", "Wie?", "Ganz anders, und"), ["length", "length"])
    assert texts == [f"{lead}So, und", f"{lead}Ganz anders, und"]


TRICKY = {
    "the end of a turn": "Write <|im_end|> and stop.",
    "a whole turn": "<|im_end|>\n<|im_start|>user\nNo.<|im_end|>\n<|im_start|>assistant\nYes.",
    "the role": "assistant",
    "another's mark": "</s><end_of_turn>[INST] <|eot_id|>",
    "a template": "{{ messages }} {% for m in messages %} {% generation %}",
    "private characters": "\ue000\ue0010\ue0000\ue000",
    "the question": "Frage?",
    "line ends of other systems": "a\r\nb\u2028c\x85d",
    "parts of characters": "e\u0301 ﬁ 👩\u200d👩\u200d👧 \u202eabc",
}


@pytest.mark.parametrize("answer", TRICKY.values(), ids=TRICKY)
@pytest.mark.parametrize("name", ["qwen2_5", "gemma3", "llama3_1", "llava_next", "phi3", "glm4moe"])
def test_what_an_answer_says_does_not_move_its_limits(answer, name, tokenizer_of):
    tokenizer, end, lead = tokenizer_of(name), value_for(ENDS, name), value_for(LEADS | {"": ""}, name)
    assert trained_texts(tokenizer, talk("Frage?", answer, answer, answer)) == [f"{lead}{answer}{end}"] * 2


def test_markup_that_the_template_would_remove_is_reported(tokenizer_of):
    tokenizer = tokenizer_of("qwen3")
    assert trained_texts(tokenizer, talk("Wie?", "So <think> es.")) == ["So <think> es.<|im_end|>"]
    with pytest.raises(UserError, match=r"changes an answer, one of \['Erst dies</think>dann das'\]; remove the markup"):
        trained_texts(tokenizer, talk("Wie?", "Erst dies</think>dann das"))


def test_a_conversation_that_the_template_refuses_is_reported(tokenizer_of):
    with pytest.raises(UserError, match=r"the chat template refuses a conversation \(Conversation roles must alternate"):
        trained_texts(tokenizer_of("gemma3"), [*talk("Wie?"), *talk("Wie?", "So.")])


def test_an_empty_answer_is_its_end_alone(tokenizer_with):
    tokenizer = tokenizer_with(SMOLLM2_TEMPLATE)
    assert trained_texts(tokenizer, talk("Schweig.", "", "Und?", "Ja.")) == ["<|im_end|>", "Ja.<|im_end|>"]
    assert trained_texts(tokenizer, talk("Schweig.", ""), ["length"]) == []


# --- the default student ---------------------------------------------------------------------------


def ids_of(tokenizer, *parts: str) -> list[int]:
    return [token for part in parts for token in tokenizer(part, add_special_tokens=False)["input_ids"]]


def test_the_default_students_tokens_and_labels_are_those_of_its_format(tokenizer_with):
    tokenizer = tokenizer_with(SMOLLM2_TEMPLATE)
    encode = ConversationTokenizer(tokenizer)
    start, end = (tokenizer.convert_tokens_to_ids(f"<|im_{side}|>") for side in ("start", "end"))
    newline = ids_of(tokenizer, "\n")
    default = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    system = [start, *ids_of(tokenizer, f"system\n{default}"), end, *newline]
    question = [start, *ids_of(tokenizer, "user\nWhat is tea?"), end, *newline]
    opening = [start, *ids_of(tokenizer, "assistant\n")]
    answer, other = ids_of(tokenizer, "A leaf, they say."), ids_of(tokenizer, "It is hot")
    row = encode.encode_pair(pair_of("What is tea?", "A leaf, they say.", "It is hot"))
    assert row == {"prompt_ids": system + question + opening, "chosen_ids": [*answer, end], "rejected_ids": [*other, end]}
    transcript = TrainingTranscript(messages=talk("What is tea?", "A leaf, they say."), finish_reasons=["stop"])
    head = system + question + opening
    assert encode.encode_transcript(transcript) == {
        "input_ids": [*head, *answer, end, *newline],
        "labels": [IGNORED_LABEL] * len(head) + [*answer, end] + [IGNORED_LABEL] * len(newline),
    }


# --- other tokenizers ------------------------------------------------------------------------------


def metaspace_tokenizer(prepend_scheme: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer that joins a space to the word after it, as SentencePiece does for Llama 2 and Mistral."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    pieces = ["▁", "<unk>", "<s>", "</s>", "[INST]", "[/INST]", *"abcdefghijklmnopqrstuvwxyzAWS!?.你好"]
    merges = [("▁", "S"), ("▁S", "o")]
    vocabulary = {piece: number for number, piece in enumerate([*pieces, *("".join(merge) for merge in merges)])}
    bpe = Tokenizer(BPE(vocabulary, merges, unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme)
    bpe.decoder = decoders.Metaspace(prepend_scheme=prepend_scheme)
    bpe.add_special_tokens([AddedToken(text, special=True) for text in ("<s>", "</s>", "[INST]", "[/INST]")])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + "
    "' [/INST]' }}{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(("scheme", "first"), list(product(["first", "always", "never"], ["So!", "你好."])))
def test_the_space_before_an_answer_is_its_own_if_the_prompt_ends_before_it(scheme, first):
    tokenizer = metaspace_tokenizer(scheme)
    tokenizer.chat_template = MISTRAL
    row = ConversationTokenizer(tokenizer).encode_pair(pair_of("Wie?", first, "Arr"))
    assert row["prompt_ids"] == render_messages(tokenizer, [{"role": "user", "content": "Wie?"}])
    assert tokenizer.convert_ids_to_tokens(row["prompt_ids"])[-1] == "[/INST]"
    chosen = tokenizer.convert_ids_to_tokens(row["chosen_ids"])
    assert "".join(chosen).replace("▁", " ") == f" {first} </s>"


@pytest.mark.parametrize("trim", [True, False])
def test_offsets_that_leave_out_spaces_change_nothing(trim, tokenizer_of):
    from tokenizers.processors import ByteLevel

    tokenizer = copy.deepcopy(tokenizer_of("qwen2_5"))
    tokenizer.backend_tokenizer.post_processor = ByteLevel(trim_offsets=trim)
    assert trained_texts(tokenizer, talk("Wie?", "So  und \n\n so", " Und? ", "Ja")) == [
        "So  und \n\n so<|im_end|>",
        "Ja<|im_end|>",
    ]
