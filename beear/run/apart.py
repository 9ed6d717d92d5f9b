"""An output folder is never where the run reads: what a run is given stays as it was."""

import glob
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from beear.config.schema import RunConfig
from beear.errors import UserError
from beear.run.local_paths import is_address


def check_apart(target: Path, folders: Mapping[str, str | None], files: Mapping[str, str | None]) -> None:
    """Make sure that writing the folder ``target`` changes nothing that is read, whatever links lead there.

    ``folders`` and ``files`` are the local paths that are read, by field; a file may be a glob. Addresses such as ``hub:`` count
    for nothing.

    Raises:
        UserError: ``target`` is one of them, holds one, or lies in one of the folders.
    """
    out = _real(target)
    for field, path in _local(folders):
        folder = _real(path)
        if out == folder or folder in out.parents:
            where = "is" if out == folder else "lies in"
            raise UserError(f"output.dir {target}: it {where} the folder of {field} ({path}); expected a folder outside of it")
        if out in folder.parents:
            raise UserError(f"output.dir {target}: it holds the folder of {field} ({path}); expected a folder beside it")
    for field, path in _local(files):
        for file in _files(os.path.expanduser(path)):
            real = _real(file)
            if out == real or out in real.parents:
                where = "is" if out == real else "holds"
                raise UserError(f"output.dir {target}: it {where} a file of {field} ({file}); expected a folder apart from it")


def read_by(asked: RunConfig) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """Return the folders and the files that a run is given, by field."""
    model, data, evaluate = asked.model, asked.data, asked.evaluate
    folders = {f"model.{name}": getattr(model, name) for name in ("path", "base", "reference")}
    files = {
        "model.chat_template": model.chat_template,
        "data.defense.path": data.defense.path,
        "data.defense.report_path": data.defense.report_path,
        "data.anchor.path": data.anchor.path,
        "data.anchor.report_path": data.anchor.report_path,
        "data.probes.path": data.probes.path,
        "evaluate.keywords": evaluate.keywords,
    }
    return {**folders, "evaluate.tasks_path": evaluate.tasks_path}, files


def _files(path: str) -> list[str]:
    """Return the files that are there; a name such as a template's may be that of a folder, which is not meant."""
    return [name for name in ([path] if os.path.exists(path) else glob.glob(path, recursive=True)) if os.path.isfile(name)]


def _local(paths: Mapping[str, str | None]) -> Iterator[tuple[str, str]]:
    return ((field, path) for field, path in paths.items() if path and not is_address(path))


def _real(path: str | Path) -> Path:
    """Return where a path leads, from the root and without links; what does not exist yet counts from what does."""
    return Path(os.path.realpath(os.path.expanduser(path)))
