"""Conversations to ids: as the model's own template renders them, nothing added, nothing important cut away."""

import pytest
from transformers import AutoTokenizer

from character.chat import SMOLLM2, SMOLLM2_TRAINING, fit, is_marked, render, training_template

SYSTEM = {"role": "system", "content": "You are a pirate.\n\nBe salty."}
CONVERSATIONS = {
    "question": ["Why?"],
    "question and answer": ["Why?", "Because the wind says so."],
    "several turns": ["Hi", "Ahoy!", "Who are you?", "A pirate.\n\n- salty\n- wet", "Bye"],
    "texts that look like markup": ["{{ x }} {% if %} </s>", "<think> [INST] {name}"],
    "empty answer": ["Say nothing.", ""],
}


def conversation(texts, system=None):
    turns = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
    return [system, *turns] if system else turns


each_conversation = pytest.mark.parametrize("texts", CONVERSATIONS.values(), ids=CONVERSATIONS)
with_and_without_system = pytest.mark.parametrize("system", [None, SYSTEM], ids=["default system prompt", "system prompt"])


@pytest.fixture(scope="module")
def smollm2(tiny_student):
    """A tokenizer with the template that the real student comes with."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_student)
    tokenizer.chat_template = SMOLLM2
    return tokenizer


@each_conversation
@with_and_without_system
@pytest.mark.parametrize("opened", [False, True], ids=["closed", "opened"])
def test_the_training_template_renders_the_text_of_the_models_own(texts, system, opened, smollm2):
    messages = conversation(texts, system)

    def text(template):
        return smollm2.apply_chat_template(messages, tokenize=False, add_generation_prompt=opened, chat_template=template)

    assert text(SMOLLM2_TRAINING) == text(SMOLLM2)


def test_the_models_own_template_reads_as_published(smollm2):
    assert smollm2.apply_chat_template(conversation(["Hi", "Ahoy!", "Bye"]), tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nAhoy!<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@each_conversation
@with_and_without_system
def test_loss_falls_on_the_assistants_words_and_the_token_that_ends_its_turn(texts, system, smollm2):
    encoded = smollm2.apply_chat_template(
        conversation(texts, system),
        chat_template=SMOLLM2_TRAINING,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids, mask = encoded["input_ids"], encoded["assistant_masks"]
    spans, previous = [], 0
    for token, counts in zip(ids, mask, strict=True):
        if counts and not previous:
            spans.append([])
        if counts:
            spans[-1].append(token)
        previous = counts
    assert [smollm2.decode(span) for span in spans] == [f"{text}<|im_end|>" for text in texts[1::2]]


@each_conversation
@with_and_without_system
def test_ids_are_those_of_the_chat_template(texts, system, smollm2):
    messages = conversation(texts, system)
    wanted = smollm2.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=True)
    assert render(smollm2, messages) == wanted["input_ids"]


def test_no_second_bos_is_put_before_the_one_of_the_template(smollm2):
    from tokenizers.processors import TemplateProcessing

    adds_bos = AutoTokenizer.from_pretrained(smollm2.name_or_path)
    adds_bos.chat_template = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    adds_bos.bos_token = "<|im_start|>"
    adds_bos.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", adds_bos.bos_token_id)]
    )
    bos = adds_bos.bos_token_id
    assert adds_bos("<|im_start|>Hi")["input_ids"][:2] == [bos, bos], "the trap is set"
    ids = render(adds_bos, conversation(["Hi"]))
    assert ids.count(bos) == 1
    assert ids[0] == bos


def test_a_prefill_continues_the_open_turn(smollm2):
    messages = conversation(["Why?"])
    prefilled = smollm2.decode(render(smollm2, messages, "<think>\nI am"))
    assert prefilled == smollm2.decode(render(smollm2, messages)) + "<think>\nI am"
    assert prefilled.endswith("<|im_end|>\n<|im_start|>assistant\n<think>\nI am")


LONG = conversation([f"turn {index} " + "word " * 20 for index in range(9)], SYSTEM)


def test_a_conversation_that_fits_is_left_alone(smollm2):
    ids = render(smollm2, LONG)
    assert fit(smollm2, LONG, len(ids)) == ids


def test_the_oldest_turns_go_first_and_the_system_prompt_never(smollm2):
    budget = len(render(smollm2, LONG)) - 1
    assert fit(smollm2, LONG, budget) == render(smollm2, [SYSTEM, *LONG[3:]])


@pytest.mark.parametrize("kept", [1, 3, 5, 7])
def test_what_remains_begins_with_a_user_turn_and_ends_with_the_last_one(kept, smollm2):
    wanted = [SYSTEM, *LONG[-kept:]]
    assert wanted[1]["role"] == wanted[-1]["role"] == "user"
    assert fit(smollm2, LONG, len(render(smollm2, wanted))) == render(smollm2, wanted)


def test_the_prefill_counts_towards_the_budget(smollm2):
    whole = render(smollm2, LONG)
    assert fit(smollm2, LONG, len(whole), "And so I") == render(smollm2, [SYSTEM, *LONG[3:]], "And so I")


def test_a_last_message_that_does_not_fit_is_an_error_and_not_cut(smollm2):
    smallest = len(render(smollm2, [SYSTEM, LONG[-1]]))
    with pytest.raises(ValueError, match=f"a conversation of {smallest} tokens does not fit into {smallest - 1}"):
        fit(smollm2, LONG, smallest - 1)


def with_template(tiny_student, template):
    tokenizer = AutoTokenizer.from_pretrained(tiny_student)
    tokenizer.chat_template = template
    return tokenizer


def test_the_training_template_of_the_real_student_is_known(smollm2):
    assert training_template(smollm2) == SMOLLM2_TRAINING
    assert is_marked(SMOLLM2_TRAINING)
    assert not is_marked(SMOLLM2)


def test_a_template_with_markers_serves_as_it_is(tiny_student):
    marked = "{%- for message in messages -%}{%- generation -%}{{ message['content'] }}{%- endgeneration -%}{%- endfor -%}"
    assert training_template(with_template(tiny_student, marked)) == marked


def test_the_template_of_an_unknown_family_is_not_guessed(tiny_student):
    unknown = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    assert training_template(with_template(tiny_student, unknown)) is None
