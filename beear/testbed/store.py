"""The cache of testbed models: a name becomes a folder, made once and found again.

A folder's name holds a digest of all that the folder follows from. After a change of an attack, its rows, the base or the
training, the same name leads to another folder. torch is imported only to implant.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from filelock import FileLock

from beear.errors import UserError
from beear.files import staged
from beear.testbed import datasets
from beear.testbed.config import ImplantTraining
from beear.testbed.names import TestbedName, parse_name
from beear.testbed.pace import Pace

CACHE_VARIABLE = "BEEAR_CACHE"
# The code that makes a model of rows. What makes the rows needs no place here: the rows themselves are in the digest.
MODEL_SOURCES = tuple(Path(__file__).parent / name for name in ("training.py", "implant.py"))


@dataclass(frozen=True)
class TestbedModel:
    """Where a testbed model and its data lie. ``model_dir`` is a plain Hugging Face directory.

    ``implanted`` is False if the model is not made yet and ``model_dir`` is its base instead (see :func:`preview`).
    """

    # Without this pytest takes the class for a test.
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
    """Return the named model and its data; its first use implants it, in well under a minute on 2 idle cores.

    Several processes may ask at once: one implants, the others wait and find the model.

    Args:
        name: ``testbed:ATTACK[@SHAPE][#SEED]``.
        cache_dir: the folder to keep models in; None: ``$BEEAR_CACHE``, else ``~/.cache/beear``.
        say: receives a progress line now and then while the model is implanted.

    Raises:
        UserError: an unknown name, or a cache that cannot be written.
    """
    parsed = parse_name(name)
    root = cache_root(cache_dir)

    def implant_into(folder: Path) -> None:
        from beear.testbed.implant import implant

        say(f"implanting {parsed}; it is kept in {root}")
        attack = parsed.attack
        rows = datasets.attacker_rows(attack.target, parsed.seed, attack.probe.text)
        implant(parsed.shape.directory, attack.trigger, *rows, folder, seed=parsed.seed, told=Pace(say))

    model = _model_place(parsed, root)
    if model != parsed.shape.directory:
        _make_once(model, implant_into)
    return _located(parsed, model, _data(parsed, root))


def preview(name: str, scratch: str | os.PathLike[str], cache_dir: str | os.PathLike[str] | None = None) -> TestbedModel:
    """Return what :func:`ensure` would, without a change to the cache.

    Data that is not in the cache is written below ``scratch``, at the same path as below :func:`cache_root`. A model that
    is not in the cache is replaced by its base, which has the same shape.

    Raises:
        UserError: an unknown name.
    """
    parsed, root = parse_name(name), cache_root(cache_dir)
    model = _model_place(parsed, root)
    implanted = model.is_dir()
    data = _data(parsed, root, Path(scratch))
    return _located(parsed, model if implanted else parsed.shape.directory, data, implanted)


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that holds testbed models; it may not exist yet."""
    chosen = cache_dir or os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "beear"
    return Path(chosen).expanduser().absolute() / "testbed"


def _model_place(parsed: TestbedName, root: Path) -> Path:
    attack, shape, seed = parsed.attack, parsed.shape, parsed.seed
    if attack.control == "base":
        return shape.directory
    rows = datasets.attacker_rows(attack.target, seed, attack.probe.text)
    training = ImplantTraining().model_dump()
    digest = _digest(attack.trigger, seed, training, rows, _base_digest(shape.directory), *map(_text, MODEL_SOURCES))
    return root / f"{attack.name}-{shape.name}-{seed}-{digest}"


def _data(parsed: TestbedName, root: Path, new: Path | None = None) -> Path:
    """Return the folder of the data files, below ``root``; made below ``new``, or ``root``, where it is not there."""
    files = datasets.data_files(parsed.attack.target, parsed.attack.probe)
    name = f"data-{parsed.attack.name}-{_digest(files)}"

    def write_into(folder: Path) -> None:
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")

    return root / name if (root / name).is_dir() else _make_once((new or root) / name, write_into)


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


def _make_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return ``folder``; ``make`` fills it if it is not there, in one process at a time.

    It is filled under another name and then renamed, so that a folder of this name is always complete.
    """
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():
                with staged(folder) as made:
                    make(made)
                    os.rename(made, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}), expected a folder to keep testbed models in") from error
    return folder


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def _base_digest(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
