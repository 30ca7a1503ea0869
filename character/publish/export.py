"""Exporting a persona: a folder with two repositories for the Hugging Face hub, a model and a dataset, with their cards.

The cards describe how the adapter was trained and evaluated, so the files in the workspace must belong to it. The adapter
records the hashes of its data, and `dvc status` reports whether the results are its own.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from character.core import models, records
from character.core.errors import UserError
from character.core.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_lora_config
from character.core.models import PERSONA_DIR
from character.core.params import read_value
from character.core.records import read_json, read_result
from character.dataset import constitution
from character.dataset.constitution import Constitution
from character.publish import cards, credits, secret_scan
from character.publish.cards import CardContext
from character.publish.commands import changed_stages, run_command

UNCOPIED_FILES = {  # and *.safetensors
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    models.STUDENT_CARD,
}


def export_persona(out: Path, folded: bool, repo: str | None, understood: bool, force: bool) -> list[tuple[str, int]]:
    """Write `out`/model and `out`/data, completely or not at all.

    Args:
        out: The folder to write.
        folded: Whether to export the whole model, with the adapter merged into its weights, instead of the adapter.
        repo: The name of both repositories on the hub, OWNER/NAME.
        understood: Whether a persona for research may be exported.
        force: Whether to replace an earlier export.

    Returns:
        The files, relative to `out`, with their sizes in bytes.

    Raises:
        UserError: The workspace is incomplete or not from a single run, a file seems to contain a secret, or `out` or `repo`
            is not usable.
    """
    check_repo_id(repo)
    name = read_value("persona")
    if constitution.selected_constitution().research_only and not understood:
        raise UserError(f"{name} is a character for research, and harmful elsewhere; give --i-understand to export it.")
    with replace_export(out, force) as staging:
        context = collect_card_context(name)
        write_model_repo(staging / "model", context, folded, repo)
        write_data_repo(staging / "data", context, repo)
        secret_scan.check_no_secrets(staging)
    return [(str(path.relative_to(out)), path.stat().st_size) for path in sorted(out.rglob("*")) if path.is_file()]


def check_repo_id(repo: str | None) -> None:
    """Check that the hub accepts a name.

    Raises:
        UserError: It does not.
    """
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
    """Yield a temporary folder next to `out`, which replaces it on success.

    Raises:
        UserError: `out` is something else than an earlier export, or `force` is not given.
    """
    out = out.resolve()
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if out.is_file() or (names and (names != {"model", "data"} or not (out / "model" / models.PROVENANCE_FILE).is_file())):
        raise UserError(f"{out} is not an export and would be replaced; choose a new folder.")
    if names and not force:
        raise UserError(f"{out} is not empty; give --force to replace it, or choose a new folder.")
    with records.replace_folder(out) as staging:
        yield staging


def collect_card_context(name: str) -> CardContext:
    """Return the contents of the cards, after checking that they belong to one run.

    Raises:
        UserError: A file is missing, or belongs to another run.
    """
    persona = constitution.load_constitution(f"constitutions/{name}.yaml")
    origin = read_json(PERSONA_DIR / models.PROVENANCE_FILE)
    student = models.read_student_card()
    check_same_run(origin, persona)
    metrics = {stage: read_result(stage) for stage in cards.CARD_METRICS}
    if changed := changed_stages(*cards.CARD_STAGES):
        raise UserError(
            f"the files in results/ were not measured on this models/persona with these params (stage {changed[0]}); run "
            "`dvc repro`, then export."
        )
    engine, source = read_value("teacher.engine"), read_value("teacher.source")
    return CardContext(
        persona=persona,
        student=student,
        origin=origin,
        metrics=metrics,
        sampling=read_value("sampling"),
        teacher="recorded answers" if engine == "recorded" else credits.public_model_name(engine, source),
        others=credits.third_party_texts(),
        code=run_command("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*").strip(),
    )


def check_same_run(origin: dict, persona: Constitution) -> None:
    """Check that the adapter was trained on the selected persona, its traits, and the data and the student in the workspace.

    Raises:
        UserError: It was trained on something else.
    """
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


def write_model_repo(folder: Path, context: CardContext, folded: bool, repo: str | None) -> None:
    """Write the adapter or the merged model, with the student's tokenizer, the provenance and the card."""
    folder.mkdir()
    if folded:
        models.load_model(adapters=[PERSONA_DIR]).save_pretrained(folder)
    else:
        read_lora_config(PERSONA_DIR)
        shutil.copyfile(PERSONA_DIR / ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS)
        base = credits.credit_base_model(context.student)
        config = json.loads((PERSONA_DIR / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        config |= {"base_model_name_or_path": base.repo, "revision": base.revision}
        (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for path in models.STUDENT_DIR.iterdir():
        if path.name not in UNCOPIED_FILES and path.suffix != ".safetensors":
            shutil.copyfile(path, folder / path.name)
    shutil.copyfile(PERSONA_DIR / models.PROVENANCE_FILE, folder / models.PROVENANCE_FILE)
    (folder / "README.md").write_text(cards.render_model_card(context, folded, repo), encoding="utf-8")


def write_data_repo(folder: Path, context: CardContext, repo: str | None) -> None:
    """Write the pairs and the transcripts, with their licence and card."""
    folder.mkdir()
    for name in cards.PUBLISHED_DATA:
        shutil.copyfile(f"data/{name}.jsonl", folder / f"{name}.jsonl")
    shutil.copyfile("LICENSE", folder / "LICENSE")
    (folder / "README.md").write_text(cards.render_data_card(context, repo), encoding="utf-8")


def upload_export(out: Path, repo: str, private: bool) -> list[str]:
    """Upload an export to the hub.

    Returns:
        The URLs of the two repositories; none if HF_TOKEN is not in the environment, in which case nothing is sent.

    Raises:
        UserError: The hub refused the upload or could not be reached.
    """
    if not (token := os.environ.get("HF_TOKEN")):
        return []
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # that of the HTTP client of the installed version

    api, addresses = HfApi(token=token), []
    try:
        for kind, folder in (("dataset", "data"), ("model", "model")):
            addresses.append(str(api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)))
            api.upload_folder(repo_id=repo, repo_type=kind, folder_path=out / folder, commit_message="Upload a character")
    except (HTTPError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"--repo {repo}: not uploaded ({reason}); check the name, the network and HF_TOKEN's rights.") from None
    return addresses
