"""The one place where a backend is chosen."""

import torch

from beear.parallel.base import Backend
from beear.parallel.replicated import DataParallel, Single


def choose(name: str, workers: int, device: torch.device | str) -> Backend:
    """Return the backend ``name`` (``auto``: single for one worker, ddp for several)."""
    wanted = ("single" if workers == 1 else "ddp") if name == "auto" else name
    return Single(device) if wanted == "single" else DataParallel(device)
