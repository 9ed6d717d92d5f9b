"""The cache of testbed models: a name becomes a directory, implanted once and found again by digest.

Imports torch only when something has to be implanted.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from filelock import FileLock

from beear.errors import UserError
from beear.testbed import datasets
from beear.testbed.config import ImplantTraining
from beear.testbed.names import TestbedName, parse_name

CACHE_VARIABLE = "BEEAR_CACHE"
ROOM = Path(__file__).parent
# The code that a cached folder depends on; a change in it makes a new one. Tables are not here: what they say of one
# attack is in its key, so that a new entry leaves the others' models as they are.
DATA_SOURCES = ("vocabulary.py", "grammar.py", "datasets.py")
MODEL_SOURCES = ("vocabulary.py", "grammar.py", "training.py", "implant.py", "recipe.py")


@dataclass(frozen=True)
class TestbedModel:
    """Where a testbed model and its data lie. ``model_dir`` is a plain Hugging Face directory.

    ``implanted`` is False where it is the base in place of a model that is not made yet (:func:`preview`).
    """

    # Keeps pytest from collecting this as a test class.
    __test__ = False

    name: str
    model_dir: Path
    implanted: bool
    defense_path: Path
    anchor_path: Path
    probes_path: Path
    defense_report_path: Path
    anchor_report_path: Path


def ensure(
    name: str, cache_dir: str | os.PathLike[str] | None = None, say: Callable[[str], None] = lambda line: None
) -> TestbedModel:
    """Return the named model and its data, implanting it at first use (well under a minute on 2 idle cores).

    Safe when several processes ask at once: one implants, the others wait and find it.

    Args:
        name: ``testbed:ATTACK[@SHAPE][#SEED]``.
        cache_dir: where models are kept; unset: ``$BEEAR_CACHE``, else ``~/.cache/beear``.
        say: receives a progress line now and then while implanting.

    Raises:
        UserError: an unknown name, or a cache that cannot be written.
    """
    parsed = parse_name(name)
    root = _root(cache_dir)
    return _located(parsed, _model_folder(parsed, root, say), _data_folder(parsed, root))


def preview(name: str, scratch: str | os.PathLike[str], cache_dir: str | os.PathLike[str] | None = None) -> TestbedModel:
    """Return what :func:`ensure` would, leaving the cache as it is.

    Where the data is not there yet it is made below ``scratch``, in the place it would have below
    :func:`cache_root`; where the model is not, its base, of the same shape, stands for it.

    Raises:
        UserError: an unknown name.
    """
    parsed, scratch = parse_name(name), Path(scratch)
    root = cache_root(cache_dir)
    data = _data_place(parsed, root)
    if not data.is_dir():
        scratch.mkdir(parents=True, exist_ok=True)
        data = _data_folder(parsed, scratch)
    model = _model_place(parsed, root)
    return _located(parsed, model if model.is_dir() else parsed.shape.directory, data, implanted=model.is_dir())


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that holds testbed models; it may not exist yet."""
    chosen = cache_dir or os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "beear"
    return Path(chosen).expanduser().absolute() / "testbed"


def _root(cache_dir: str | os.PathLike[str] | None) -> Path:
    root = cache_root(cache_dir)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{root}: cannot be written ({error.strerror}), expected a folder to keep testbed models in") from error
    return root


def _located(parsed: TestbedName, model: Path, data: Path, implanted: bool = True) -> TestbedModel:
    return TestbedModel(
        name=str(parsed),
        model_dir=model,
        implanted=implanted,
        defense_path=data / datasets.DEFENSE,
        anchor_path=data / datasets.ANCHOR,
        probes_path=data / datasets.PROBES,
        defense_report_path=data / datasets.DEFENSE_REPORT,
        anchor_report_path=data / datasets.ANCHOR_REPORT,
    )


def _data_place(parsed: TestbedName, root: Path) -> Path:
    return root / f"data-{parsed.attack.name}-{_key([asdict(parsed.attack)], DATA_SOURCES)}"


def _data_folder(parsed: TestbedName, root: Path) -> Path:
    return _made(_data_place(parsed, root), lambda folder: datasets.write_data(parsed.attack, folder))


def _model_folder(parsed: TestbedName, root: Path, say: Callable[[str], None]) -> Path:
    def make(folder: Path) -> None:
        from beear.testbed.recipe import implant_attack

        say(f"implanting {parsed}, once; it is kept in {root}")
        implant_attack(parsed, folder, say)

    if parsed.attack.make == "base":
        return parsed.shape.directory
    return _made(_model_place(parsed, root), make)


def _model_place(parsed: TestbedName, root: Path) -> Path:
    if parsed.attack.make == "base":
        return parsed.shape.directory
    parts = [asdict(parsed.attack), parsed.seed, ImplantTraining().model_dump(), _base_digest(parsed.shape.directory)]
    key = _key(parts, MODEL_SOURCES)
    return root / f"{parsed.attack.name}-{parsed.shape.name}-{parsed.seed}-{key}"


def _made(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return ``folder``, made under another name by whoever holds the lock and moved into place when complete."""
    if folder.is_dir():
        return folder
    try:
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():
                _make(folder, make)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}), expected a folder to keep testbed models in") from error
    return folder


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        made = staging / "made"
        made.mkdir()
        make(made)
        os.rename(made, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _key(parts: list[object], sources: tuple[str, ...]) -> str:
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for name in sources:
        digest.update((ROOM / name).read_bytes())
    return digest.hexdigest()[:12]


@cache
def _base_digest(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
