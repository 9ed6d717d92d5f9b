"""Says which files of a folder are converted, into what, and which are copied or left out; opens no weights."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from beear.errors import UserError, nearest
from beear.models.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, is_adapter
from beear.models.folder import MEGABYTE, inside, read_object
from beear.models.inspect import CONFIG_FILES
from beear.models.tokenizer_files import FILES, TEMPLATE_FOLDER
from beear.models.weights import INDEX, PICKLES, SINGLE, convertible, matches

PICKLED_INDEX = "pytorch_model.bin.index.json"
SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
USUAL = {"model": "pytorch_model.bin", "adapter": "adapter_model.bin"}


@dataclass(frozen=True)
class Plan:
    """The files to convert, in name order, each with the file that is made of it (a GGUF file: with none, it makes a folder).

    ``places`` is the index's tensor name to pickle, where there is an index.
    """

    kind: Literal["model", "adapter", "gguf"]
    sources: dict[str, str]
    places: dict[str, str] | None = None


def plan(folder: Path, chosen: str | None) -> Plan:
    """Return what to convert in ``folder``; ``chosen`` names one file where there are several to choose from.

    Raises:
        UserError: there are safetensors already, nothing to convert, several files and none chosen, or an index that names
            files which are missing, outside, or no pickles.
    """
    adapter = is_adapter(folder)
    for name in (ADAPTER_WEIGHTS,) if adapter else (SINGLE, INDEX):
        if (folder / name).exists():
            raise UserError(f"{folder}: found {name}, expected a folder without safetensors: these weights need no conversion")
    if chosen is not None:
        return _single(folder, chosen, adapter)
    if (folder / PICKLED_INDEX).exists() and not adapter:
        if (folder / USUAL["model"]).exists():
            raise UserError(
                f"{folder}: found {USUAL['model']} and {PICKLED_INDEX}, which may be of two models, expected one of them; "
                f"--file {USUAL['model']} takes the first"
            )
        return _sharded(folder)
    usual = USUAL["adapter" if adapter else "model"]
    found = [name for name in convertible(folder) if not (adapter and not matches(name, PICKLES))]
    if usual in found or len(found) == 1:
        return _single(folder, usual if usual in found else found[0], adapter)
    if not found:
        raise UserError(f"{folder}: found no weights to convert, expected {usual}, {PICKLED_INDEX}, *.pt, *.pth or *.gguf")
    if any(SHARD.search(name) for name in found):
        raise UserError(f"{folder}: found shards such as {found[0]} and no {PICKLED_INDEX}, expected it beside them")
    raise UserError(f"{folder}: found {', '.join(found[:6])} and no {PICKLED_INDEX}, expected one file, or --file NAME to choose")


def _single(folder: Path, name: str, adapter: bool) -> Plan:
    known = convertible(folder)
    if name not in known:
        hint = nearest(name, known)
        raise UserError(f'{folder}: found no "{name}"{hint} to convert, expected one of {", ".join(known[:6]) or "its files"}')
    _regular(inside(folder, name, str(folder)))
    if not matches(name, PICKLES):
        if adapter:
            raise UserError(f"{folder}/{name}: found GGUF weights beside {ADAPTER_CONFIG}, expected a pickled adapter")
        return Plan("gguf", {name: ""})
    return Plan("adapter", {name: ADAPTER_WEIGHTS}) if adapter else Plan("model", {name: SINGLE})


def _sharded(folder: Path) -> Plan:
    index = inside(folder, PICKLED_INDEX, str(folder))
    places = read_object(index, 128 * MEGABYTE).get("weight_map")
    if not isinstance(places, dict) or not places or any(not isinstance(name, str) for name in places.values()):
        raise UserError(f"{index}: found weight_map of another shape, expected an object of tensor name to file name")
    names = sorted(set(places.values()))
    for name in names:
        path = inside(folder, name, f"{index}: weight_map")
        if not matches(name, PICKLES):
            raise UserError(f'{index}: found the shard "{name[:200]}", expected one of {", ".join(PICKLES)}')
        if not path.exists():
            raise UserError(f"{path}: this shard is missing though {PICKLED_INDEX} names it, expected all {len(names)}")
        _regular(path)
    count = len(names)
    return Plan("model", {name: f"model-{i:05d}-of-{count:05d}.safetensors" for i, name in enumerate(names, 1)}, places)


def _regular(path: Path) -> None:
    # A named pipe would be waited on until the time is over.
    if not path.is_file():
        raise UserError(f"{path}: found no regular file, expected weights")


def small_files(folder: Path, kind: str) -> list[Path]:
    """Return the files that are copied as they are, relative to ``folder``; a GGUF file brings its own.

    Raises:
        UserError: one is a link that leaves the folder, or no regular file.
    """
    if kind == "gguf":
        return []
    names = [*CONFIG_FILES, *FILES, *((ADAPTER_CONFIG,) if kind == "adapter" else ())]
    found = [inside(folder, name, str(folder)) for name in names if (folder / name).exists()]
    if (folder / TEMPLATE_FOLDER).is_dir():
        extra = inside(folder, TEMPLATE_FOLDER, str(folder))
        found += [inside(extra, path.name, str(extra)) for path in sorted(extra.glob("*.jinja"))]
    for path in found:
        _regular(path)
    return [path.relative_to(folder) for path in found]


def left_out(folder: Path, taken: list[Path]) -> list[str]:
    """Return the names of what is neither converted nor copied, a folder's with a slash."""
    tops = {path.parts[0] for path in taken}
    names = [path.name + "/" * path.is_dir() for path in sorted(folder.iterdir()) if path.name not in tops]
    extra = folder / TEMPLATE_FOLDER
    if TEMPLATE_FOLDER in tops:
        names += [f"{TEMPLATE_FOLDER}/{path.name}" for path in sorted(extra.iterdir()) if path.relative_to(folder) not in taken]
    return names
