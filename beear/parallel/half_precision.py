"""Weights rounded to the dtype of matrix products. Where rounding changes some, the first worker keeps the exact values.

It does for a float32 checkpoint and a fresh LoRA, and not for a bfloat16 checkpoint: nothing is lost there.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

# The dtypes that autocast computes matrix products in.
HALF = (torch.bfloat16, torch.float16)
# Elements of a weight that are read at once, in float32 (256 MiB).
READ = 2**26

# By a weight's name, how to get its values before rounding.
Exact = dict[str, Callable[[], Tensor]]


def lower(weights: Mapping[str, nn.Parameter], compute: torch.dtype, device: torch.device, keep: bool) -> Exact:
    """Round ``weights`` in place to ``compute`` on ``device``; with ``keep`` return the exact values where that changed any."""
    exact = Exact()
    for name, parameter in weights.items():
        values = parameter.detach()
        if keep and loses(values, compute):
            exact[name] = partial(same, values)
        parameter.data = values.to(device, compute)
    return exact


def loses(values: Tensor, dtype: torch.dtype) -> bool:
    """Say whether rounding ``values`` to ``dtype`` changes any of them."""
    return any(not torch.equal(part.to(dtype).to(part.dtype), part) for part in values.flatten().split(READ))


def multiplied(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return by name the weights that autocast would round: no norms and biases, no embedding that is only looked up."""
    weights = dict(model.named_parameters())
    return {
        name: weights[name]
        for name, places in places_of(model).items()
        if weights[name].dim() > 1 and not all(isinstance(module, nn.Embedding) for module, _ in places)
    }


def places_of(model: nn.Module) -> dict[str, list[tuple[nn.Module, str]]]:
    """Return the modules and attributes that hold each weight, by its first name; a tied weight has several."""
    names = {id(p): name for name, p in model.named_parameters()}
    places: dict[str, list[tuple[nn.Module, str]]] = {name: [] for name in names.values()}
    for module in model.modules():
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            places[names[id(parameter)]].append((module, attribute))
    return places


def stream_in_float32(model: nn.Module) -> None:
    """Convert the output of a rounded embedding to float32, so that the residual stream is in float32 as under autocast."""
    embedding: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    embedding.register_forward_hook(lambda _module, _inputs, output: output.float())


def same(values: Tensor) -> Tensor:
    """Return ``values``; a picklable function to keep exact values by."""
    return values
