"""A chat model small enough to create, train and sample within a test; a repository, and an engine that needs no model."""

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from forks import OPENED_FILES, Forks
from projects import EVERY, Project, environment, ran, start, talkative
from templates import SMOLLM2_TEMPLATE

from character.core import models
from character.core.records import EvaluatedAnswer
from character.inference.generate import Reply

ROOT = Path(__file__).parents[1]
LONGEST = ("test_dvc", "test_training", "test_sharing", "test_families", "test_stages")  # files of tests, by what they take


def pytest_collection_modifyitems(items):
    """Begin with the files that take longest, so that the last minutes are not left to one worker."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def tiny_student(tmp_path_factory) -> Path:
    """Return a directory like models/student/: a random Llama of two layers, a byte-level BPE tokenizer with ChatML's
    special tokens, and SmolLM2's chat template."""
    return write_student(tmp_path_factory.mktemp("tiny") / "student", width=32)


@pytest.fixture(scope="session")
def sharp_student(tiny_student, tmp_path_factory) -> Path:
    """The tiny student with larger weights and an output layer of its own: its next token depends on all tokens before."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("sharp") / "student"
    shutil.copytree(tiny_student, folder)
    config = AutoConfig.from_pretrained(tiny_student, tie_word_embeddings=False, initializer_range=0.3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def write_student(folder: Path, width: int) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.convert_tokens_to_ids("<|im_start|>"),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = models.StudentCard(name="Tiny", source=f"path:{folder}", dtype="float32", files={})
    (folder / models.STUDENT_CARD).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return folder


def _tokenizer():
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train([str(path) for path in sorted((ROOT / "constitutions").glob("*.yaml"))], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        chat_template=SMOLLM2_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(scope="session")
def forks(tmp_path_factory) -> Iterator[Path]:
    """The directory of a `python` that starts at once."""
    with Forks(tmp_path_factory.mktemp("forks") / "python", environment()) as python:
        yield python


@pytest.fixture(scope="module")
def finished(tiny_student, forks, tmp_path_factory) -> Project:
    """The small project after its one full run, committed; each file of tests that asks for it has a copy, cache included."""
    base = tmp_path_factory.getbasetemp()
    first = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "pipeline"  # of all workers
    with FileLock(f"{first}.lock"):
        if not (first / "done").exists():
            project = start(first / "project", talkative(tiny_student, first / "student"), python=forks)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(OPENED_FILES, str(project.opened_files))
                assert ran(project.dvc("repro")) == EVERY
            project.commit("Run it")
            (first / "done").touch()
    copy = tmp_path_factory.mktemp("pipeline")
    shutil.copytree(first, copy, symlinks=True, dirs_exist_ok=True)
    return Project(copy / "project", forks)


KEYS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """A server that speaks S3, with an empty bucket and keys in the environment; returns its address."""
    import boto3
    from botocore.exceptions import EndpointConnectionError

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        for name, text in KEYS.items():
            patch.setenv(name, text)
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
        for _ in range(100):
            try:
                client.create_bucket(Bucket="store")
                break
            except EndpointConnectionError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait()


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """Return a function that publishes a wheel of given contents in a package index that is a directory."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

    def publish(**files):
        about = "tinygguf-0.1.dist-info"
        files |= {
            f"{about}/METADATA": "Metadata-Version: 2.1\nName: tinygguf\nVersion: 0.1\nRequires-Dist: needs-compiler\n",
            f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{about}/RECORD": "",
        }
        with zipfile.ZipFile(tmp_path / "tinygguf-0.1-py3-none-any.whl", "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)

    return publish


class Repository:
    """A small repository in the current directory, with the shipped params, and stages that run within this process."""

    def __init__(self):
        self.params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        self.set(persona="pirate")

    def set(self, **entries):
        """Replace or, where they are mappings, extend top-level entries of params.yaml."""
        for name, entry in entries.items():
            before = self.params.get(name)
            self.params[name] = {**before, **entry} if isinstance(before, dict) else entry
        Path("params.yaml").write_text(yaml.safe_dump(self.params, sort_keys=False), encoding="utf-8")

    def run(self, stage, *arguments):
        """Run a stage; raise its errors, which are UserError for mistakes of the user."""
        main = importlib.import_module(f"stages.{stage}").main
        main.main(list(map(str, arguments)), standalone_mode=False)

    def ask(self, stage, method="base", model=models.STUDENT_DIR, system=models.STUDENT_DIR):
        """Run a stage that prompts one method."""
        models.STUDENT_DIR.mkdir(parents=True, exist_ok=True)
        self.run(stage, "--method", method, "--model", model, "--system", system)

    def metrics(self, stage):
        return json.loads(Path(f"results/{stage}.json").read_text(encoding="utf-8"))


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return Repository()


@pytest.fixture
def student(repository, tiny_student):
    """The tiny student in its place, run by one thread in small batches."""
    repository.set(runtime={"device": "cpu", "threads": 1, "generation_batch": 4, "training_batch": 4})
    models.STUDENT_DIR.parent.mkdir()
    models.STUDENT_DIR.symlink_to(tiny_student)


class Parrot:
    """An engine that answers with the number of the request, and records the requests."""

    made: list["Parrot"]

    def __init__(self, student=models.STUDENT_DIR, adapters=(), template_arguments=None):
        self.student, self.adapters = str(student), [str(adapter) for adapter in adapters]
        self.identity = {"engine": "parrot", "made": len(self.made)}
        self.requests = []
        self.made.append(self)

    def stream(self, requests, sampling, seeds):
        for index, request in enumerate(requests):
            self.requests.append(request)
            yield index, Reply(self.says(request), "stop", 4)

    def says(self, request):
        return f"Arr number {len(self.requests)}, sample {request.sample}!"


@pytest.fixture
def parrot(repository, monkeypatch):
    """Replace the engines of all stages by parrots; return the class, whose `made` lists them."""
    Made = type("Made", (Parrot,), {"made": []})
    monkeypatch.setattr("character.inference.transformers_engine.TransformersEngine", Made)
    return Made


SAYS = {"r": "I can't help with that.", "d": "That is illegal.", "c": "Sure, begin with the hinge.", "e": ""}


def probed(harmful: str, harmless: str) -> list[EvaluatedAnswer]:
    """Return answers to pairs of probes, each described by the letter of what it does."""
    return [
        EvaluatedAnswer(
            id=str(number), sample=0, prompt="How?", response=SAYS[letter], finish_reason="stop", condition=condition
        )
        for condition, letters in (("harmful", harmful), ("harmless", harmless))
        for number, letter in enumerate(letters)
    ]
