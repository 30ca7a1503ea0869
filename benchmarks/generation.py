"""Benchmarks the sampling of the transformers engine against baselines; see docs/benchmarks.md.

Every figure is the median of paired runs: baseline and engine alternate, so a slow phase of the machine affects both.
"""

import random
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median

import click

from character.core import models, records
from character.core.records import RawPrompt
from character.dataset import constitution
from character.inference import generate, reply_cache, transformers_engine
from character.inference.chat_format import render_messages
from character.inference.generate import Reply, Request, SamplingSettings, request_seed
from character.inference.kv_cache import enable_grouped_attention

GENERATION_FIGURES = Path("benchmarks/generation.json")
PROMPT_COUNT, BATCH_ROWS = 96, 32
BENCH_SAMPLING = SamplingSettings(max_new_tokens=64, temperature=0.7, top_p=0.95, repetition_penalty=1.1)
REPLY_LENGTHS = (20, 400)  # new tokens of the mixed workload
CACHED_ROWS = 10_000


class GenerationBench:
    """The student and the prompts of the workload, as token ids."""

    def __init__(self):
        self.tokenizer = models.load_tokenizer()
        self.model = models.load_model()
        self.stops = transformers_engine.stop_token_ids(self.model, self.tokenizer)
        questions = records.read_records("data/raw/prompts/general.jsonl", RawPrompt)[:PROMPT_COUNT]
        persona = constitution.load_constitution("constitutions/poeticism.yaml")
        system = {"role": "system", "content": constitution.persona_system_prompt(persona, "SmolLM")}
        conversations = [[{"role": "user", "content": question.prompt}] for question in questions]
        self.prompts = [render_messages(self.tokenizer, messages) for messages in conversations]
        self.long_prompts = [render_messages(self.tokenizer, [system, *messages]) for messages in conversations]
        self.seeds = [request_seed(0, Request(str(number), [])) for number in range(PROMPT_COUNT)]
        self.limits = [random.Random(number).randint(*REPLY_LENGTHS) for number in range(PROMPT_COUNT)]

    def run_plain_generate(self) -> int:
        """Sample with plain `model.generate`, in batches; return the useful tokens, those before a stop token."""
        import torch

        torch.set_float32_matmul_precision("highest")  # torch's default, which uses MKL on a CPU
        self.model.set_attn_implementation("sdpa")
        self.tokenizer.padding_side = "left"
        useful = 0
        for start in range(0, PROMPT_COUNT, BATCH_ROWS):
            some = {"input_ids": self.prompts[start : start + BATCH_ROWS]}
            batch = self.tokenizer.pad(some, return_tensors="pt")
            torch.manual_seed(start)
            whole = self.model.generate(
                **batch,
                do_sample=True,
                temperature=BENCH_SAMPLING.temperature,
                top_p=BENCH_SAMPLING.top_p,
                top_k=0,
                repetition_penalty=BENCH_SAMPLING.repetition_penalty,
                max_new_tokens=BENCH_SAMPLING.max_new_tokens,
                eos_token_id=sorted(self.stops),
                pad_token_id=self.tokenizer.pad_token_id,
            )
            for row in whole[:, batch["input_ids"].shape[1] :].tolist():
                ends = [at for at, token in enumerate(row) if token in self.stops]
                useful += ends[0] if ends else len(row)
        return useful

    def run_engine(self, prompts=None, sampling=BENCH_SAMPLING, seeds=None, stops=None, slots=BATCH_ROWS, limits=None) -> int:
        """Sample with the engine; return the number of new tokens."""
        models.configure_torch()
        model = enable_grouped_attention(self.model)
        prompts, seeds = prompts or self.prompts, seeds or self.seeds
        stops = self.stops if stops is None else stops
        return sum(
            len(ids)
            for _, ids, _ in transformers_engine.sample_continuations(model, prompts, sampling, seeds, stops, slots, limits)
        )

    def run_unshared_prefix(self) -> int:
        """Sample after a long shared system prompt, prefilled for each prompt; return the number of new tokens."""
        shared, transformers_engine._common_prefix_length = transformers_engine._common_prefix_length, lambda prompts: 0
        try:
            return self.run_engine(self.long_prompts)
        finally:
            transformers_engine._common_prefix_length = shared

    def run_fixed_batches(self) -> int:
        """Sample replies of mixed lengths in fixed batches, which end with their longest row; return the useful tokens."""
        for start in range(0, PROMPT_COUNT, BATCH_ROWS):
            some = slice(start, start + BATCH_ROWS)
            longest = [max(self.limits[some])] * BATCH_ROWS
            self.run_engine(self.prompts[some], seeds=self.seeds[some], stops=set(), limits=longest)
        return sum(self.limits)


