"""Writing a file whole or not at all."""

import os
import tempfile
from pathlib import Path

from beear.errors import UserError


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace the file ``path`` by one that holds ``text`` (UTF-8, mode 0644); its folder is made where it is missing.

    A reader sees the old file or the whole new one, also after a crash or a power cut. Several processes may write the same
    file: the last one wins.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, 0o644)
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise UserError(
            f"{target}: cannot be written ({error.strerror or error}); expected a writable folder with free space"
        ) from None
