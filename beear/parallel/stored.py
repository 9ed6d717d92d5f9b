"""Whether a checkpoint's folder of weights is whole, whichever backend wrote it."""

import json
import pickle
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch.distributed.checkpoint import FileSystemReader

from beear.parallel import training_state, zero_state


def complete(folder: Path) -> bool:
    """Say whether everything that the index names is there, in its full length."""
    try:
        if (folder / training_state.INDEX).exists():
            metadata = FileSystemReader(folder).read_metadata()
            ends = [(place.relative_path, place.offset + place.length) for place in metadata.storage_data.values()]
            return all((folder / name).stat().st_size >= end for name, end in ends)
        weights = json.loads((folder / zero_state.INDEX).read_text(encoding="utf-8"))["weights"]
        for number in range(len(weights)):
            with safe_open(folder / zero_state.file_of(number), framework="pt"):
                # A file that was cut off is refused when it is opened.
                pass
    except (OSError, ValueError, KeyError, EOFError, pickle.UnpicklingError, SafetensorError):
        return False
    return True