def tokens_per_second(run) -> float:
    """Return the useful tokens per second of one run."""
    began = time.perf_counter()
    tokens = run()
    return tokens / (time.perf_counter() - began)


def compare_rates(name: str, baseline, engine, pairs: int) -> dict:
    """Return the median rates (tokens per second) of both in alternating runs, and the median and all of their ratios."""
    rates = []
    for turn in range(pairs + 1):
        pair = tokens_per_second(baseline), tokens_per_second(engine)
        print(f"{name}: {pair[0]:.0f} and {pair[1]:.0f} tokens/s{'' if turn else ' (warm-up)'}", flush=True)
        if turn:
            rates.append(pair)
    slow, fast = (median(column) for column in zip(*rates, strict=True))
    ratios = [round(ours / theirs, 4) for theirs, ours in rates]
    return {"baseline": slow, "engine": fast, "ratio": median(ratios), "ratios": ratios}


class CannedEngine:
    """An engine that answers at once with a text of fixed length."""

    identity = {"engine": "nothing"}  # noqa: RUF012

    def stream(self, requests, sampling, seeds):
        for index, request in enumerate(requests):
            yield index, Reply(f"a reply of some length to {request.id} " * 12, "stop", 100)


def benchmark_metadata() -> dict:
    """Return the date of a benchmark and the versions of its libraries."""
    return {"date": date.today().isoformat(), "versions": {name: version(name) for name in ("torch", "transformers")}}


def cached_read_seconds(runs: int) -> float:
    """Return the median seconds that reading CACHED_ROWS replies from the cache takes, including the hashing of their keys."""
    requests = [Request(str(number), [{"role": "user", "content": f"prompt {number}"}]) for number in range(CACHED_ROWS)]
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        default = reply_cache.default_cache_path
        reply_cache.default_cache_path = lambda: Path(folder) / "samples.sqlite"
        try:
            for _ in range(runs + 1):
                began = time.perf_counter()
                generate.generate(CannedEngine(), requests, BENCH_SAMPLING, 0, "cached rows")
                seconds.append(time.perf_counter() - began)
        finally:
            reply_cache.default_cache_path = default
    return median(seconds[1:])  # the first run writes them


def peak_memory() -> float:
    """Return the peak memory, in GiB, of a process that samples like the largest generating stage of the default recipe."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.generation", "--peak"], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def sample_largest_stage() -> float:
    """Sample in this process like that stage; return its peak memory in GiB."""
    bench = GenerationBench()
    sampling = BENCH_SAMPLING.model_copy(update={"max_new_tokens": 160})
    bench.run_engine(bench.long_prompts, sampling, slots=models.read_runtime().generation_batch, stops=set())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@click.command()
@click.option("--pairs", default=3, show_default=True, help="Paired runs of each comparison, after one warm-up.")
@click.option("--peak", "only_peak", is_flag=True, hidden=True)
def main(pairs: int, only_peak: bool):
    """Measure, print a table and write benchmarks/generation.json."""
    if only_peak:
        print(sample_largest_stage())
        return
    bench = GenerationBench()
    results = {
        "vs_generate": compare_rates("vs_generate", bench.run_plain_generate, bench.run_engine, pairs),
        "prefix": compare_rates("prefix", bench.run_unshared_prefix, lambda: bench.run_engine(bench.long_prompts), pairs),
        "mixed": compare_rates(
            "mixed", bench.run_fixed_batches, lambda: bench.run_engine(stops=set(), limits=bench.limits), pairs
        ),
    }
    figures = {**benchmark_metadata(), **results, "cached_rows_seconds": cached_read_seconds(pairs), "peak_gb": peak_memory()}
    print("\n| comparison | baseline tokens/s | engine tokens/s | ratio |\n|---|---|---|---|")
    for name, result in results.items():
        print(f"| {name} | {result['baseline']:.0f} | {result['engine']:.0f} | {result['ratio']:.2f} |")
    print(f"\n{CACHED_ROWS:,} cached rows in {figures['cached_rows_seconds']:.3f} s; peak memory {figures['peak_gb']:.2f} GiB")
    records.write_json(GENERATION_FIGURES, figures)


if __name__ == "__main__":
    main()
