"""Speeds up training on a GPU: root-mean-square norms run in torch's one kernel, rotations in the dtype of the products.

A norm written as single tensor operations reads and writes the residual stream a dozen times, forward and backward. With
bfloat16 products it also returns float32, which each product that follows converts and keeps. What is computed stays the same: a
norm is replaced only where the kernel returns the same values in a trial. So any family's norm can be replaced that is x · w or
x · (1 + w) over the root mean square; others stay as they are.
"""

import inspect
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# The names under which transformers' norms keep their epsilon.
EPSILONS = ("variance_epsilon", "eps")
# Width of the trial's vectors, and how far the two results may differ.
WIDTH, CLOSE = 64, 1e-5
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def fuse(model: nn.Module) -> int:
    """Replace the forward of ``model``'s norms and rotations; return how many norms were replaced. A second call changes none."""
    known: dict[tuple[type, float], float | None] = {}
    found = 0
    for module in model.modules():
        if "forward" in vars(module):
            continue
        if type(module).__name__.endswith("RotaryEmbedding"):
            module.forward = partial(_rotation, module.forward)  # type: ignore[method-assign]
        elif _is_norm(module):
            kind = type(module), epsilon_of(module)
            if kind not in known:
                known[kind] = added_to_weight(module)
            added = known[kind]
            if added is not None:
                module.forward = partial(_norm, module, module.forward, kind[1], added)  # type: ignore[method-assign]
                found += 1
    return found


def epsilon_of(norm: nn.Module) -> float:
    """Return what ``norm`` adds to the mean square."""
    return next(float(getattr(norm, name)) for name in EPSILONS if hasattr(norm, name))


def added_to_weight(norm: nn.Module) -> float | None:
    """Return 0 or 1 where ``norm`` is x · w or x · (1 + w) over the root mean square of x, None where it is neither."""
    draw = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=draw) for shape in ((4, WIDTH), (WIDTH,)))
    # Small values make epsilon show.
    x = x * torch.tensor([1.0, 10.0, 0.1, 1e-3])[:, None]
    with torch.no_grad():
        expected = type(norm).forward(_twin(norm, weight), x)
        for added in (0.0, 1.0):
            result = functional.rms_norm(x, (WIDTH,), weight + added, epsilon_of(norm))
            if isinstance(expected, Tensor) and torch.allclose(result, expected, rtol=CLOSE, atol=CLOSE):
                return added
    return None


def _twin(norm: nn.Module, weight: Tensor) -> nn.Module:
    """Return a copy of ``norm`` with this ``weight`` and no hooks; the norm's own weight may be sharded or not loaded yet."""
    twin = type(norm).__new__(type(norm))
    nn.Module.__init__(twin)
    kept = vars(twin)
    twin.__dict__ = {**vars(norm), **kept, "_parameters": {"weight": nn.Parameter(weight)}}
    return twin


def _is_norm(module: nn.Module) -> bool:
    weights = dict(module.named_parameters())
    return (
        type(module).__name__.endswith("RMSNorm")
        and list(weights) == ["weight"]
        and weights["weight"].dim() == 1
        and any(hasattr(module, name) for name in EPSILONS)
        and not isinstance(module, nn.RMSNorm)
        and len(inspect.signature(module.forward).parameters) == 1
    )


def _norm(norm: Any, plain: Any, epsilon: float, added: float, x: Tensor) -> Tensor:
    """Return the norm of ``x`` [..., D], under autocast in the dtype of the products that read it."""
    weight = norm.weight
    if not {x.dtype, weight.dtype} <= set(FLOATS):
        return plain(x)
    # In bfloat16 the sum would lose most of a small weight.
    weight = weight.float() + added if added else weight
    if not torch.is_autocast_enabled(x.device.type):
        return functional.rms_norm(x, x.shape[-1:], weight, epsilon) if x.dtype == weight.dtype else plain(x)
    normed = functional.rms_norm(x.float(), x.shape[-1:], weight.float(), epsilon)
    return normed.to(torch.get_autocast_dtype(x.device.type))


def _rotation(plain: Any, *args: Any, **words: Any) -> Any:
    """Return cosines and sines, under autocast in the dtype of the queries and keys that they turn."""
    found = plain(*args, **words)
    kind = next((value.device.type for value in args if isinstance(value, Tensor)), "")
    # Some families give one complex tensor for both.
    if not isinstance(found, tuple) or not kind or not torch.is_autocast_enabled(kind):
        return found
    half = torch.get_autocast_dtype(kind)
    return tuple(value.to(half) if isinstance(value, Tensor) and value.dtype == torch.float32 else value for value in found)
