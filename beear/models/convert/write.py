"""Converts a folder of pickled or GGUF weights into a folder of safetensors, whole or not at all."""

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch

from beear import __version__
from beear.errors import UserError
from beear.files import share, staged, write_text
from beear.models import conversion, digests
from beear.models.adapter_files import read_adapter
from beear.models.config_file import read_config
from beear.models.convert import process, sources
from beear.models.convert.sources import Plan
from beear.models.folder import inside
from beear.models.header import TensorEntry, read_header
from beear.models.inspect import CONFIG_FILES
from beear.models.tokenizer_files import FILES
from beear.models.weights import INDEX, find_weights

Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)


@dataclass(frozen=True)
class Options:
    """What a user may choose: the file where there are several, the dtype of unpacked GGUF weights, limits."""

    file: str | None = None
    dtype: Dtype | None = None
    limits: process.Limits = field(default_factory=process.Limits)


def convert(folder: Path, out: Path, options: Options, say: Callable[[str], None]) -> None:
    """Write ``out`` from the weights and small files of ``folder``; ``say`` is told each thing that a user should know.

    Raises:
        UserError: the folder holds nothing to convert, a file was refused or could not be read within its limits, or ``out``
            is not a new or empty folder apart from ``folder``. Nothing is then left of ``out``.
    """
    folder, out = folder.expanduser().absolute(), out.expanduser().absolute()
    _check_places(folder, out)
    plan = sources.plan(folder, options.file)
    if plan.kind != "gguf" and options.dtype is not None:
        raise UserError(f"--dtype is {options.dtype}, expected it left out: the dtypes of a pickle's tensors are kept")
    if plan.kind == "gguf" and importlib.util.find_spec("gguf") is None:
        raise UserError(f"{folder}: GGUF weights are read with the package gguf (the extra gguf), expected it installed")
    tied = plan.kind == "model" and read_config(folder)[1].tied
    copied = sources.small_files(folder, plan.kind)
    with staged(out) as staging:
        try:
            _Work(folder, staging, plan, options, say).run(tied)
            for path in copied:
                (staging / path).parent.mkdir(exist_ok=True)
                shutil.copyfile(folder / path, staging / path)
            read_adapter(staging) if plan.kind == "adapter" else find_weights(staging)
        except OSError as error:
            said = error.strerror or error
            raise UserError(f"{out}: cannot be written ({said}), expected free space and readable files") from error
        # What is wrong with the files made is wrong with where they come from.
        except UserError as error:
            raise UserError(str(error).replace(str(staging), str(out))) from error
        _put_in_place(staging, out)
    say(f"left out: {', '.join(map(process.printable, _left_out(folder, plan, copied))) or 'nothing'}")


def _left_out(folder: Path, plan: Plan, copied: list[Path]) -> list[str]:
    index = [Path(sources.PICKLED_INDEX)] if plan.places is not None else []
    return sources.left_out(folder, [*copied, *map(Path, plan.sources), *index])


@dataclass
class _Work:
    """One conversion under way, into the hidden folder ``staging``."""

    folder: Path
    staging: Path
    plan: Plan
    options: Options
    say: Callable[[str], None]

    def run(self, tied: bool) -> None:
        """Convert every file and write conversion.json."""
        outcomes: list[process.Outcome] = []
        notes: list[str] = []
        for name, target in self.plan.sources.items():
            outcome = self._converted(name, target, tied)
            outcomes.append(outcome)
            how = target or f"dequantised to {self._dtype}, with the tokenizer that the library makes of the file"
            told = [f"{name}: {note}" for note in outcome.notes]
            notes += told
            for sentence in (f"{name} -> {how}", *told):
                self.say(sentence)
        if self.plan.places is not None:
            self._index(self.plan.places, frozenset().union(*(outcome.left for outcome in outcomes)))
        cut = all(outcome.network_cut for outcome in outcomes)
        self.say(NETWORK[cut] + PROGRAMS[all(outcome.programs_refused for outcome in outcomes)])
        written = sorted(self.staging.glob("*.safetensors"))
        record = conversion.Record(
            format=1,
            converter=__version__,
            torch=torch.__version__,
            network="cut" if cut else "open",
            dequantised_to=self._dtype if self.plan.kind == "gguf" else None,
            notes=[note[:500] for note in notes[:1000]],
            sources={name: digests.file_digest(self.folder / name) for name in self.plan.sources},
            written={path.name: digests.file_digest(path) for path in written},
        )
        write_text(self.staging / conversion.NAME, record.model_dump_json(indent=2) + "\n")

    @property
    def _dtype(self) -> Dtype:
        return self.options.dtype or "float32"

    def _converted(self, name: str, target: str, tied: bool) -> process.Outcome:
        """Have one file converted in a folder of its own, and take from there the files that are expected, and no others."""
        source = inside(self.folder, name, str(self.folder))
        with tempfile.TemporaryDirectory(dir=self.staging, prefix=".made.") as made:
            if target:
                outcome = process.run("pickle", source, Path(made, target), self.options.limits, tied=tied)
            else:
                outcome = process.run("gguf", source, Path(made), self.options.limits, dtype=self._dtype)
            for path in sorted(Path(made).iterdir()):
                unpacked = path.name in (*CONFIG_FILES, *FILES, INDEX) or path.suffix == ".safetensors"
                if path.name == target or (not target and unpacked):
                    os.rename(inside(Path(made), path.name, made), self.staging / path.name)
                    share(self.staging / path.name)
        if not target:
            read_config(self.staging)
        return outcome

    def _index(self, places: dict[str, str], left: frozenset[str]) -> None:
        """Write the index of the shards; it must place each tensor where the pickles' index placed it.

        Raises:
            UserError: the pickles' index and the pickles disagree.
        """
        index, total = self.folder / sources.PICKLED_INDEX, 0
        written: dict[str, str] = {}
        for name, target in self.plan.sources.items():
            entries: dict[str, TensorEntry] = read_header(self.staging / target)
            for tensor, entry in entries.items():
                if places.get(tensor) != name:
                    raise UserError(f'{self.folder / name}: found tensor "{tensor[:200]}" that {index.name} does not place here')
                total += entry.stop - entry.start
            written |= dict.fromkeys(entries, target)
        missing = sorted(set(places) - set(written) - left)
        if missing:
            raise UserError(f'{index}: names tensor "{missing[0][:200]}" ({len(missing)} in all) that no shard holds')
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(written.items()))}, indent=2)
        write_text(self.staging / INDEX, text + "\n")


NETWORK = {
    True: "the process that read the weights had no network",
    False: "the process that read the weights HAD THE NETWORK: this system allows neither a network of its own nor a filter",
}
PROGRAMS = {True: " and could start no program", False: "; starting programs could not be forbidden to it"}


def _check_places(folder: Path, out: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder}: found no such directory, expected one with weights to convert")
    real, target = folder.resolve(), out.resolve()
    if target.is_relative_to(real) or real.is_relative_to(target):
        raise UserError(f"{out}: found an output folder within {folder} or around it, expected one apart from it")
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UserError(f"{out}: found a file or a link, expected a new or empty folder")
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out}: found a folder that holds files, expected a new or empty one")


def _put_in_place(staging: Path, out: Path) -> None:
    try:
        # An empty folder is replaced; one that was filled meanwhile is not.
        os.rename(staging, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}), expected a new or empty folder") from error
