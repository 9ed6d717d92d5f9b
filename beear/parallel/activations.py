"""Activation checkpointing: a decoder layer keeps its input alone and computes the rest again in the backward pass.

The library's own switch works in training mode only, and models stay in evaluation mode here, so that no dropout
depends on workers. What is wrapped is ``forward``: names in the state dict stay, and so do hooks on a layer's output.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute(layers: nn.ModuleList) -> None:
    """Let each of ``layers`` compute its activations again in the backward pass; gradients are exactly the same."""
    for layer in layers:
        layer.forward = partial(_again, layer.forward)  # type: ignore[method-assign]


def _again(forward: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **named)
    # Nothing random happens in a layer, so there is no generator state to keep.
    return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **named)
