"""Finds the files that hold the weights and checks their headers; reads no weight."""

import fnmatch
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from beear.errors import UserError
from beear.models.folder import MEGABYTE, inside, read_object
from beear.models.header import FLOATS, TensorEntry, read_data, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Tables that old files hold though the library computes them: rotations, positions, and masks, which have four dimensions.
COMPUTED = re.compile(r"rotary_emb\w*\.\w*(inv_freq|cos_cached|sin_cached)$|(^|\.)(position_ids|attn\.embed_positions)$")
MASKS = re.compile(r"\.(attn|attention)\.(masked_)?bias$")
UNSAFE_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.h5", "*.msgpack", "*.gguf", "*.ot")
# What the conversion command reads, and files of those formats that trainers leave beside the weights.
PICKLES = ("*.bin", "*.pt", "*.pth")
CONVERTED = (*PICKLES, "*.gguf")
NO_WEIGHTS = ("training_args.bin", "optimizer*", "scheduler*", "scaler*", "rng_state*")


@dataclass(frozen=True)
class WeightFiles:
    """The safetensors files that will be loaded, in name order, every tensor in them, and the file that holds it."""

    files: tuple[Path, ...]
    tensors: dict[str, TensorEntry]
    places: dict[str, Path]

    @property
    def weights(self) -> dict[str, TensorEntry]:
        """The tensors that are no tables which the library computes."""
        return {name: entry for name, entry in self.tensors.items() if not is_computed(name, entry)}

    def same(self, one: str, other: str) -> bool:
        """Say whether two tensors are of one dtype and shape and hold the same bytes."""
        first, second = self.tensors[one], self.tensors[other]
        if (first.dtype, first.shape) != (second.dtype, second.shape):
            return False
        pieces = zip(read_data(self.places[one], first), read_data(self.places[other], second), strict=False)
        return all(mine == its for mine, its in pieces)

    @property
    def parameters(self) -> int:
        """Elements over all floating-point weights."""
        return sum(entry.elements for entry in self.weights.values() if entry.dtype in FLOATS)

    def dtypes(self) -> dict[str, str]:
        """Return the dtype (torch's name) of every floating-point weight."""
        return {name: FLOATS[entry.dtype] for name, entry in self.weights.items() if entry.dtype in FLOATS}

    def source_dtype(self) -> str:
        """Return the dtype (torch's name) that most elements have on disk.

        Raises:
            UserError: most elements are integers, as in a quantised checkpoint.
        """
        counts: dict[str, int] = {}
        for entry in self.weights.values():
            counts[entry.dtype] = counts.get(entry.dtype, 0) + entry.elements
        most = max(sorted(counts), key=lambda dtype: counts[dtype], default="none")
        if most not in FLOATS:
            raise UserError(
                f"{self.files[0]}: found mostly {most} weights, a quantised checkpoint; expected float32, bfloat16 or float16"
            )
        return FLOATS[most]


def is_computed(name: str, entry: TensorEntry) -> bool:
    """Say whether a tensor is a table that the library computes, and ignores where a file holds it."""
    mask = MASKS.search(name) is not None and len(entry.shape) in (0, 4)
    return mask or COMPUTED.search(name) is not None


def unsafe_files(folder: Path) -> list[str]:
    """Return the names of files in formats that are never opened here (pickles and other weight formats)."""
    return sorted(path.name for path in folder.iterdir() if matches(path.name, UNSAFE_WEIGHTS))


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Say whether a file's name fits one of the patterns, in capitals or not."""
    return any(fnmatch.fnmatch(name.lower(), pattern) for pattern in patterns)


def convertible(folder: Path) -> list[str]:
    """Return the names of files that the conversion command may make safetensors of."""
    return [name for name in unsafe_files(folder) if matches(name, CONVERTED) and not matches(name, NO_WEIGHTS)]


