"""Where a model computes and in what dtype its matrix products are made."""

from itertools import chain

import torch
from torch import nn

# The dtypes that autocast lowers matrix products to.
HALF = (torch.bfloat16, torch.float16)


def device_of(model: nn.Module) -> torch.device:
    """Return the device that ``model`` computes on. Buffers come first: offloaded weights lie elsewhere, buffers do not."""
    return next(chain(model.buffers(), model.parameters())).device


def device_here() -> torch.device:
    """Return what this process computes on: the GPU that it was given, if any."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def lowered(compute: torch.dtype | None) -> torch.dtype | None:
    """Return ``compute`` where it is a 16-bit dtype, else None."""
    return compute if compute in HALF else None


def products_in(compute: torch.dtype | None, device: torch.device) -> torch.autocast:
    """Return a context in which matrix products on ``device`` are made in ``compute`` where that is a 16-bit dtype."""
    return torch.autocast(device.type, dtype=compute, enabled=lowered(compute) is not None)
