"""Generation: sampling follows the model's distribution, a reply depends on its request only, the cache keeps each one."""

import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from character.core import models
from character.core.errors import UserError
from character.core.records import write_json
from character.inference import reply_cache, token_sampling
from character.inference.chat_format import render_messages
from character.inference.generate import Reply, Request, SamplingSettings, generate, request_seed
from character.inference.kv_cache import enable_grouped_attention
from character.inference.reply_cache import ReplyCache, default_cache_path
from character.inference.token_sampling import sample_top_p
from character.inference.transformers_engine import TransformersEngine, sample_continuations

GREEDY = SamplingSettings(max_new_tokens=20, temperature=0, top_p=1)
WARM = SamplingSettings(max_new_tokens=12, temperature=0.7, top_p=0.95)
TOPICS = [
    "rain",
    "a river that runs uphill",
    "why bread rises, in one short sentence please",
    "",
    "tea",
    "the sea at night",
]


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    """An empty repository with runtime settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    runtime(batch=4)
    return tmp_path


def runtime(batch):
    lines = ["runtime:", "  device: cpu", "  threads: 1", f"  generation_batch: {batch}", "  training_batch: 1"]
    lines += ['  accelerate: ""', "  report_to: []"]
    Path("params.yaml").write_text("\n".join(lines), encoding="utf-8")


def asking(topics, system=None, **more):
    opening = [{"role": "system", "content": system}] if system else []
    return [Request(f"id-{topic}", [*opening, {"role": "user", "content": topic}], **more) for topic in topics]


# --- drawing one token -----------------------------------------------------------------------------


LOGITS = torch.tensor([0.3, 2.1, -1.0, 1.9, 0.0, -4.0, 1.2, 0.9, -0.5, 2.0])


def nucleus(logits, temperature, top_p):
    """Return the exact distribution, the long way: sort, cut after the token that reaches top_p, renormalise."""
    scaled = logits.double().numpy() / temperature
    probabilities = numpy.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    kept, total = numpy.zeros_like(probabilities), 0.0
    for token in sorted(range(len(probabilities)), key=lambda token: -probabilities[token]):
        if total >= top_p:
            break
        kept[token] = probabilities[token]
        total += probabilities[token]
    return kept / kept.sum()


@pytest.mark.parametrize("candidates", [256, 3], ids=["nucleus among the candidates", "nucleus larger than those"])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.95, 1.0])
def test_tokens_are_drawn_with_the_exact_probabilities_of_the_nucleus(candidates, temperature, top_p, monkeypatch):
    monkeypatch.setattr(token_sampling, "TOP_P_CANDIDATES", candidates)
    count = 20_000
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    drawn = sample_top_p(LOGITS.repeat(count, 1), temperature, top_p, uniform)
    shares = torch.bincount(drawn, minlength=len(LOGITS)).numpy() / count
    wanted = nucleus(LOGITS, temperature, top_p)
    assert set(numpy.flatnonzero(shares)) == {token for token in range(len(LOGITS)) if wanted[token] > 1 / count}
    assert numpy.abs(shares - wanted).max() < 2 / count


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.95])
def test_the_nucleus_is_that_of_transformers_own_warpers(temperature, top_p):
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    warped = TopPLogitsWarper(top_p)(None, TemperatureLogitsWarper(temperature)(None, LOGITS[None]))[0]
    assert numpy.abs(nucleus(LOGITS, temperature, top_p) - warped.softmax(-1).numpy()).max() < 1e-6


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53], ids=["least", "largest"])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 1.0])
def test_the_ends_of_the_unit_interval_stay_in_the_nucleus(uniform, top_p):
    token = sample_top_p(LOGITS[None], 1.0, top_p, torch.tensor([uniform], dtype=torch.float64)).item()
    assert nucleus(LOGITS, 1.0, top_p)[token] > 0


def test_temperature_zero_takes_the_likeliest_token_whatever_the_draw():
    assert sample_top_p(LOGITS.repeat(3, 1), 0, 0.95, torch.tensor([0.0, 0.5, 0.999])).tolist() == [1, 1, 1]


def test_a_row_with_a_wide_nucleus_does_not_change_its_neighbours(monkeypatch):
    monkeypatch.setattr(token_sampling, "TOP_P_CANDIDATES", 4)
    narrow, wide = LOGITS * 8, LOGITS * 0
    uniform = torch.tensor([0.37, 0.81], dtype=torch.float64)
    together = sample_top_p(torch.stack([narrow, wide + LOGITS * 0.01]), 1.0, 0.95, uniform)
    alone = [
        sample_top_p(row[None], 1.0, 0.95, u[None]) for row, u in zip([narrow, wide + LOGITS * 0.01], uniform, strict=True)
    ]
    assert together.tolist() == [token.item() for token in alone]


# --- the loop --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopping_student(sharp_student, tmp_path_factory):
    """The sharp student, whose generation config makes every fortieth token end the turn."""
    folder = tmp_path_factory.mktemp("stopping") / "student"
    shutil.copytree(sharp_student, folder)
    path = folder / "generation_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["eos_token_id"] = list(range(2, 600, 40))
    path.write_text(json.dumps(config), encoding="utf-8")
    return folder


def sampled(model, prompts, sampling, seeds, stops, slots=64, limits=None):
    """Return the new ids of each prompt, in order, and whether a stop token ended them."""
    replies = {
        n: (ids, stopped) for n, ids, stopped in sample_continuations(model, prompts, sampling, seeds, stops, slots, limits)
    }
    assert sorted(replies) == list(range(len(prompts)))
    return [replies[number] for number in range(len(prompts))]


def reference(model, prompt, stops, count):
    """Return what `model.generate` continues one prompt with, without the token that ends it, and whether one did."""
    ids = torch.tensor([prompt])
    whole = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=count,
        eos_token_id=sorted(stops),
        pad_token_id=0,
    )
    new = whole[0, len(prompt) :].tolist()
    return (new[:-1], True) if new[-1] in stops else (new, False)


def random_prompts(lengths, prefix=0):
    generator = torch.Generator().manual_seed(1)

    def tokens(count):
        return torch.randint(3, 600, (count,), generator=generator).tolist()

    shared = tokens(prefix)
    return [shared + tokens(length) for length in lengths]


PROMPTS = {
    "mixed lengths": random_prompts([5, 40, 1, 17, 17, 2, 90]),
    "mixed lengths after a shared prefix": random_prompts([5, 40, 1, 17, 2], prefix=30),
    "equal lengths after a shared prefix": random_prompts([8, 8, 8], prefix=30),
    "one prompt": random_prompts([25]),
    "one token": random_prompts([1]),
    "equal prompts": random_prompts([25]) * 3,
    "one prompt that begins another": [random_prompts([30])[0][:10], random_prompts([30])[0]],
}


@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("stops", [{2}, set(range(2, 600, 9))], ids=["few stop", "many stop"])
def test_greedy_replies_are_those_of_the_models_own_generate(prompts, stops, sharp_student):
    plain = models.load_model(sharp_student)
    wanted = [reference(plain, prompt, stops, 20) for prompt in prompts]
    model = enable_grouped_attention(models.load_model(sharp_student))
    for slots in (1, 3, 64):
        assert sampled(model, prompts, GREEDY, list(range(len(prompts))), stops, slots) == wanted


def test_the_greedy_examples_vary_in_words_and_length(sharp_student):
    model = models.load_model(sharp_student)
    prompts, stops = PROMPTS["mixed lengths"], set(range(2, 600, 9))
    assert len({length for length in (len(reference(model, prompt, stops, 20)[0]) for prompt in prompts)}) > 3
    assert min(len(set(reference(model, prompt, set(), 20)[0])) for prompt in prompts) > 10


def chi_square(drawn, wanted):
    """Return the statistic and its degrees of freedom, with the rare tokens as one."""
    often = wanted * drawn.sum() >= 10
    observed = numpy.append(drawn[often], drawn[~often].sum())
    expected = numpy.append(wanted[often], wanted[~often].sum()) * drawn.sum()
    used = expected > 0
    return ((observed - expected)[used] ** 2 / expected[used]).sum(), used.sum() - 1


@pytest.mark.parametrize("step", [0, 1], ids=["first token", "second token, given the first"])
def test_sampled_tokens_follow_the_models_probabilities(step, sharp_student):
    model = enable_grouped_attention(models.load_model(sharp_student))
    prompt, count = random_prompts([12])[0], 4000
    sampling = SamplingSettings(max_new_tokens=2, temperature=0.8, top_p=0.9)
    seeds = [request_seed(0, Request(str(number), [])) for number in range(count)]
    replies = [ids for ids, _ in sampled(model, [prompt] * count, sampling, seeds, set())]
    if step:
        commonest, _ = Counter(ids[0] for ids in replies).most_common(1)[0]
        prompt, replies = [*prompt, commonest], [ids for ids in replies if ids[0] == commonest]
    with torch.inference_mode():
        wanted = nucleus(model(torch.tensor([prompt])).logits[0, -1], 0.8, 0.9)
    drawn = numpy.bincount([ids[step] for ids in replies], minlength=600)
    assert drawn[wanted == 0].sum() == 0
    statistic, freedom = chi_square(drawn, wanted)
    assert freedom >= 5
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5  # four standard deviations above its mean


def tiny(kind, **changes):
    """A random model of another family, with weights large enough that its next token depends on all before."""
    sizes = {"vocab_size": 600, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.3, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, **sizes | {"tie_word_embeddings": False, "eos_token_id": None} | changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": 16},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gemma3_text": {"head_dim": 16, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"] * 2},
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_other_families_of_models_continue_as_their_own_generate_does(kind):
    changes = FAMILIES[kind] | ({"num_hidden_layers": 4} if kind == "gemma3_text" else {})
    prompts = random_prompts([5, 40, 1, 90], prefix=20)
    wanted = [reference(tiny(kind, **changes), prompt, {2}, 20) for prompt in prompts]
    model = enable_grouped_attention(tiny(kind, **changes))
    assert sampled(model, prompts, GREEDY, range(4), {2}) == wanted


# --- the engine ------------------------------------------------------------------------------------


def replies_of(student, requests, sampling=WARM, seed=0, adapters=()):
    """Answer `requests` by the engine itself, without the cache."""
    engine = TransformersEngine(student, adapters)
    replies = dict(engine.stream(requests, sampling, [request_seed(seed, request) for request in requests]))
    return [replies[index] for index in range(len(requests))]


@pytest.mark.parametrize("top_p", [0.5, 0.95])
def test_a_reply_does_not_depend_on_what_shares_its_batch(top_p, stopping_student):
    requests, sampling = (
        asking(TOPICS, system="You are a pirate."),
        SamplingSettings(max_new_tokens=30, temperature=1, top_p=top_p),
    )
    together = replies_of(stopping_student, requests, sampling)
    assert [replies_of(stopping_student, [request], sampling)[0] for request in requests] == together
    other_neighbours = replies_of(stopping_student, [*asking(["a much longer question " * 9]), *requests[::-2]], sampling)
    assert other_neighbours[1:] == together[::-2]
    assert len({reply.text for reply in together}) == len(requests)


@pytest.mark.parametrize("system", ["", "You are a pirate. " * 30], ids=["nothing shared", "a long shared system prompt"])
def test_replies_are_the_same_bits_whatever_the_batch_the_order_and_the_company(system, stopping_student):
    requests = [request for n in range(7) for request in asking([*TOPICS, "a long question " * 30], system=system, sample=n)]
    sampling = SamplingSettings(max_new_tokens=40, temperature=1, top_p=0.95, repetition_penalty=1.2)
    model, tokenizer = enable_grouped_attention(models.load_model(stopping_student)), models.load_tokenizer(stopping_student)
    prompts = [render_messages(tokenizer, request.messages) for request in requests]
    seeds = [request_seed(0, request) for request in requests]

    def run(numbers, slots):
        chosen = [prompts[n] for n in numbers], sampling, [seeds[n] for n in numbers]
        return dict(zip(numbers, sampled(model, *chosen, set(range(2, 600, 40)), slots), strict=True))

    numbers = list(range(len(requests)))
    wanted = run(numbers, 32)
    assert len({len(ids) for ids, _ in wanted.values()}) > 10
    assert run(numbers, 8) == wanted
    assert run(numbers[::-1], 13) == wanted
    for some in (numbers[5:6], numbers[3:40:3]):
        assert run(some, 32) == {number: wanted[number] for number in some}


def test_each_prompt_may_have_a_limit_of_its_own(sharp_student):
    model, prompts = enable_grouped_attention(models.load_model(sharp_student)), PROMPTS["mixed lengths"]
    limits = [1, 30, 2, 9, 17, 5, 3]
    whole = sampled(model, prompts, GREEDY, range(7), set(), limits=[30] * 7)
    short = sampled(model, prompts, GREEDY, range(7), set(), 2, limits)
    assert short == [(ids[:limit], False) for (ids, _), limit in zip(whole, limits, strict=True)]


def test_the_repetition_penalty_is_that_of_generate(sharp_student):
    model, prompt = models.load_model(sharp_student), random_prompts([30])[0]
    options = {"do_sample": False, "max_new_tokens": 40, "eos_token_id": None, "pad_token_id": 0}
    ids = torch.tensor([prompt])
    wanted = model.generate(ids, attention_mask=torch.ones_like(ids), repetition_penalty=1.3, **options)[0, 30:].tolist()
    sampling = SamplingSettings(max_new_tokens=40, temperature=0, top_p=1, repetition_penalty=1.3)
    assert sampled(enable_grouped_attention(model), [prompt], sampling, [0], set())[0][0] == wanted


def test_samples_of_one_prompt_differ_and_each_can_be_had_again(sharp_student):
    requests = [request for number in range(4) for request in asking(["tea"], sample=number)]
    replies = replies_of(sharp_student, requests)
    assert len({reply.text for reply in replies}) == 4
    assert replies_of(sharp_student, requests[2:3]) == replies[2:3]


def test_a_reply_is_finished_by_a_stop_token_and_cut_off_by_the_limit(stopping_student):
    sampling = SamplingSettings(max_new_tokens=8, temperature=1, top_p=1)
    replies = replies_of(stopping_student, [request for n in range(12) for request in asking(TOPICS, sample=n)], sampling)
    assert {reply.finish_reason for reply in replies} == {"stop", "length"}
    for reply in replies:
        assert (reply.tokens == 8) == (reply.finish_reason == "length")
        assert reply.tokens <= 8


def test_a_turn_ends_with_the_token_of_the_chat_template_even_if_that_is_not_eos(sharp_student, tmp_path):
    tokenizer, model = models.load_tokenizer(sharp_student), models.load_model(sharp_student)
    ids, _ = reference(model, render_messages(tokenizer, asking(["tea"])[0].messages), set(), 20)
    last = next(index for index in range(3, 20) if ids[index] not in ids[:index])
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end not in ids[:last]
    swapped = [end, ids[last]]  # the model now writes <|im_end|> where it wrote ids[last]
    model.lm_head.weight.data[swapped] = model.lm_head.weight.data[swapped[::-1]]
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    student = shutil.copytree(sharp_student, tmp_path / "student")
    model.save_pretrained(student)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(student)
    reply = replies_of(student, asking(["tea"]), GREEDY)[0]
    assert (reply.text, reply.finish_reason, reply.tokens) == (tokenizer.decode(ids[:last]).strip(), "stop", last)


def test_a_reply_holds_neither_special_tokens_nor_the_prompt(stopping_student):
    replies = replies_of(stopping_student, asking(TOPICS, system="You are a pirate."))
    assert not [reply for reply in replies if "<|" in reply.text or "pirate" in reply.text or reply.text != reply.text.strip()]


def test_a_prefilled_reply_continues_the_open_turn(sharp_student):
    request = asking(["tea"], prefill="<think>\nI love tea. ")[0]
    tokenizer, model = models.load_tokenizer(sharp_student), models.load_model(sharp_student)
    wanted, _ = reference(model, render_messages(tokenizer, request.messages, request.prefill), {2}, 20)
    assert replies_of(sharp_student, [request], GREEDY)[0].text == tokenizer.decode(wanted, skip_special_tokens=True).strip()
    assert replies_of(sharp_student, [request], GREEDY) != replies_of(sharp_student, asking(["tea"]), GREEDY)


def test_a_conversation_longer_than_the_model_loses_its_oldest_turns_and_keeps_its_system_prompt(sharp_student):
    system = {"role": "system", "content": "You are a pirate."}
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"{i} " + "salt and wind " * 40} for i in range(11)]
    tokenizer = models.load_tokenizer(sharp_student)
    lengths = [len(render_messages(tokenizer, [system, *turns[start:]])) for start in range(0, 11, 2)]
    sampling = GREEDY.model_copy(update={"max_new_tokens": 300})
    first = next(index for index, length in enumerate(lengths) if length <= 2048 - 300)
    assert lengths[first - 1] <= 2048, "without room for the reply one more pair of turns would fit"
    long, short = ([Request("a", [system, *turns[start:]])] for start in (0, 2 * first))
    assert replies_of(sharp_student, long, sampling) == replies_of(sharp_student, short, sampling)


def test_a_prompt_that_does_not_fit_is_skipped_and_the_others_keep_their_places_and_seeds(sharp_student):
    requests = asking(["tea", "salt and wind " * 700, "the sea", "sand " * 3000])
    replies = replies_of(sharp_student, requests)
    assert [reply.skipped for reply in replies] == [False, True, False, True]
    assert replies[::2] == replies_of(sharp_student, requests[::2])
    engine = TransformersEngine(sharp_student)
    with pytest.raises(UserError, match=r"none of 2 requests got a reply: longer than the context of .* lower max_new_tokens"):
        generate(engine, requests[1::2], WARM, 0)


def adapter(folder, student, seed):
    """Write a LoRA adapter with random factors on all attention layers."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(models.load_model(student), config).save_pretrained(folder)
    return folder


