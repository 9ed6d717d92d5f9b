"""Writes a sanitised model as safetensors, in the source's dtype and with its small files, whole or not at all."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from beear.errors import UserError
from beear.files import share, staged
from beear.models.adapters import bare_name, base_model, merged_into, merged_state
from beear.models.facts import ModelFacts
from beear.models.inspect import CONFIG_FILES, tokenizer_folder
from beear.models.loading import quiet
from beear.models.tokenizer_copy import copy_tokenizer
from beear.models.tokenizer_files import TEMPLATE_FILE, TEMPLATE_FOLDER, template_file
from beear.models.weights import INDEX, find_weights

NOTES = "beear.json"


def export_model(
    model: nn.Module,
    source: ModelFacts,
    folder: str | os.PathLike[str],
    source_dtype: str | torch.dtype | None = None,
    notes: Mapping[str, Any] | None = None,
    state_dict: Mapping[str, Tensor] | None = None,
    *,
    chat_template: str | None = None,
    max_shard_size: str = "5GB",
    beside: Mapping[str, str] | None = None,
) -> Path:
    """Write the model so that plain ``AutoModelForCausalLM`` and ``AutoTokenizer`` load it; return the folder.

    Weights are merged where a LoRA is attached (the model itself is left as it is), and each is rounded to the dtype that it
    has in the source's files. Tied weights are stored once. Configuration, tokenizer and template are the source's, byte for
    byte where the library reads them as they are meant (:func:`beear.models.tokenizer_copy.copy_tokenizer`). The folder
    appears complete or not at all, and replaces one that this function wrote before.

    Args:
        model: the model, bare or with the LoRA of :func:`beear.models.adapters.attach_lora`.
        source: the checkpoint the model came from.
        folder: where to write.
        source_dtype: one dtype for all weights; unset: each weight's own.
        notes: plain data kept beside the weights in ``beear.json`` (verdict, run id, digests).
        state_dict: full tensors where the model's own are sharded; named as ``model.state_dict()`` names them.
        chat_template: a .jinja file, or the name of a template, that replaces the source's templates.
        max_shard_size: largest weight file, as the library writes it.
        beside: the texts of further files in the folder, by name.

    Raises:
        UserError: the folder exists and is not an earlier export, or cannot be written.
    """
    target = Path(folder).absolute()
    own = Dtypes.of(source) if source_dtype is None else Dtypes(torch_dtype(source_dtype), {})
    check_target(target)
    with staged(target) as staging:
        _write_weights(model, state_dict, own, staging, max_shard_size)
        _copy_small_files(source, staging, chat_template)
        note = json.dumps(dict(notes or {}), indent=2, sort_keys=True, default=str) + "\n"
        for name, text in {**(beside or {}), NOTES: note}.items():
            (staging / name).write_text(text, encoding="utf-8")
        _move(staging, target)
    return target


def form_kept(model: nn.Module, source: ModelFacts) -> Callable[[str, Tensor], Tensor]:
    """Return ``keep(name, tensor)``, which gives a weight of ``model`` on the CPU in the form :func:`export_model` needs.

    It is rounded to the dtype that it has in the source's files. A LoRA's factors are not, nor is a weight that one is merged
    into later where rounding would change the sum.
    """
    own, merged = Dtypes.of(source), merged_into(model)

    def keep(name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor.cpu()
        rounded = tensor.to(own.exact(bare_name(name)))
        exact = name not in merged or (merged[name] and torch.equal(rounded.to(tensor.dtype), tensor))
        return (rounded if exact else tensor).cpu()

    return keep


@dataclass(frozen=True)
class Dtypes:
    """The dtypes of a checkpoint's floating-point weights: most of them have ``most``, ``others`` those of another."""

    most: torch.dtype
    others: Mapping[str, torch.dtype]
    known: frozenset[str] = frozenset()

    @classmethod
    def of(cls, source: ModelFacts) -> "Dtypes":
        """Read them from the headers of the source's files.

        Raises:
            UserError: the files cannot be read any more.
        """
        most = torch_dtype(source.source_dtype)
        stored = {name: torch_dtype(dtype) for name, dtype in find_weights(Path(source.weights_folder)).dtypes().items()}
        return cls(most, {name: dtype for name, dtype in stored.items() if dtype != most}, frozenset(stored))

    def stored(self, name: str) -> torch.dtype:
        """Return the dtype of the file's tensor ``name``; older files leave out the first part of names."""
        return next((self.others[n] for n in (name, name.partition(".")[2]) if n in self.others), self.most)

    def exact(self, name: str) -> torch.dtype:
        """Return a dtype that loses nothing of the model's weight ``name``, which the library may make of several tensors."""
        if not self.others or {name, name.partition(".")[2]} & self.known:
            return self.stored(name)
        return reduce(torch.promote_types, self.others.values(), self.most)


