"""The temporary folders in which workers assemble a checkpoint: at most one each, and none outlives its run."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def scratch_name(identity: str, storage: Path) -> str:
    """Return the prefix of a run's folders. The same run with another output folder has another prefix."""
    return f"beear-{identity[:16]}-{hashlib.sha256(str(storage).encode()).hexdigest()[:8]}"


@contextmanager
def scratch(name: str, rank: int) -> Iterator[Path]:
    """Yield a new folder to fill and hand to Ray Train, which deletes it once it is stored. An exception deletes it at once."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-{rank}-"))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def clear_scratch(name: str) -> None:
    """Remove the folders that killed processes and failed uploads of the run ``name`` have left on this machine."""
    for folder in Path(tempfile.gettempdir()).glob(f"{name}-*"):
        shutil.rmtree(folder, ignore_errors=True)
