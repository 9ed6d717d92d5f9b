"""The output folder: whether it holds this run, complete or half done, or something else. Nothing is half-written.

A run works in a hidden sibling, ``.NAME.IDENTITY.partial``, and moves it into place when it is whole.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from beear.cluster.connection import SUBMITTED
from beear.errors import UserError
from beear.files import write_text

REPORT, TRAINING, RUN = "report.json", "train", "run.json"
State = Literal["new", "resumable", "complete"]


@dataclass
class OutputFolder:
    """Where one run's results go; its file ``record`` says which run they are of.

    ``worth``: patterns of names in the staging folder that are worth resuming from.
    """

    target: Path
    identity: str
    record: str = REPORT
    worth: tuple[str, ...] = ("checkpoint_*",)

    @property
    def staging(self) -> Path:
        """The hidden sibling that the run works in."""
        return self.target.parent / f".{self.target.name}.{self.identity[:12]}.partial"

    def state(self, fresh: bool = False) -> State:
        """Say whether this run is complete (never with ``fresh``), half done or not begun.

        Raises:
            UserError: the folder holds another run or other files.
        """
        if self.target.exists() and any(self.target.iterdir()):
            found = self._identity_there()
            if found == self.identity:
                return "new" if fresh else "complete"
            what = f"run {found[:12]}" if found else "files that are no run's"
            raise UserError(
                f"output.dir {self.target}: it holds {what}, expected an empty folder or this run ({self.identity[:12]}); "
                "give another --output.dir, or remove the folder"
            )
        return "resumable" if (self.staging / RUN).exists() else "new"

    def open(self, fresh: bool) -> "Lock":
        """Make (or with ``fresh`` empty) the staging folder and hold the output folder against a second run.

        Raises:
            UserError: another process is working on this output folder.
        """
        self.staging.mkdir(parents=True, exist_ok=True)
        lock = Lock(self.target.parent / f".{self.target.name}.lock", self.target)
        note = self.staging / RUN
        begun = json.loads(note.read_text()) if note.exists() else {}
        # An interrupted --fresh run resumes its own folder instead of clearing it again.
        if fresh and not begun.get("fresh"):
            shutil.rmtree(self.staging)
            self.staging.mkdir()
        write_text(note, json.dumps({"identity": self.identity, "fresh": fresh}) + "\n")
        return lock

    def drop_if_untrained(self) -> None:
        """Remove the staging folder of a run that failed before there was anything to resume from."""
        trained = any(found for pattern in self.worth for found in self.staging.rglob(pattern))
        if not trained and not (self.staging / self.record).exists():
            self.drop()

    def drop(self) -> None:
        """Remove the staging folder: the next run starts from the beginning."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def finish(self, keep: tuple[str, ...]) -> None:
        """Move the staging folder's ``keep`` entries into place and drop the rest.

        Raises:
            UserError: something else was put into the output folder meanwhile; the results stay in the staging folder.
        """
        if self.target.exists() and any(self.target.iterdir()) and self._identity_there() != self.identity:
            raise UserError(
                f"output.dir {self.target}: something was put there during the run, expected it as it was; "
                f"the results are in {self.staging}"
            )
        ready = self.staging.with_suffix(".ready")
        shutil.rmtree(ready, ignore_errors=True)
        ready.mkdir()
        for name in keep:
            if (self.staging / name).exists():
                os.replace(self.staging / name, ready / name)
        if self.target.exists():
            old = self.staging.with_suffix(".old")
            shutil.rmtree(old, ignore_errors=True)
            os.replace(self.target, old)
            shutil.rmtree(old)
        os.replace(ready, self.target)
        shutil.rmtree(self.staging, ignore_errors=True)

    def _identity_there(self) -> str:
        try:
            return str(json.loads((self.target / self.record).read_text())["run_id"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def place_of(path: str) -> Path:
    """Return the folder that ``output.dir`` names: from the working directory, in a submitted job from the user's home.

    Such a job runs in a copy of the working directory, which Ray removes some time after it.
    """
    return (Path.home() if SUBMITTED in os.environ else Path.cwd()) / Path(path).expanduser()


def check_output(target: Path) -> None:
    """Make sure that results can be moved to ``target`` in the end.

    Raises:
        UserError: it is a file or a mount point, or nothing can be written beside it.
    """
    try:
        if target.exists() and not target.is_dir():
            raise UserError(f"output.dir {target}: it is a file, expected a folder")
        if os.path.ismount(target):
            raise UserError(f"output.dir {target}: it is a mount point, which cannot be moved; expected a folder below it")
        # What does not exist yet is not made here: a run that is refused after this leaves nothing behind.
        there = next(folder for folder in target.parents if folder.exists())
        # As long as the staging folder's name.
        probe = there / f".{target.name}.{os.getpid():012}.probing"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"output.dir {target}: cannot write there ({error.strerror}); expected a writable folder") from error


class Lock:
    """An advisory lock on the file ``path``, held until it is closed or the process ends."""

    def __init__(self, path: Path, target: Path) -> None:
        """Lock the output folder ``target``.

        Raises:
            UserError: another process holds the lock.
        """
        self.path = path
        self._lock = FileLock(path, timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise UserError(f"output.dir {target}: another run is working on it; wait for it, or give another folder") from error

    def close(self) -> None:
        """Remove the file and release the lock."""
        self.path.unlink(missing_ok=True)
        self._lock.release()