def torch_dtype(name: str | torch.dtype) -> torch.dtype:
    """Return the torch dtype of a name such as ``bfloat16``."""
    dtype = name if isinstance(name, torch.dtype) else getattr(torch, name.removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise UserError(f"found dtype {name}, expected float32, bfloat16 or float16")
    return dtype


def check_target(target: Path) -> None:
    """Make sure that an export may be written to ``target``.

    Raises:
        UserError: it is a file, or holds files that are not an earlier export.
    """
    if target.is_dir() and any(target.iterdir()) and not (target / NOTES).exists():
        raise UserError(f"{target}: holds files that are not an earlier export (no {NOTES}), expected an empty or new folder")
    if target.exists() and not target.is_dir():
        raise UserError(f"{target}: is a file, expected a folder")


def cast_state(state: Mapping[str, Tensor], dtype_of: Callable[[str], torch.dtype]) -> dict[str, Tensor]:
    """Return floating tensors rounded to the dtype of their name, on the CPU; tensors that share memory still do."""
    done: dict[tuple[int, tuple[int, ...], tuple[int, ...]], Tensor] = {}
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        tensor = tensor.detach()
        key = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()))
        if key not in done:
            done[key] = tensor.to("cpu", dtype_of(name) if tensor.is_floating_point() else tensor.dtype)
        result[name] = done[key]
    return result


def _tie(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Make tied names share one tensor again; gathering from shards gave each a copy of its own.

    Raises:
        RuntimeError: copies that differ, so that neither can stand for both.
    """
    for name, original in getattr(model, "all_tied_weights_keys", {}).items():
        if name in state and original in state:
            if not torch.equal(state[name], state[original]):
                raise RuntimeError(f"tied weights {name} and {original} differ")
            state[name] = state[original]
    return state


def _write_weights(
    model: nn.Module, state_dict: Mapping[str, Tensor] | None, own: Dtypes, staging: Path, max_shard_size: str
) -> None:
    plain = base_model(model)
    state = cast_state(_tie(plain, merged_state(model, state_dict)), own.exact)
    # save_pretrained overwrites these two in the model's own configuration.
    kept = {name: getattr(plain.config, name, None) for name in ("dtype", "architectures")}
    try:
        with quiet():
            plain.save_pretrained(staging, state_dict=state, max_shard_size=max_shard_size)
    finally:
        for name, value in kept.items():
            setattr(plain.config, name, value)
    for path in staging.iterdir():
        if ".safetensors" not in path.name:
            path.unlink()
    if own.others:
        _round_as_stored(own, staging)
    for path in staging.iterdir():
        share(path)


def _round_as_stored(own: Dtypes, staging: Path) -> None:
    """Give each written tensor its dtype in the source.

    Before the library wrote them, it held some as one weight under another name.
    """
    bytes_in_all = 0
    for path in sorted(staging.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # the library's file object is no mapping
            metadata = file.metadata()
        rounded = {name: t.to(own.stored(name)) if t.is_floating_point() else t for name, t in found.items()}
        bytes_in_all += sum(tensor.nbytes for tensor in rounded.values())
        if any(rounded[name].dtype != tensor.dtype for name, tensor in found.items()):
            save_file(rounded, path, metadata=metadata)
    if (staging / INDEX).exists():
        index = json.loads((staging / INDEX).read_text(encoding="utf-8"))
        index["metadata"]["total_size"] = bytes_in_all
        (staging / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _copy_small_files(source: ModelFacts, staging: Path, chat_template: str | None) -> None:
    for name in CONFIG_FILES:
        _copy(Path(source.weights_folder) / name, staging / name)
    tokenizer = tokenizer_folder(source.path, source.base)
    copy_tokenizer(tokenizer, staging)
    if chat_template is not None:
        shutil.rmtree(staging / TEMPLATE_FOLDER, ignore_errors=True)
        _copy(template_file(chat_template), staging / TEMPLATE_FILE)


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        shutil.copyfile(source, target)


def _move(staging: Path, target: Path) -> None:
    """Put the finished folder in place; an earlier export is moved aside first and deleted afterwards."""
    if not target.exists():
        os.rename(staging, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    try:
        os.rename(target, old / "model")
        os.rename(staging, target)
    finally:
        if not target.exists() and (old / "model").exists():
            os.rename(old / "model", target)
        shutil.rmtree(old, ignore_errors=True)
