"""Finds out what a checkpoint is and whether it is safe to load, from its small files and tensor headers alone."""

from dataclasses import replace
from pathlib import Path

from beear.errors import UserError
from beear.models import adapter_files, digests, hub, notes
from beear.models.config_file import ConfigFacts, check_values, read_config, refuse_code
from beear.models.conversion import conversion_note, read_conversion
from beear.models.facts import ModelFacts
from beear.models.folder import MEGABYTE, inside, listed, read_object
from beear.models.tokenizer_files import chat_templates, tokenizer_files, tokenizer_notes
from beear.models.weights import WeightFiles, find_weights, refuse_unsafe, unsafe_files
from beear.records.report import Conversion

CONFIG_FILES = ("config.json", "generation_config.json")


def inspect_checkpoint(path: str, base: str | None = None) -> ModelFacts:
    """Check a checkpoint and return what is known of it.

    Args:
        path: a local directory, or ``hub:ORG/NAME``; a full model, or a PEFT LoRA adapter.
        base: the base model, where ``path`` is an adapter. What the adapter says of its base is not trusted.

    Raises:
        UserError: anything unsafe, broken, unreadable, unknown or inconsistent, in one sentence.
    """
    try:
        return _inspected(path, base)
    # Any look at a folder can fail: no permission, storage gone, a file removed meanwhile.
    except OSError as error:
        where = error.filename or path
        raise UserError(f"{where}: could not be read ({error.strerror or error}), expected a readable checkpoint") from error


def _inspected(path: str, base: str | None) -> ModelFacts:
    folder, origin = hub.local_folder(path)
    if not adapter_files.is_adapter(folder):
        _look_below(folder)
        if base is not None:
            raise UserError(
                f"model.base: found {base} though {folder} holds no {adapter_files.ADAPTER_CONFIG}, expected it unset"
            )
        return replace(_full_model(folder), origin=origin)
    if base is None:
        raise UserError(f"{folder}: found a PEFT adapter, expected --model.base to name the directory of its base model")
    base_folder, base_origin = hub.local_folder(base, "model.base")
    if adapter_files.is_adapter(base_folder):
        raise UserError(f"model.base: {base_folder} is itself an adapter, expected a full model")
    origin = origin or base_origin
    return replace(_adapted(folder, _full_model(base_folder, tokenizer_folder(str(folder), str(base_folder)))), origin=origin)


def _look_below(folder: Path) -> None:
    """Refuse a folder that holds no checkpoint but folders of them, and name those."""
    if (folder / "config.json").exists() or unsafe_files(folder):
        return
    below = sorted({*notes.adapters_below(folder), *(path.parent.name for path in folder.glob("*/config.json"))})
    if below:
        raise UserError(
            f"{folder}: found no checkpoint but folders that hold one: {listed(below)}; expected the path of one of them"
        )


def tokenizer_folder(path: str, base: str | None) -> Path:
    """Return the folder whose tokenizer is used: an adapter's own where it has one, else the base's."""
    own = Path(path)
    if base is None or any((own / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        return own
    return Path(base)


def _full_model(folder: Path, tokenizer: Path | None = None) -> ModelFacts:
    tokenizer = tokenizer or folder
    # First of all: a GGUF file comes without the files that are looked at next.
    refuse_unsafe(folder)
    _, config = read_config(folder)
    generation = inside(folder, "generation_config.json", str(folder))
    settings = {}
    if generation.exists():
        settings = read_object(generation, 4 * MEGABYTE)
        refuse_code(settings, str(generation))
        check_values(settings, str(generation))
    weights = find_weights(folder)
    _fits(config, weights, folder)
    parted = notes.parted(weights) if config.tied else None
    files = tokenizer_files(tokenizer)
    templates = chat_templates(tokenizer)
    stored = {path.name: digests.file_digest(path) for path in weights.files}
    conversion = read_conversion(folder, stored)
    configs = [(name, folder / name) for name in CONFIG_FILES if (folder / name).exists()]
    return ModelFacts(
        path=str(folder),
        architecture=config.family.architecture,
        model_type=config.family.model_type,
        layers=config.layers,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        context=config.context,
        parameters=weights.parameters,
        tied=config.tied and parted is None,
        source_dtype=weights.source_dtype(),
        digests={
            "weights": digests.combined(stored),
            "tokenizer": digests.manifest_digest((str(path.relative_to(tokenizer)), path) for path in files),
            "template": digests.template_digest(templates),
            "config": digests.manifest_digest(configs),
        },
        chat_template=templates.get("default"),
        notes=(
            *map(conversion_note, _given(conversion)),
            *notes.unread_notes(folder, weights.files),
            *notes.precision_notes(folder, weights),
            *([] if parted is None else [notes.parted_note(folder, parted)]),
            *notes.generation_notes(settings, str(generation)),
            *tokenizer_notes(tokenizer),
        ),
        conversions=_given(conversion),
    )


def _adapted(folder: Path, base: ModelFacts) -> ModelFacts:
    adapter = adapter_files.read_adapter(folder)
    adapter_files.check_rows(adapter, base.vocab_size)
    if base.tied:
        adapter_files.check_tied(adapter)
    stored = {adapter.weights_path.name: digests.file_digest(adapter.weights_path)}
    conversion = read_conversion(folder, stored)
    settings = digests.manifest_digest([(adapter.config_path.name, adapter.config_path)])
    return replace(
        base,
        path=str(folder),
        base=base.path,
        digests={
            **base.digests,
            "weights": digests.combined({"base": base.digests["weights"], "adapter": digests.combined(stored)}),
            "config": digests.combined({"base": base.digests["config"], "adapter": settings}),
        },
        notes=(
            *base.notes,
            *map(conversion_note, _given(conversion)),
            *notes.unread_notes(folder, [adapter.weights_path]),
            *(notes.tokenizer_note(folder) if tokenizer_folder(str(folder), base.path) != folder else ()),
        ),
        conversions=base.conversions + _given(conversion),
    )


def _fits(config: ConfigFacts, weights: WeightFiles, folder: Path) -> None:
    """Refuse sizes that the files cannot hold, before a model of that size is allocated."""
    if config.layers > len(weights.tensors):
        raise UserError(
            f"{folder}/config.json: found {config.layers:,} layers, "
            f"expected no more than the files' {len(weights.tensors):,} tensors"
        )
    if config.vocab_size * config.hidden_size > weights.parameters:
        raise UserError(
            f"{folder}/config.json: found a vocabulary of {config.vocab_size:,} by hidden size {config.hidden_size:,}, "
            f"expected no more than the files' {weights.parameters:,} elements"
        )


def _given(conversion: Conversion | None) -> tuple[Conversion, ...]:
    return () if conversion is None else (conversion,)
