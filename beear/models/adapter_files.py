"""Reads a PEFT LoRA adapter's configuration and tensor headers, and refuses all but plain numbers and names."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beear.errors import UserError
from beear.models.folder import MEGABYTE, inside, read_object
from beear.models.header import FLOATS, TensorEntry, read_header
from beear.models.weights import how_to_convert

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

# These decide the merged weights. Any other field that is not harmless must be unset or off: it could change the sum in a way
# that is not checked here, or make peft import modules and open files.
USED = (
    "r", "lora_alpha", "target_modules", "exclude_modules", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora",
    "fan_in_fan_out", "modules_to_save", "layers_to_transform", "layers_pattern", "init_lora_weights",
)  # fmt: skip
HARMLESS = {
    "peft_type", "task_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "lora_dropout",
    "bias", "megatron_core", "qalora_group_size", "runtime_config", "auto_mapping", "ensure_weight_tying", "lora_ga_config",
    "eva_config",
}  # fmt: skip

# Values of init_lora_weights. The first kind only gives the factors a start, which the file's replace. The second takes out of
# the base what the factors start with, which peft repeats exactly when it loads. Others depend on data or chance that no file
# holds.
DRAWN = (True, False, "gaussian", "Gaussian", "eva", "orthogonal", "mica")
REPEATED = ("pissa", "olora")

# The modules that share their weights where a model ties them, by the names that they have in the families in use.
EMBEDDINGS = re.compile(r"\.(lm_head|embed_out|embed_tokens|embed_in|wte|word_embeddings|tok_embeddings)\.")
OUTPUT = re.compile(r"\.(lm_head|embed_out)\.")

PLAIN_NAME = re.compile(r"\^?[\w.]+\$?")


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter directory, checked."""

    config_path: Path
    weights_path: Path
    settings: dict[str, Any]
    tensors: dict[str, TensorEntry]


def is_adapter(folder: Path) -> bool:
    """Say whether the folder has an adapter's configuration."""
    return (folder / ADAPTER_CONFIG).exists()


def read_adapter(folder: Path) -> AdapterFiles:
    """Return a LoRA adapter's settings and tensor headers.

    Raises:
        UserError: a full model beside the adapter, another adapter type, settings that are not understood, no
            safetensors weights, or a broken header.
    """
    if (folder / "model.safetensors").exists() or (folder / "model.safetensors.index.json").exists():
        raise UserError(f"{folder}: found {ADAPTER_CONFIG} beside a full model's weights, expected one or the other")
    config_path = inside(folder, ADAPTER_CONFIG, str(folder))
    settings = _settings(read_object(config_path, 4 * MEGABYTE), str(config_path))
    weights_path = inside(folder, ADAPTER_WEIGHTS, str(folder))
    if not weights_path.is_file():
        pickled = (folder / "adapter_model.bin").exists()
        found = "adapter_model.bin, a pickle" if pickled else f"no {ADAPTER_WEIGHTS}"
        raise UserError(f"{folder}: found {found}, expected {ADAPTER_WEIGHTS} (safetensors only){how_to_convert(folder)}")
    tensors = read_header(weights_path)
    if not tensors:
        raise UserError(f"{weights_path}: found no tensors, expected LoRA weights")
    odd = next((name for name, entry in tensors.items() if entry.dtype not in FLOATS), None)
    if odd is not None:
        raise UserError(f'{weights_path}: tensor "{odd[:200]}" is {tensors[odd].dtype}, expected floating point')
    _check_ranks(settings, tensors, config_path, weights_path)
    return AdapterFiles(config_path, weights_path, settings, tensors)


def _settings(config: dict[str, Any], where: str) -> dict[str, Any]:
    if config.get("peft_type") != "LORA":
        raise UserError(f'{where}: found peft_type "{str(config.get("peft_type"))[:40]}", expected LORA')
    if config.get("bias", "none") != "none":
        raise UserError(f'{where}: found bias "{str(config["bias"])[:40]}", expected none')
    for key, value in config.items():
        if key not in USED and key not in HARMLESS and value:
            raise UserError(f'{where}: found "{key[:60]}": {str(value)[:60]}, expected a plain LoRA without it')
    settings = {key: config[key] for key in USED if config.get(key) is not None}
    rank = settings.get("r")
    if type(rank) is not int or rank < 1:
        raise UserError(f'{where}: found "r": {str(rank)[:40]}, expected a positive whole number')
    alpha = settings.get("lora_alpha")
    if type(alpha) not in (int, float):
        raise UserError(f'{where}: found "lora_alpha": {str(alpha)[:40]}, expected a number')
    _check_start(settings.get("init_lora_weights", True), where)
    _check_names(settings, where)
    targets = settings.get("target_modules")
    # A text target is a regular expression that peft runs; a crafted one can run for ever.
    if targets != "all-linear" and not (isinstance(targets, list) and targets and all(isinstance(t, str) for t in targets)):
        raise UserError(f'{where}: found "target_modules": {str(targets)[:60]}, expected a list of module names')
    return settings


