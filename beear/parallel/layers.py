"""A decoder's repeated layers: found without knowing its family, and made to compute their activations twice."""

from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

P = ParamSpec("P")
R = TypeVar("R")


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return the outermost list of modules that holds the most weights.

    Raises:
        ValueError: the model has no list of modules.
    """
    lists = _outermost_lists(model)
    if not lists:
        raise ValueError(f"{type(model).__name__} has no list of layers")
    return max(lists, key=lambda layers: sum(p.numel() for p in layers.parameters()))


def checkpoint_activations(model: nn.Module) -> None:
    """Let each decoder layer keep its input alone and compute the rest again in the backward pass; gradients stay the same.

    The library's own switch works in training mode only, and models stay in evaluation mode here, so that no dropout
    depends on workers. ``forward`` is wrapped, so names in the state dict and hooks on a layer's output stay as they are.
    """
    for layer in decoder_layers(model):
        layer.forward = partial(_checkpointed, layer.forward)  # type: ignore[method-assign]


def _outermost_lists(module: nn.Module) -> list[nn.ModuleList]:
    found: list[nn.ModuleList] = []
    for child in module.children():
        found.extend([child] if isinstance(child, nn.ModuleList) else _outermost_lists(child))
    return found


def _checkpointed(forward: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    if not torch.is_grad_enabled():
        return forward(*arguments, **named)
    # Layers draw no random numbers, so there is no generator state to keep.
    return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **named)  # type: ignore[arg-type]