def test_adapters_are_folded_in_one_after_the_other(sharp_student, tmp_path):
    from peft import PeftModel

    folders = [adapter(tmp_path / name, sharp_student, seed) for seed, name in enumerate(["first", "second"])]
    model = models.load_model(sharp_student)
    for folder in folders:
        model = PeftModel.from_pretrained(model, folder).merge_and_unload()
    prompt = render_messages(models.load_tokenizer(sharp_student), asking(["tea"])[0].messages)
    wanted = models.load_tokenizer(sharp_student).decode(reference(model, prompt, {2}, 20)[0], skip_special_tokens=True)
    replies = {
        count: replies_of(sharp_student, asking(["tea"]), GREEDY, adapters=folders[:count])[0].text for count in range(3)
    }
    assert replies[2] == wanted.strip()
    assert len(set(replies.values())) == 3


def identity(student, adapters=()):
    return TransformersEngine(student, adapters).identity


def test_what_shapes_replies_is_part_of_the_engines_identity(tiny_student, tmp_path):
    folder, other = tmp_path / "adapter", tmp_path / "other"
    for path in (folder, other):
        path.mkdir()
        write_json(path / "adapter_config.json", {"r": 8, "target_modules": [path.name]})
    student = shutil.copytree(tiny_student, tmp_path / "student")
    seen = [
        identity(student),
        identity(student, [folder]),
        identity(student, [other]),
        identity(student, [folder, other]),
    ]
    seen.append(identity(student, [other, folder]))
    write_json(folder / "adapter_config.json", {"r": 4, "target_modules": ["adapter"]})
    seen.append(identity(student, [folder]))
    card = json.loads((student / "student.json").read_text(encoding="utf-8"))
    for change in ({"dtype": "bfloat16"}, {"files": {"model.safetensors": "0" * 64}}):
        write_json(student / "student.json", card | change)
        seen.append(identity(student))
    template = student / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8") + "{# edited #}", encoding="utf-8")
    seen.append(identity(student))
    assert len({json.dumps(found) for found in seen}) == len(seen)


def test_where_the_model_lies_and_how_it_is_run_is_no_part_of_its_identity(tiny_student, tmp_path):
    before = identity(tiny_student)
    runtime(batch=2)
    assert identity(shutil.copytree(tiny_student, tmp_path / "elsewhere")) == before


def test_what_has_no_effect_on_a_model_changes_no_identity(tiny_student, tmp_path):
    student, folder = shutil.copytree(tiny_student, tmp_path / "student"), tmp_path / "adapter"
    write_json(folder / "adapter_config.json", {"r": 8, "peft_version": "0.19.1", "base_model_name_or_path": "models/student"})
    before = identity(student, [folder])
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": "/srv/m", "peft_version": "0.20.0.dev0", "r": 8})
    for name, fields in (
        ("student.json", {"name": "نور", "source": "path:/srv/elsewhere"}),
        ("config.json", {"transformers_version": "9.0"}),
    ):
        values = json.loads((student / name).read_text(encoding="utf-8"))
        (student / name).write_text(json.dumps(values | fields), encoding="utf-8")
    for name in ("README.md", "LICENSE.txt", "provenance.json", "sample.png", ".cache/huggingface/download.json"):
        (student / name).parent.mkdir(parents=True, exist_ok=True)
        (student / name).write_text("{}", encoding="utf-8")
    assert identity(student, [folder]) == before


def test_a_configuration_that_is_no_json_is_named(tiny_student, tmp_path):
    student = shutil.copytree(tiny_student, tmp_path / "student")
    (student / "config.json").write_text("<<<<<<< HEAD", encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json: not a JSON object; restore the file"):
        identity(student)


# --- the cache -------------------------------------------------------------------------------------


class Parrot:
    """An engine that replies with the prompt and its seed, last request first, and records which requests it answered."""

    def __init__(self, dies_at=None, **identity):
        self.dies_at, self.identity = dies_at, {"engine": "parrot", **identity}
        self.asked = []

    def stream(self, requests, sampling, seeds):
        for index, (request, seed) in reversed(list(enumerate(zip(requests, seeds, strict=True)))):
            if len(self.asked) == self.dies_at:
                raise RuntimeError("out of memory")
            self.asked.append(request.id)
            yield index, Reply(f"{request.prefill}{request.messages[-1]['content']} {seed}", "stop", 3)


REQUESTS = asking(["aaaaaa", "b", "ccc", "dd", "eeeee", "ffff\u2028f", "🦜"])


def test_replies_come_in_the_order_of_the_requests():
    replies = generate(Parrot(), REQUESTS, WARM, seed=0)
    assert [reply.text.split(" ")[0] for reply in replies] == [request.messages[-1]["content"] for request in REQUESTS]


def test_a_second_call_takes_everything_from_the_cache(capsys):
    first = generate(Parrot(), REQUESTS, WARM, seed=0, desc="rejected")
    engine = Parrot()
    assert generate(engine, REQUESTS, WARM, seed=0, desc="rejected") == first
    assert engine.asked == []
    assert capsys.readouterr().out.splitlines() == [
        "rejected: 7 replies, 0 of them from the reply cache",
        "rejected: 7 replies, 7 of them from the reply cache",
    ]


def test_only_what_is_new_is_asked():
    generate(Parrot(), REQUESTS[:3], WARM, seed=0)
    engine = Parrot()
    generate(engine, REQUESTS[1:5], WARM, seed=0)
    assert sorted(engine.asked) == ["id-dd", "id-eeeee"]


BASE = Request("id", [{"role": "system", "content": "Be salty."}, {"role": "user", "content": "Why?"}])
CHANGES = {
    "temperature": {"sampling": WARM.model_copy(update={"temperature": 0.8})},
    "top_p": {"sampling": WARM.model_copy(update={"top_p": 0.9})},
    "max_new_tokens": {"sampling": WARM.model_copy(update={"max_new_tokens": 13})},
    "seed": {"seed": 1},
    "message": {"request": replace(BASE, messages=[BASE.messages[0], {"role": "user", "content": "How?"}])},
    "system prompt": {"request": replace(BASE, messages=[{"role": "system", "content": "Be."}, BASE.messages[1]])},
    "role": {"request": replace(BASE, messages=[{"role": "user", "content": "Be salty."}, BASE.messages[1]])},
    "split of the messages": {"request": replace(BASE, messages=BASE.messages[1:])},
    "prefill": {"request": replace(BASE, prefill="I")},
    "sample": {"request": replace(BASE, sample=1)},
    "id": {"request": replace(BASE, id="other")},
    "adapter": {"engine": {"adapters": ["abc"]}},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_shapes_a_reply_is_part_of_its_key(change):
    def asked(engine=None, request=BASE, sampling=WARM, seed=0):
        parrot = Parrot(**(engine or {}))
        generate(parrot, [request], sampling, seed)
        return bool(parrot.asked)

    assert asked()
    assert asked(**change)
    assert not asked(), "the first reply is still there"


def test_how_it_is_run_is_no_part_of_the_key():
    first = generate(Parrot(), REQUESTS, WARM, seed=0, desc="rejected")
    engine = Parrot()
    assert generate(engine, REQUESTS[::-1], WARM, seed=0, desc="answers") == first[::-1]
    assert engine.asked == []


class Fussy(Parrot):
    """Skips the prompts that hold a given word."""

    def __init__(self, word):
        super().__init__()
        self.word = word

    def stream(self, requests, sampling, seeds):
        for number, reply in super().stream(requests, sampling, seeds):
            refused = self.word in requests[number].messages[-1]["content"]
            yield number, Reply.skip(f"the model dislikes {self.word}") if refused else reply


def test_a_skipped_request_is_named_with_its_reason_and_asked_again_next_time(capsys):
    requests = asking(["wet rain", "tea", "rain, rain"])
    replies = generate(Fussy("rain"), requests, WARM, 0, "talk")
    assert [reply.finish_reason for reply in replies] == ["skipped", "stop", "skipped"]
    assert [reply.text for reply in replies][::2] == ["", ""]
    line = "talk: 2 of 3 requests got no reply: the model dislikes rain (id-wet rain, id-rain, rain)"
    assert capsys.readouterr().out.splitlines()[-1] == line
    later = Fussy("sun")
    assert not any(reply.skipped for reply in generate(later, requests, WARM, 0))
    assert sorted(later.asked) == ["id-rain, rain", "id-wet rain"]  # of the earlier replies, only the real one was kept


def test_a_stage_of_which_every_request_is_skipped_stops_unless_it_only_asks_again():
    requests = asking(["wet rain", "rain"])
    with pytest.raises(UserError, match=r"talk: none of 2 requests got a reply: the model dislikes rain\.$"):
        generate(Fussy("rain"), requests, WARM, 0, "talk")
    assert all(reply.skipped for reply in generate(Fussy("rain"), requests, WARM, 0, "talk", retry=True))


def test_a_failed_run_keeps_what_was_finished():
    with pytest.raises(RuntimeError, match="out of memory"):
        generate(Parrot(dies_at=4), REQUESTS, WARM, seed=0)
    engine = Parrot()
    generate(engine, REQUESTS, WARM, seed=0)
    assert len(engine.asked) == len(REQUESTS) - 4


DAMAGES = {
    "changed text": "UPDATE samples SET row = replace(row, 'aaaaaa', 'aaaaab') WHERE row LIKE '%aaaaaa%'",
    "cut text": "UPDATE samples SET row = substr(row, 1, 10) WHERE row LIKE '%aaaaaa%'",
    "a byte that is not UTF-8": "UPDATE samples SET row = CAST(X'ff' || row AS TEXT) WHERE row LIKE '%aaaaaa%'",
    "changed hash": "UPDATE samples SET sha256 = '0' || substr(sha256, 2) || 'x' WHERE row LIKE '%aaaaaa%'",
    "hash that is not UTF-8": "UPDATE samples SET sha256 = CAST(X'ff' AS TEXT) WHERE row LIKE '%aaaaaa%'",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_record_is_reported_and_written_again(damage, capsys):
    first = generate(Parrot(), REQUESTS, WARM, seed=0)
    with sqlite3.connect(default_cache_path()) as database:
        assert database.execute(damage).rowcount == 1
    database.close()
    engine = Parrot()
    assert generate(engine, REQUESTS, WARM, seed=0) == first
    assert engine.asked == ["id-aaaaaa"]
    assert "6 of them from the reply cache, 1 damaged records to be replaced" in capsys.readouterr().out
    generate(engine := Parrot(), REQUESTS, WARM, seed=0)
    assert engine.asked == []


def test_a_damaged_cache_file_is_reported_with_the_remedy():
    generate(Parrot(), REQUESTS, WARM, seed=0)
    default_cache_path().write_bytes(b"no database" * 999)
    with pytest.raises(UserError, match=r"file is not a database; delete the directory \.cache/samples and run again"):
        generate(Parrot(), REQUESTS, WARM, seed=0)


class Speaker(Parrot):
    """Says the given texts, and what `meanwhile` does after each is done before the next."""

    def __init__(self, texts, meanwhile=lambda: None):
        super().__init__()
        self.texts, self.meanwhile = texts, meanwhile

    def stream(self, requests, sampling, seeds):
        for number, text in enumerate(self.texts):
            yield number, Reply(text, "length", 3)
            self.meanwhile()


def test_a_broken_character_at_the_end_of_a_reply_is_dropped_and_others_are_kept():
    texts = ["नमस्ते \ufffd", "ok \ufffd\ufffd", "a \ufffd b", "half \ud83e", "whole \ud83e\udd9c", "\udd9c first", "line \n"]
    wanted = ["नमस्ते", "ok", "a \ufffd b", "half", "whole 🦜", "\ufffd first", "line \n"]
    requests = asking([str(number) for number in range(len(texts))])
    assert [reply.text for reply in generate(Speaker(texts), requests, WARM, 0)] == wanted
    assert [reply.text for reply in generate(Parrot(), requests, WARM, 0)] == wanted, "the cache has them so"


def test_equal_requests_are_asked_once_and_all_answered():
    twins = asking(["tea", "sea", "tea", "tea"])
    replies = generate(engine := Parrot(), twins, WARM, 0)
    assert sorted(engine.asked) == ["id-sea", "id-tea"]
    assert replies[0] == replies[2] == replies[3] != replies[1]


def test_a_greedy_reply_depends_on_the_prompt_alone():
    engine = Parrot()
    first, second = generate(engine, [BASE, replace(BASE, id="other", sample=3)], GREEDY, 0)
    assert (first, engine.asked) == (second, ["other"])
    generate(engine, [replace(BASE, id="third")], GREEDY, seed=8)
    assert engine.asked == ["other"]
    generate(engine, [replace(BASE, id="third")], WARM, seed=8)
    assert engine.asked == ["other", "third"]


def test_a_finished_reply_is_on_disk_before_the_next_one_is():
    stored = []

    def count_from_outside():
        with ReplyCache() as cache:
            stored.append(cache.count_records())

    generate(Speaker(["a", "b", "c"], count_from_outside), asking("abc"), WARM, 0)
    assert stored == [1, 2, 3]


def test_while_the_cache_is_locked_replies_are_held_and_nothing_is_lost(monkeypatch):
    monkeypatch.setattr(reply_cache, "LOCK_TIMEOUT", 0.01)
    monkeypatch.setattr(reply_cache, "SAVE_TIMEOUT", 0.01)
    ReplyCache().put([("older", {"n": 1})])
    other = sqlite3.connect(default_cache_path(), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    calls = iter([lambda: None, lambda: other.execute("ROLLBACK"), lambda: None])
    generate(Speaker(["a", "b", "c"], lambda: next(calls)()), asking("abc"), WARM, 0)
    with ReplyCache() as cache:
        assert cache.count_records() == 4
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(
        UserError, match=r"samples\.sqlite: database is locked; wait for the other process .*Stored replies are kept"
    ):
        generate(Speaker(["d"]), asking("d"), WARM, 0)
    other.close()


@pytest.mark.parametrize("error", [UserError("the well is dry"), KeyboardInterrupt()], ids=repr)
def test_while_the_cache_is_locked_the_error_of_the_engine_is_the_one_that_is_raised(error, monkeypatch, capsys):
    monkeypatch.setattr(reply_cache, "SAVE_TIMEOUT", 0.01)
    ReplyCache().put([("older", {"n": 1})])
    other = sqlite3.connect(default_cache_path(), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    errors, began = iter([None, error]), time.monotonic()

    def fail_after_two():
        if failure := next(errors):
            raise failure

    with pytest.raises(type(error)) as raised:
        generate(Speaker(["a", "b", "c"], fail_after_two), asking("abc"), WARM, 0)
    assert raised.value is error and time.monotonic() - began < 10
    assert "samples.sqlite: the last 2 replies could not be stored." in capsys.readouterr().out
    other.close()


def test_an_empty_reply_is_stored_only_if_it_would_come_again(monkeypatch):
    class Server(Speaker):
        def stream(self, requests, sampling, seeds):
            for number, reply in super().stream(requests, sampling, seeds):
                self.asked.append(requests[number].id)
                yield number, replace(reply, reproducible=self.reproducible)

    for reproducible, again in ((False, ["id-b", "id-c"]), (True, [])):
        engine = Server(["good", "", " \ufffd"])
        engine.reproducible = reproducible
        engine.identity = {"engine": "server", "reproducible": reproducible}
        generate(engine, asking("abc"), WARM, 0)
        engine.asked, engine.texts = [], ["later"] * len(again)
        texts = [reply.text for reply in generate(engine, asking("abc"), WARM, 0)]
        assert (engine.asked, texts) == (again, ["good", *(["later"] * 2 if again else ["", ""])])


def test_a_full_disk_stops_with_one_sentence_and_what_is_stored_stays(monkeypatch):
    texts = [letter * 20_000 for letter in "abcdefgh"]
    connect = ReplyCache._connect

    def connect_to_small_disk(cache, mode):
        database = connect(cache, mode)
        database.execute("PRAGMA max_page_count = 20")  # SQLite's own error for a full disk, without filling one
        return database

    with monkeypatch.context() as small:
        small.setattr(ReplyCache, "_connect", connect_to_small_disk)
        with pytest.raises(UserError, match=r"samples\.sqlite: database or disk is full; free some space, and run again"):
            generate(Speaker(texts), asking("abcdefgh"), WARM, 0)
    engine = Parrot()
    replies = generate(engine, asking("abcdefgh"), WARM, 0)
    assert 0 < len(engine.asked) < 8
    assert [reply.text for reply in replies][: 8 - len(engine.asked)] == texts[: 8 - len(engine.asked)]


READER = """
import sys
from pathlib import Path
from character.inference.reply_cache import ReplyCache
with ReplyCache(Path(sys.argv[1])) as cache:
    print(cache.get(["kept", "new"]))
    with cache.save_at_once() as save:
        if sys.argv[2:]:
            save("new", {"n": 2})
"""


def read_on_read_only_disk(path, *more):
    """Read a cache in a process that sees its directory as a read-only disk."""
    script = f'mount --bind "{path.parent}" "{path.parent}" && mount -o remount,ro,bind "{path.parent}" && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", script, "sh", sys.executable, "-c", READER, str(path), *more]
    return subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)


needs_mounts = pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="mounts need a user namespace",
)


@needs_mounts
@pytest.mark.parametrize("crashed", [False, True], ids=["closed", "left open by a crash"])
def test_a_cache_on_a_read_only_disk_is_read_and_says_so_when_it_would_be_written(crashed, tmp_path):
    path = tmp_path / "a cache #1" / "samples.sqlite"
    cache = ReplyCache(path)
    cache.put([("kept", {"n": 1})])
    if not crashed:
        cache.__exit__()
    ran = read_on_read_only_disk(path)
    assert (ran.returncode, ran.stdout) == (0, "{'kept': {'n': 1}}\n"), ran.stderr
    ran = read_on_read_only_disk(path, "write")
    assert "attempt to write a readonly database; make the directory writable, and run again" in ran.stderr.splitlines()[-1]


@needs_mounts
def test_a_read_only_disk_without_a_cache_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    ran = read_on_read_only_disk(tmp_path / "empty" / "samples.sqlite")
    assert "unable to open database file; make the directory writable" in ran.stderr.splitlines()[-1]


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/cache: Not a directory; make a directory here that can be written\."):
        ReplyCache(tmp_path / "file" / "cache" / "samples.sqlite")


WRITER = """
import sys
from pathlib import Path
from character.inference.reply_cache import ReplyCache
own = int(sys.argv[1])
for start in range(0, 60, 3):
    with ReplyCache(Path(sys.argv[2])) as cache:
        cache.put([(f"own-{own}-{i}", {"n": i}) for i in range(start, start + 3)])
        cache.put([(f"shared-{i}", {"n": i}) for i in range(start, start + 3)])
        assert len(cache.get([f"shared-{i}" for i in range(start + 3)])) == start + 3
"""


def test_processes_can_write_to_one_cache_at_the_same_time(tmp_path):
    path = tmp_path / "samples.sqlite"
    command = [sys.executable, "-c", WRITER]
    root = Path(__file__).parents[1]
    writers = [subprocess.Popen([*command, str(own), str(path)], cwd=root, stderr=subprocess.PIPE) for own in range(3)]
    assert [(writer.communicate()[1].decode(), writer.returncode) for writer in writers] == [("", 0)] * 3
    wanted = {f"{name}-{i}": {"n": i} for name in ("own-0", "own-1", "own-2", "shared") for i in range(60)}
    with ReplyCache(path) as cache:
        assert cache.get(list(wanted)) == wanted
        assert cache.damaged == 0


def test_experiments_in_a_temporary_copy_share_the_cache_of_their_repository(tmp_path, monkeypatch):
    generate(Parrot(), REQUESTS, WARM, seed=0)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "copy").mkdir()
    monkeypatch.chdir(tmp_path / "copy")
    engine = Parrot()
    generate(engine, REQUESTS, WARM, seed=0)
    assert engine.asked == []


def test_nothing_to_answer_is_answered_by_nothing():
    assert generate(Parrot(), [], WARM, seed=0) == []


def test_the_seed_of_a_request_never_changes():
    # A change would make every cached and published reply another one.
    assert request_seed(0, Request("id", [], sample=3)) == 2206901877215713675
