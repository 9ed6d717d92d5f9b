"""The output folder: is this run there already, half there, or is something else? Nothing is half-written.

A run works in a hidden sibling, ``.NAME.IDENTITY.partial``, and moves it into place when it is whole.
"""

import fcntl
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from beear.errors import UserError

REPORT, TRAINING = "report.json", "train"
State = Literal["new", "resumable", "complete"]


@dataclass
class OutputFolder:
    """Where one run's results go."""

    target: Path
    identity: str

    @property
    def staging(self) -> Path:
        """The hidden sibling that the run works in."""
        return self.target.parent / f".{self.target.name}.{self.identity[:12]}.partial"

    def state(self, fresh: bool = False) -> State:
        """Say whether this run is complete (never with ``fresh``), half done or not begun.

        Raises:
            UserError: the folder holds another run or other files, or cannot be written.
        """
        self._check_writable()
        if self.target.exists() and any(self.target.iterdir()):
            found = self._identity_there()
            if found == self.identity:
                return "new" if fresh else "complete"
            what = f"run {found[:12]}" if found else "files that are no run's"
            raise UserError(
                f"output.dir {self.target}: it holds {what}, expected an empty folder or this run ({self.identity[:12]}); "
                "give another --output.dir, or remove the folder"
            )
        return "resumable" if (self.staging / "run.json").exists() else "new"

    def open(self, fresh: bool) -> "Lock":
        """Make (or with ``fresh`` empty) the staging folder and hold it against a second run.

        Raises:
            UserError: another process is working on the same run.
        """
        self.staging.mkdir(parents=True, exist_ok=True)
        lock = Lock(self.staging.with_suffix(".lock"))
        if fresh:
            shutil.rmtree(self.staging)
            self.staging.mkdir()
        (self.staging / "run.json").write_text(json.dumps({"identity": self.identity}) + "\n")
        return lock

    def drop_if_untrained(self) -> None:
        """Remove the staging folder of a run that failed before any training state was saved."""
        if not (self.staging / TRAINING).exists():
            shutil.rmtree(self.staging, ignore_errors=True)

    def finish(self, keep: tuple[str, ...]) -> None:
        """Move the staging folder's ``keep`` entries into place and drop the rest."""
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
            return str(json.loads((self.target / REPORT).read_text())["run_id"])
        except (OSError, ValueError, KeyError):
            return ""

    def _check_writable(self) -> None:
        if self.target.exists() and not self.target.is_dir():
            raise UserError(f"output.dir {self.target}: it is a file, expected a folder")
        parent = self.target.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            probe = parent / f".{self.target.name}.{os.getpid()}.probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"output.dir {self.target}: cannot write there ({error.strerror}); expected a writable folder"
            ) from error


class Lock:
    """An advisory lock on a file, held until closed or until the process ends."""

    def __init__(self, path: Path) -> None:
        """Take the lock or raise :class:`UserError`."""
        self.path = path
        self._file: IO[str] = path.open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise UserError(f"{path.parent}: the same run is under way in another process; wait for it or stop it") from error

    def close(self) -> None:
        """Let go and remove the file."""
        self.path.unlink(missing_ok=True)
        self._file.close()
