"""Makes one safetensors file of one pickle of tensors; runs in the process that is shut in."""

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from beear.errors import UserError
from beear.models.adapter_files import EMBEDDINGS, OUTPUT
from beear.models.folder import listed

# Where trainers put a model's tensors within a larger dictionary.
WITHIN = ("state_dict", "model")
ASKED = re.compile(r"GLOBAL (\S+)")
# The rest of torch's message is advice to load the file without any care.
SAID = re.compile(r"WeightsUnpickler error:\s*(.*?)\s*(Check the documentation|$)", re.DOTALL)


def convert(source: Path, target: Path, tied: bool) -> tuple[list[str], list[str]]:
    """Write the tensors of ``source`` to ``target``, each in its dtype.

    Returns sentences on what was not taken as it is, and the names that are not stored again because ``tied`` says that the
    model's output layer is its embeddings.

    Raises:
        UserError: the pickle asks for more than tensors, is broken, or holds something else.
    """
    loaded = _load(source)
    tensors, notes = _tensors(loaded, source)
    left = _part(tensors, tied, notes)
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, target, metadata={"format": "pt"})
    return notes, left


def _load(source: Path) -> Any:
    with source.open("rb") as file:
        archive = file.read(4) == b"PK\x03\x04"
    try:
        # The format before archives cannot be mapped.
        return torch.load(source, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        asked, said = ASKED.search(str(error)), SAID.search(str(error))
        told = f"torch says: {' '.join(said[1].split())[:200]}" if said else "it is none that torch reads"
        why = f"it asks for {asked[1][:80]}" if asked else told
        raise UserError(f"{source}: this pickle was refused and nothing of it was run ({why}), expected tensors alone") from None


def _tensors(loaded: Any, source: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors by name; plain values beside them are counted, anything else is refused."""
    notes: list[str] = []
    beside: list[str] = []
    entries = _entries(loaded, source)
    within = next((name for name in WITHIN if isinstance(entries.get(name), dict)), None)
    if within is not None:
        notes.append(f'took the tensors under "{within}"')
        beside = _plain({name: value for name, value in entries.items() if name != within}, source)
        entries = _entries(entries[within], source)
    tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    beside += _plain({name: value for name, value in entries.items() if name not in tensors}, source)
    if beside:
        shown = listed([name[:60] for name in beside])
        notes.append(f"left out what is no tensor, plain values by the names of ({len(beside)}): {shown}")
    if not tensors:
        raise UserError(f"{source}: found no tensors, expected a model's weights")
    for name, tensor in tensors.items():
        _check(name, tensor, source)
    return tensors, notes


def _entries(value: Any, source: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{source}: found a {type(value).__name__}, expected a dictionary of tensors by name")
    odd = next((name for name in value if not isinstance(name, str)), None)
    if odd is not None:
        raise UserError(f"{source}: found an entry named by a {type(odd).__name__}, expected names as text")
    return value


def _plain(values: dict[str, Any], source: Path) -> list[str]:
    """Return the names of plain values.

    Raises:
        UserError: a value is no plain one.
    """
    for name, value in values.items():
        if value is not None and not isinstance(value, bool | int | float | str):
            raise UserError(f'{source}: found "{name[:80]}", a {type(value).__name__}, expected tensors and plain values alone')
    return list(values)


def _check(name: str, tensor: Tensor, source: Path) -> None:
    shown = f'{source}: tensor "{name[:200]}"'
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise UserError(f"{shown} is sparse or quantised, expected a plain one")
    held = tensor.untyped_storage().nbytes()
    # Strides of zero let a few bytes pass for any number of them.
    if tensor.nbytes > held:
        raise UserError(f"{shown} claims {tensor.nbytes:,} bytes and the file holds {held:,} for it, expected all of them")


def _part(tensors: dict[str, Tensor], tied: bool, notes: list[str]) -> list[str]:
    """Give each tensor memory of its own, which safetensors asks for; return the names that were taken out as tied."""
    groups: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.nbytes:
            groups.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    left: list[str] = []
    for names in (names for names in groups.values() if len(names) > 1):
        first = next((name for name in names if not OUTPUT.search(f".{name}.")), names[0])
        views = {(tensors[n].data_ptr(), tensors[n].dtype, tensors[n].shape, tensors[n].stride()) for n in names}
        shown = listed([f'"{name[:80]}"' for name in names], 4)
        if tied and len(views) == 1 and all(EMBEDDINGS.search(f".{name}.") for name in names):
            for name in names:
                if name != first:
                    left.append(name)
                    del tensors[name]
            notes.append(f'{shown} are one tensor, as config.json says of these: stored once, as "{first[:80]}"')
        else:
            for name in names:
                tensors[name] = tensors[name].clone()
            notes.append(f"{shown} share memory and config.json ties no such tensors: each is stored whole")
    return left
