"""Exporting a persona: a folder that holds two repositories of the Hugging Face hub, a model and a data set, with their cards.

The cards tell what was recorded when the adapter was made and measured. So what is in the workspace must be just that: the
adapter carries the hashes of its data, and `dvc status` says whether the metrics are its own.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from character.core import models, records
from character.core.errors import UserError
from character.core.models import PERSONA_DIR
from character.core.params import read_value
from character.core.records import read_json, read_result
from character.dataset import constitution
from character.dataset.constitution import Constitution
from character.publish import cards, credits, secret_scan
from character.publish.cards import CardContext
from character.publish.commands import run_command

UNCOPIED_FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    models.STUDENT_CARD,
}  # beside *.safetensors


def export_persona(out: Path, folded: bool, repo: str | None, understood: bool, force: bool) -> list[tuple[str, int]]:
    """Write `out`/model and `out`/data, whole or not at all; return the files with their sizes in bytes.

    `folded`: the whole model with the adapter in its weights, instead of the adapter. `repo` is what both will be called.

    Raises:
        UserError: the workspace is not complete or not of one run, a file holds what looks like a secret, or `out` or `repo`
            will not do.
    """
    check_repo_id(repo)
    name = read_value("persona")
    if name in cards.RESEARCH_PERSONAS and not understood:
        raise UserError(f"{name} is a character for research, and harmful elsewhere; give --i-understand to export it.")
    with replace_export(out, force) as made:
        subject = collect_card_context(name)
        write_model_repo(made / "model", subject, folded, repo)
        write_data_repo(made / "data", subject, repo)
        secret_scan.check_no_secrets(made)
    return [(str(path.relative_to(out)), path.stat().st_size) for path in sorted(out.rglob("*")) if path.is_file()]


def check_repo_id(repo: str | None) -> None:
    """Refuse a name that the hub would not take."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
        good = repo is None or "/" in repo
    except HFValidationError:
        good = False
    if not good:
        raise UserError(f"--repo is {repo!r}; write it as OWNER/NAME, of letters, digits, `-`, `_` and `.`.")


@contextmanager
def replace_export(out: Path, force: bool) -> Iterator[Path]:
    """Give a temporary neighbour of the folder `out`, which takes its place on success; only an earlier export is replaced."""
    out = out.resolve()
    there = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if out.is_file() or (there and (there != {"model", "data"} or not (out / "model" / models.PROVENANCE_FILE).is_file())):
        raise UserError(f"{out} is no export, and would be replaced; choose a new folder.")
    if there and not force:
        raise UserError(f"{out} is not empty; give --force to replace it, or choose a new folder.")
    made = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        yield made
        shutil.rmtree(out, ignore_errors=True)
        made.rename(out)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def collect_card_context(name: str) -> CardContext:
    """Return what the cards tell of, after checking that all of it belongs together."""
    persona = constitution.load_constitution(f"constitutions/{name}.yaml")
    origin = read_json(PERSONA_DIR / models.PROVENANCE_FILE)
    student = models.read_student_card()
    check_same_run(origin, persona)
    measured = {stage: read_result(stage) for stage in cards.CARD_METRICS}
    if "up to date" not in run_command("dvc", "status", "--with-deps", *cards.CARD_STAGES):
        raise UserError("results/ were not measured on this models/persona with these params; run `dvc repro`, then export.")
    engine, source = read_value("teacher.engine"), read_value("teacher.source")
    return CardContext(
        persona=persona,
        student=student,
        origin=origin,
        metrics=measured,
        sampling=read_value("sampling"),
        teacher="recorded answers" if engine == "recorded" else credits.public_model_name(engine, source),
        others=credits.third_party_texts(),
        code=run_command("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*").strip(),
    )


def check_same_run(origin: dict, persona: Constitution) -> None:
    """Stop where the adapter says that it is of another persona, of other traits, other data, or another student."""
    trained = origin["params"]["persona"]
    if trained != persona.name:
        raise UserError(
            f"{PERSONA_DIR} is {trained}, but params.yaml: persona is {persona.name}; run `dvc repro`, or set it back."
        )
    if origin["constitution"] != constitution.traits_hash(persona):
        raise UserError(f"{PERSONA_DIR} was trained on other traits than constitutions/{trained}.yaml has; run `dvc repro`.")
    deps = {path: digest for part in origin["merged"] for path, digest in part["deps"].items()}
    here = {str(models.STUDENT_DIR): models.directory_fingerprint(models.STUDENT_DIR)}
    for name, model in cards.PUBLISHED_DATA.items():
        path = f"data/{name}.jsonl"
        records.read_records(path, model)
        here[path] = models.file_sha256(Path(path))
    for path, digest in here.items():
        if deps.get(path, digest) != digest:
            raise UserError(
                f"{path} is not what {PERSONA_DIR} was trained on; run `dvc repro`, or `dvc checkout` to put it back."
            )


def write_model_repo(folder: Path, subject: CardContext, folded: bool, repo: str | None) -> None:
    """Write the adapter or the folded model, with the student's tokenizer."""
    folder.mkdir()
    if folded:
        models.load_model(adapters=[PERSONA_DIR]).save_pretrained(folder)
    else:
        shutil.copyfile(PERSONA_DIR / "adapter_model.safetensors", folder / "adapter_model.safetensors")
        base = credits.credit_base_model(subject.student)
        config = json.loads((PERSONA_DIR / "adapter_config.json").read_text(encoding="utf-8"))
        config |= {"base_model_name_or_path": base.repo, "revision": base.revision}
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for path in models.STUDENT_DIR.iterdir():
        if path.name not in UNCOPIED_FILES and path.suffix != ".safetensors":
            shutil.copyfile(path, folder / path.name)
    shutil.copyfile(PERSONA_DIR / models.PROVENANCE_FILE, folder / models.PROVENANCE_FILE)
    (folder / "README.md").write_text(cards.render_model_card(subject, folded, repo), encoding="utf-8")


def write_data_repo(folder: Path, subject: CardContext, repo: str | None) -> None:
    """Write the pairs and the transcripts."""
    folder.mkdir()
    for name in cards.PUBLISHED_DATA:
        shutil.copyfile(f"data/{name}.jsonl", folder / f"{name}.jsonl")
    shutil.copyfile("LICENSE", folder / "LICENSE")
    (folder / "README.md").write_text(cards.render_data_card(subject, repo), encoding="utf-8")


def upload_export(out: Path, repo: str, private: bool) -> list[str]:
    """Upload an export to the hub; return the addresses. Without HF_TOKEN in the environment nothing is sent: none."""
    if not (token := os.environ.get("HF_TOKEN")):
        return []
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # of the client that this version of it speaks through

    api, addresses = HfApi(token=token), []
    try:
        for kind, folder in (("dataset", "data"), ("model", "model")):
            addresses.append(str(api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)))
            api.upload_folder(repo_id=repo, repo_type=kind, folder_path=out / folder, commit_message="Upload a character")
    except (HTTPError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"--repo {repo}: not uploaded ({reason}); check the name, the network and HF_TOKEN's rights.") from None
    return addresses
