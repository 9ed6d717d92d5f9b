"""Data files on local disk, ``s3://`` and ``gs://`` (through pyarrow): find, open, measure and digest them."""

import fnmatch
import glob
import hashlib
import io
import os
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

from beear.data.suffixes import is_data, stem
from beear.errors import UserError

REMOTE = ("s3://", "gs://", "gcs://")
CHUNK = 1 << 20
# So many files below a folder are looked at for a glob that finds them.
LISTED = 10_000
# Larger files are digested by their size and 64 samples of 64 KB: reading them whole would take minutes.
DIGESTED_WHOLE_BYTES = 64 << 20
SAMPLES, SAMPLE_BYTES = 64, 64 << 10


def is_remote(path: str) -> bool:
    """Say whether ``path`` names an object store."""
    return path.startswith(REMOTE)


def has_pattern(path: str) -> bool:
    """Say whether ``path`` is a glob."""
    return any(character in path for character in "*?[")


def find(path: str) -> list[str]:
    """Return the files that ``path`` names: itself, or what a glob matches, sorted.

    Raises:
        UserError: nothing is there, it is a directory, or the store cannot be reached.
    """
    if is_remote(path):
        return _find_remote(path)
    path = os.path.expanduser(path)
    if has_pattern(path) and not os.path.exists(path):
        found = sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))
        if not found:
            raise UserError(f"{path} matches no file; expected at least one.")
        return found
    if os.path.isdir(path):
        pattern = _glob_in(path)
        such = f', or a glob such as "{pattern}"' if pattern else ", and there is no data file in it"
        raise UserError(f"{path} is a directory; expected a file{such}.")
    if not os.path.exists(path):
        raise UserError(f"{path} does not exist; expected a data file.")
    return [path]


def _glob_in(folder: str) -> str | None:
    """Return a glob of the data files in a folder, else below it, of the kind that most of them have; None: there are none."""
    for depth in ("", "**"):
        found = islice(_below(folder), LISTED) if depth else (entry.path for entry in os.scandir(folder) if entry.is_file())
        names = [name for name in map(os.path.basename, found) if is_data(name) and not name.startswith(".")]
        if names:
            kinds = [name.removeprefix(stem(name)) for name in names]
            return os.path.join(glob.escape(folder), depth, "*" + max(kinds, key=kinds.count))
    return None


def _below(folder: str) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        # A glob finds nothing in hidden folders.
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(place, name) for name in names)


def size(path: str) -> int:
    """Return the file's size in bytes."""
    if not is_remote(path):
        return os.path.getsize(path)
    system, inner = _remote(path)
    return int(system.get_file_info(inner).size)


def open_binary(path: str) -> BinaryIO:
    """Open a file for reading and seeking; a remote file is read by byte range, not downloaded whole.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        if not is_remote(path):
            return open(path, "rb")
        system, inner = _remote(path)
        # pyarrow's file object has no readline().
        return io.BufferedReader(system.open_input_file(inner), CHUNK)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({_first_line(error)}); expected a readable file.") from error


def file_digest(path: str) -> str:
    """Return ``sha256:HEX`` of the file, or ``sampled-sha256:HEX`` (size, start, end and samples between) of a large one.

    Raises:
        UserError: the file cannot be read.
    """
    total = size(path)
    seen = hashlib.sha256(str(total).encode()) if total > DIGESTED_WHOLE_BYTES else hashlib.sha256()
    with open_binary(path) as file:
        if total <= DIGESTED_WHOLE_BYTES:
            while chunk := file.read(CHUNK):
                seen.update(chunk)
            return f"sha256:{seen.hexdigest()}"
        for index in range(SAMPLES):
            file.seek((total - SAMPLE_BYTES) * index // (SAMPLES - 1))
            seen.update(file.read(SAMPLE_BYTES))
    return f"sampled-sha256:{seen.hexdigest()}"


def _remote(path: str):  # type: ignore[no-untyped-def]  # pyarrow ships no types
    from pyarrow import fs

    try:
        return fs.FileSystem.from_uri(path.replace("gcs://", "gs://", 1))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be reached ({_first_line(error)}); expected a readable object.") from error


def _find_remote(path: str) -> list[str]:
    from pyarrow import fs

    scheme, key = path.split("://", 1)
    folder = key.split("*", 1)[0].split("?", 1)[0].split("[", 1)[0].rsplit("/", 1)[0] if has_pattern(key) else key
    try:
        system, inner = _remote(f"{scheme}://{folder}")
        if not has_pattern(key):
            info = system.get_file_info(inner)
            if info.type == fs.FileType.File:
                return [path]
            raise UserError(f"{path} does not exist or is a folder; expected a data file or a glob.")
        listed = system.get_file_info(fs.FileSelector(inner, recursive=True))
    except OSError as error:
        raise UserError(f"{path} cannot be reached ({_first_line(error)}); expected a readable object.") from error
    found = sorted(i.path for i in listed if i.type == fs.FileType.File and fnmatch.fnmatchcase(i.path, key))
    if not found:
        raise UserError(f"{path} matches no file; expected at least one.")
    return [f"{scheme}://{name}" for name in found]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