def how_to_convert(folder: Path) -> str:
    """Return the end of a sentence: the command that makes safetensors of a folder's weights, or nothing where it cannot."""
    if not convertible(folder):
        return ""
    command = ("python", "-m", "beear.models.convert", str(folder), f"{folder}-safetensors")
    return f"; to convert them in a process of their own: {shlex.join(command)}"


def refuse_unsafe(folder: Path) -> None:
    """Refuse a folder whose weights are all in formats that are never opened here.

    Raises:
        UserError: that, with the command that converts them where there is one.
    """
    unsafe = unsafe_files(folder)
    if unsafe and not (folder / SINGLE).exists() and not (folder / INDEX).exists():
        raise UserError(
            f"{folder}: found weights only as {', '.join(unsafe[:3])}, expected {SINGLE} or {INDEX} (safetensors only)"
            f"{how_to_convert(folder)}"
        )


def only_described(folder: Path) -> bool:
    """Return whether a folder holds a config.json and nothing that could be weights."""
    if not (folder / "config.json").is_file():
        return False
    return not any(folder.glob("*.safetensors*")) and not unsafe_files(folder)


def find_weights(folder: Path) -> WeightFiles:
    """Return the weight files that loading will read, their headers checked.

    Raises:
        UserError: no safetensors, both a single file and an index, a distributed checkpoint (pickled metadata),
            an index that names files outside the folder, a missing shard or tensor, a tensor in two shards.
    """
    if (folder / ".metadata").exists() or any(folder.glob("*.distcp")):
        raise UserError(f"{folder}: found a distributed checkpoint (its metadata is a pickle), expected safetensors files")
    single, index = (folder / SINGLE).exists(), (folder / INDEX).exists()
    if single and index:
        raise UserError(f"{folder}: found both {SINGLE} and {INDEX}, expected one of them")
    if single:
        path = inside(folder, SINGLE, str(folder))
        found = read_header(path)
        weights = WeightFiles((path,), found, dict.fromkeys(found, path))
    elif index:
        weights = _sharded(folder)
    else:
        refuse_unsafe(folder)
        raise UserError(f"{folder}: found no weights, expected {SINGLE} or {INDEX} (safetensors only)")
    if not weights.tensors:
        raise UserError(f"{weights.files[0]}: found no tensors, expected a model's weights")
    return weights


def _sharded(folder: Path) -> WeightFiles:
    index = inside(folder, INDEX, str(folder))
    listed = read_object(index, 128 * MEGABYTE)
    mapping, metadata = listed.get("weight_map"), listed.get("metadata")
    if not isinstance(mapping, dict) or not mapping or any(not isinstance(name, str) for name in mapping.values()):
        raise UserError(f"{index}: found weight_map of another shape, expected an object of tensor name to file name")
    if not isinstance(metadata, dict):
        raise UserError(f'{index}: found "metadata": {str(metadata)[:40]}, expected an object (it may be empty)')
    files: list[Path] = []
    tensors: dict[str, TensorEntry] = {}
    places: dict[str, Path] = {}
    for name in sorted(set(mapping.values())):
        path = inside(folder, name, f"{index}: weight_map")
        if not name.endswith(".safetensors"):
            raise UserError(f'{index}: found the shard "{name[:200]}", expected *.safetensors')
        if not path.is_file():
            raise UserError(f"{path}: this shard is missing though {INDEX} names it, expected all {len(set(mapping.values()))}")
        for tensor, entry in read_header(path).items():
            if tensor in tensors:
                raise UserError(f'{path}: found tensor "{tensor[:200]}" that another shard holds too, expected it once')
            if mapping.get(tensor) != name:
                raise UserError(f'{path}: found tensor "{tensor[:200]}" that {INDEX} does not place here')
            tensors[tensor], places[tensor] = entry, path
        files.append(path)
    missing = sorted(set(mapping) - set(tensors))
    if missing:
        raise UserError(f'{index}: names tensor "{missing[0][:200]}" ({len(missing)} in all) that no shard holds')
    return WeightFiles(tuple(files), tensors, places)
