"""The one place where a backend is chosen. Sharded ones are imported only where they are chosen."""

import torch

from beear.parallel.base import Backend, Settings
from beear.parallel.replicated import DataParallel, Single


def choose(name: str, workers: int, device: torch.device | str, settings: Settings | None = None) -> Backend:
    """Return the backend ``name`` with ``settings``; ``auto`` is single for one worker and ddp for several."""
    settings = settings or Settings()
    wanted = ("single" if workers == 1 else "ddp") if name == "auto" else name
    if wanted == "fsdp":
        from beear.parallel.fsdp import FullySharded

        return FullySharded(device, settings)
    if wanted == "deepspeed":
        from beear.parallel.zero import ZeRO

        return ZeRO(device, settings)
    return Single(device, settings) if wanted == "single" else DataParallel(device, settings)
