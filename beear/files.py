"""Writing a file whole or not at all, for whom the umask allows to read it."""

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from beear.errors import UserError


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace the file ``path`` by one that holds ``text`` (UTF-8); its folder is made where it is missing.

    A reader sees the old file or the whole new one, also after a crash or a power cut. Several processes may write the same
    file: the last one wins.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _new_file(target) as (handle, name):
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(name, target)
    except OSError as error:
        raise UserError(
            f"{target}: cannot be written ({error.strerror or error}); expected a writable folder with free space"
        ) from None


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Give an empty hidden folder beside ``target`` to be filled and moved there; what is not moved is removed at the end.

    Raises:
        UserError: the folder of ``target`` cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror}), expected a writable folder") from error
    try:
        # The temporary folder is for its owner alone; a new one in it is as the umask says.
        folder = place / "new"
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(place, ignore_errors=True)


def share(path: str | os.PathLike[str]) -> None:
    """Give a file the mode of any new file in its folder.

    A library that writes a temporary file and renames it, as safetensors does, leaves one that its owner alone can read.
    """
    with _new_file(Path(path)) as (handle, _):
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        os.close(handle)
    os.chmod(path, mode)


@contextmanager
def _new_file(beside: Path) -> Iterator[tuple[int, str]]:
    """Make an empty hidden file in the folder of ``beside``, and remove it where the caller has not moved it."""
    name = str(beside.parent / f".{beside.name}.{secrets.token_hex(8)}")
    # Unlike tempfile's, it has the mode that the umask and the folder give to new files.
    handle = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        yield handle, name
    finally:
        Path(name).unlink(missing_ok=True)
