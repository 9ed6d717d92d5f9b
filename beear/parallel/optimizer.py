"""AdamW with the settings of every backend."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import AdamW


def adamw(parameters: list[nn.Parameter], lr: float) -> AdamW:
    """Return AdamW without weight decay; fused on a GPU, since the default makes copies as large as the weights."""
    on_gpu = bool(parameters) and parameters[0].device.type == "cuda"
    return AdamW(parameters, lr=lr, weight_decay=0.0, fused=True if on_gpu else None)


def with_state(optimizer: AdamW, parameters: Iterable[nn.Parameter]) -> None:
    """Make zero moments where AdamW has none yet, so that there are tensors to save or to load into."""
    fused = bool(optimizer.defaults["fused"])
    for parameter in parameters:
        if not optimizer.state[parameter]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device if fused else "cpu"),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
