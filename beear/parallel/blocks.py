"""A decoder's repeated layers, found without knowing its family."""

from torch import nn


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return the outermost list of modules that holds the most weights.

    Raises:
        ValueError: the model has no list of modules.
    """
    lists = _outermost_lists(model)
    if not lists:
        raise ValueError(f"{type(model).__name__} has no list of layers")
    return max(lists, key=lambda layers: sum(p.numel() for p in layers.parameters()))


def _outermost_lists(module: nn.Module) -> list[nn.ModuleList]:
    found: list[nn.ModuleList] = []
    for child in module.children():
        found.extend([child] if isinstance(child, nn.ModuleList) else _outermost_lists(child))
    return found