def _check_start(start: Any, where: str) -> None:
    if not any(type(start) is type(known) and start == known for known in (*DRAWN, *REPEATED)):
        raise UserError(
            f'{where}: found "init_lora_weights": {str(start)[:40]}, which takes a part out of the base model that the adapter '
            f"does not hold; expected {', '.join(REPEATED)}, or an adapter of the base as it was"
        )


def check_tied(adapter: AdapterFiles) -> None:
    """Refuse an adapter that changes the embeddings or the output layer of a model in which the two share their weights.

    Merged, the change would reach both, or they would differ and no longer be the checkpoint's kind of model.

    Raises:
        UserError: a tensor belongs to one of the two.
    """
    touched = next((name for name in adapter.tensors if EMBEDDINGS.search(f".{name}")), None)
    if touched is not None:
        raise UserError(
            f'{adapter.weights_path}: tensor "{touched[:200]}" changes the embeddings or the output layer, which share their '
            "weights in this base model; expected an adapter of other layers"
        )


def check_rows(adapter: AdapterFiles, rows: int) -> None:
    """Refuse whole embeddings or output layers that are not of the base's ``rows``, as after tokens were added for training.

    Raises:
        UserError: a tensor has other rows.
    """
    for name, entry in adapter.tensors.items():
        whole = EMBEDDINGS.search(f".{name}") and name.endswith(".weight") and ".lora_" not in name
        if whole and entry.shape[:1] != (rows,):
            raise UserError(
                f'{adapter.weights_path}: tensor "{name[:200]}" has the shape {list(entry.shape)} and the base model a '
                f"vocabulary of {rows:,}, expected an adapter of this base; one that was trained after tokens were added needs "
                "the base saved with its embeddings resized alike"
            )


def _check_ranks(settings: dict[str, Any], tensors: dict[str, TensorEntry], config: Path, weights: Path) -> None:
    """Refuse ranks that no tensor has: peft makes matrices of a stated rank before it looks at the file."""
    held = [entry.shape[0] for name, entry in tensors.items() if re.search(r"\.lora_(embedding_)?A\b", name) and entry.shape]
    if not held:
        raise UserError(f"{weights}: found no lora_A tensors, expected LoRA weights")
    stated = {"r": settings["r"], **{f"rank_pattern.{name}": r for name, r in (settings.get("rank_pattern") or {}).items()}}
    for name, rank in stated.items():
        if type(rank) is not int or not 1 <= rank <= max(held):
            raise UserError(
                f'{config}: found "{name[:80]}": {str(rank)[:40]}, '
                f"expected a whole number from 1 to {max(held)}, the largest rank in {weights.name}"
            )


def _check_names(settings: dict[str, Any], where: str) -> None:
    """Refuse what peft would run as a regular expression unless it is a plain name."""
    for key in ("exclude_modules", "modules_to_save", "layers_pattern"):
        names = settings.get(key) or []
        # Of modules_to_save, peft takes a text for the list of its letters.
        names = [names] if isinstance(names, str) and key != "modules_to_save" else names
        if not isinstance(names, list) or not all(isinstance(name, str) and PLAIN_NAME.fullmatch(name) for name in names):
            raise UserError(f'{where}: found "{key}": {str(names)[:60]}, expected a list of module names')
    for key in ("rank_pattern", "alpha_pattern"):
        pattern = settings.get(key) or {}
        if not isinstance(pattern, dict) or not all(
            PLAIN_NAME.fullmatch(name) and type(value) in (int, float) for name, value in pattern.items()
        ):
            raise UserError(f'{where}: found "{key}": {str(pattern)[:60]}, expected module names to numbers')
