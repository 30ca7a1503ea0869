"""What an adapter trains: PEFT's configuration from the settings, checked against the student before the training starts."""

import re
from collections.abc import Iterator
from copy import deepcopy

from character.core import lora, models
from character.core.errors import UserError


def check_targets(settings) -> None:
    """Check on the student's modules, without its weights, that an adapter of these settings can be trained.

    Raises:
        UserError: a name matches nothing, or PEFT cannot adapt what it matches.
    """
    from peft import get_peft_model

    skeleton = models.load_skeleton()
    config = lora_config(settings, skeleton)
    try:
        lora.lora_layers(get_peft_model(skeleton, config))
    except ValueError as error:
        field = settings.field_path("target_modules")
        raise UserError(f"params.yaml: {field}: PEFT cannot adapt the student so ({error}); change it.") from None


def lora_config(settings, model):
    """Return PEFT's configuration of the adapter to train; see `TrainingSettings` for the settings.

    Only the part of `model` that reads and writes text is adapted. In a mixture of experts of the families that PEFT knows,
    such as Mixtral and Qwen3-MoE, `all-linear` includes the experts and their router.

    Raises:
        UserError: a name matches nothing in `model`.
    """
    from peft import LoraConfig

    check_excluded(settings, model)
    excluded = settings.exclude_modules
    if outside := list(modules_beside_decoder(model)):
        own = excluded if isinstance(excluded, list) else []
        patterns = [lora.group_pattern(excluded)] if excluded and isinstance(excluded, str) else []
        patterns += [rf"(?:.*\.)?{re.escape(name)}" for name in sorted(own)]
        excluded = "|".join(patterns + [rf"{re.escape(name)}(?:\..*)?" for name in outside])
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        target_parameters=settings.target_parameters or None,
        exclude_modules=excluded or None,
        task_type="CAUSAL_LM",
    )
    check_matches(settings, config, model)
    return config


def trained_config(adapted):
    """Return the configuration of a trained adapter, whose target modules are only those that it has.

    PEFT resolves `all-linear` before it excludes modules, and would list those of a vision tower.
    """
    config, trained = deepcopy(adapted.peft_config["default"]), lora.lora_layers(adapted)
    config.target_modules = {
        name for name in config.target_modules if any(f".{target}".endswith(f".{name}") for target in trained)
    }
    return config


def modules_beside_decoder(model) -> Iterator[str]:
    """Yield the topmost modules that are no part of the text decoder, such as a vision tower; its output layer is a part."""
    decoder, output = model.get_decoder(), model.get_output_embeddings()
    inside = next(name for name, module in model.named_modules() if module is decoder)
    skipped: tuple[str, ...] = (f"{inside}." if inside else "",)
    for name, module in model.named_modules():
        if module is output or f"{inside}.".startswith(f"{name}.") or not name or name.startswith(skipped):
            continue
        skipped += (f"{name}.",)
        yield name


def check_excluded(settings, model) -> None:
    """Check that `exclude_modules` excludes something, each name of it."""
    excluded, names = settings.exclude_modules, [name for name, _ in model.named_modules()]
    if isinstance(excluded, str):
        unmatched = [excluded] if excluded and not any(re.fullmatch(excluded, name) for name in names) else []
    else:
        unmatched = [entry for entry in excluded if not any(f".{name}".endswith(f".{entry}") for name in names)]
    _refuse_unmatched(settings.field_path("exclude_modules"), unmatched, "no module of the student")


def check_matches(settings, config, model) -> None:
    """Check that each target of `config`, which was made from `settings`, matches something in the text decoder.

    PEFT itself complains only where nothing matches at all. It renames the targets in some mixtures of experts, whose weights
    are fused since transformers 5.
    """
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    resolved = deepcopy(config)
    try:
        convert_peft_config_for_transformers(resolved, model, None)
    except ValueError as error:
        raise UserError(f"params.yaml: {settings.field_path('target_modules')}: {error}") from None
    modules, parameters = ([name for name, _ in named] for named in (model.named_modules(), model.named_parameters()))
    unmatched = []
    for target in [] if isinstance(resolved.target_modules, str) else sorted(resolved.target_modules):
        alone = deepcopy(config)
        alone.target_modules = {target}
        if not any(check_target_module_exists(alone, name) for name in modules):
            unmatched.append(target)
    where = "nothing in the student's text decoder that is not excluded"
    _refuse_unmatched(settings.field_path("target_modules"), unmatched, where)
    targets = sorted(resolved.target_parameters or [])
    unmatched = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in parameters)]
    _refuse_unmatched(settings.field_path("target_parameters"), unmatched, "no weight of the student")
    if targets and config.lora_dropout:
        field = settings.field_path("dropout")
        raise UserError(f"params.yaml: {field}: PEFT has none for parameters such as {targets[0]}; set it to 0.")


def _refuse_unmatched(field: str, names: list[str], what: str) -> None:
    if names:
        raise UserError(f"params.yaml: {field}: {', '.join(map(repr, names))} matches {what}; correct or remove it.")
