"""Starts the process that reads a stranger's weights, ends it when it takes too long, and says what went wrong."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, ValidationError

import beear
from beear.errors import UserError
from beear.models.folder import MEGABYTE

GIGABYTE = 1 << 30
# Weights of GGUF files are packed up to eight times, and are held packed, unpacked and as they are written.
FACTORS = {"pickle": 4, "gguf": 26}
LIBRARIES = {"pickle": ("torch", "safetensors"), "gguf": ("torch", "safetensors", "transformers", "gguf")}
# The loader of shared libraries may need the one; threads take addresses, of which there are few here.
KEPT = ("LD_LIBRARY_PATH",)
PLAIN = {
    "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2",
}  # fmt: skip
MAX_SAID = 64 * MEGABYTE


class Said(BaseModel):
    """What the process says, which is a stranger's word once it has opened the file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    network: bool = False
    programs: bool = False
    notes: list[str] = []
    left: list[str] = []
    memory: bool = False
    error: str | None = None
    broken: str | None = None


@dataclass(frozen=True)
class Limits:
    """What a file may take to be read: GB of memory beyond the libraries' and seconds; None: by the file's size."""

    memory: float | None = None
    seconds: float | None = None

    def bytes_for(self, size: int, kind: str) -> int:
        """Return the memory for a file of ``size`` bytes."""
        return int(self.memory * GIGABYTE) if self.memory is not None else 2 * GIGABYTE + FACTORS[kind] * size

    def seconds_for(self, size: int) -> float:
        """Return the time for a file of ``size`` bytes: five minutes, and as many for each GB."""
        return self.seconds if self.seconds is not None else 300 * (1 + size / GIGABYTE)


@dataclass(frozen=True)
class Outcome:
    """How the process was shut in, what it noted, and the names of tied tensors that it stored under another."""

    network_cut: bool
    programs_refused: bool
    notes: tuple[str, ...]
    left: frozenset[str]


def run(kind: str, source: Path, target: Path, limits: Limits, **more: Any) -> Outcome:
    """Have a process of its own convert ``source`` (a pickle or a gguf file) and write ``target``.

    Raises:
        UserError: it refused the file, failed, was killed, or took too long or too much memory; ``target`` is then of no use.
    """
    size = source.stat().st_size
    memory, seconds = limits.bytes_for(size, kind), limits.seconds_for(size)
    written = GIGABYTE + FACTORS[kind] * size
    job = {"kind": kind, "source": str(source), "target": str(target), "memory": memory, "written": written, **more}
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryFile() as said:
        code = _waited(job, home, said, seconds)
        said.seek(0)
        lines = said.read(MAX_SAID).decode("utf-8", "replace").splitlines()
    if code is None:
        raise UserError(
            f"{source}: reading it took more than {seconds:.3g} s and was ended, expected less time "
            "(--time-limit SECONDS allows more)"
        )
    first, last = _read(lines[0] if lines else ""), _read(lines[-1] if len(lines) > 1 else "")
    if last is not None and last.memory:
        raise UserError(
            f"{source}: reading it needs more than {memory / GIGABYTE:.3g} GB of memory, expected less "
            "(--memory-limit GB allows more)"
        )
    if last is not None and last.error:
        raise UserError(printable(last.error, 1000))
    if last is not None and last.broken:
        raise UserError(f"{source}: it could not be converted ({printable(last.broken)}), expected a whole file of weights")
    if code != 0 or first is None or last is None:
        raise UserError(f"{source}: the process that read it {_ended(code)}, expected a file that can be read")
    notes = tuple(printable(note) for note in last.notes)
    return Outcome(first.network, first.programs, notes, frozenset(last.left))


def printable(text: str, most: int = 400) -> str:
    """Return a stranger's text on one line, cut, without what a terminal obeys."""
    return "".join(c if c.isprintable() else " " for c in text[:most])


def _waited(job: dict[str, Any], home: str, said: IO[bytes], seconds: float) -> int | None:
    """Return the process's exit code; None where it was ended because its time was over."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", _START, json.dumps(_folders(job["kind"]))],
        stdin=subprocess.PIPE, stdout=said, stderr=subprocess.DEVNULL, cwd=home, env=_environment(home), start_new_session=True,
    )  # fmt: skip
    try:
        process.communicate(json.dumps(job).encode(), timeout=seconds)
        return process.returncode
    except subprocess.TimeoutExpired:
        return None
    finally:
        # Its group too: what it may have started must not outlive it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# An interpreter started with -I looks for modules neither in the folder that it is in nor where the environment says.
_START = (
    "import json, sys; sys.path += [p for p in json.loads(sys.argv[1]) if p not in sys.path]; "
    "from beear.models.convert.child import main; main()"
)


def _folders(kind: str) -> list[str]:
    """Return the folders that hold this package and the libraries."""
    specs = [importlib.util.find_spec(name) for name in LIBRARIES[kind]]
    origins = [str(beear.__file__), *(spec.origin for spec in specs if spec is not None and spec.origin)]
    return list(dict.fromkeys(str(Path(origin).resolve().parents[1]) for origin in origins))


def _environment(home: str) -> dict[str, str]:
    """Return an environment without secrets: nothing of this one but where shared libraries are."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return kept | {"PATH": os.defpath, "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8"} | PLAIN


def _read(line: str) -> Said | None:
    try:
        return Said.model_validate_json(line)
    except ValidationError:
        return None


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    with contextlib.suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"
