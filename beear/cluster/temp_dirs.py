"""The temporary folders in which workers put a checkpoint together: at most one each, and none outlives its run."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def scratch_name(identity: str, storage: Path) -> str:
    """Return what the names of a run's folders begin with; the same run into another output folder has its own."""
    return f"beear-{identity[:16]}-{hashlib.sha256(str(storage).encode()).hexdigest()[:8]}"


@contextmanager
def scratch(name: str, rank: int) -> Iterator[Path]:
    """Within the context a new folder is filled and handed to Ray Train, which deletes it once it is in storage.

    An exception deletes it at once.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-{rank}-"))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def clear_scratch(name: str) -> None:
    """Remove what killed processes and failed uploads of the run ``name`` have left on this machine."""
    for folder in Path(tempfile.gettempdir()).glob(f"{name}-*"):
        shutil.rmtree(folder, ignore_errors=True)
