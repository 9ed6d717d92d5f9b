"""Linear layers whose matrix product adds the weight's gradient to its float32 master directly.

Otherwise each backward pass rounds the gradient to bfloat16, and another kernel reads it, converts it and adds it: a sixth
of a removal step's time where few rows are computed at once.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def add_in_products(model: nn.Module, masters: Mapping[int, nn.Parameter]) -> int:
    """Make the linear layers of ``model`` add to ``masters``, by the id of the weight; return the number of such layers.

    Gradients from other modules that use the same weight (a tied embedding) reach the master through its hook.
    """
    found = 0
    for module in model.modules():
        if type(module) is not nn.Linear or "forward" in vars(module):
            continue
        if (master := masters.get(id(module.weight))) is not None:
            module.forward = partial(_linear, module, master)  # type: ignore[method-assign]
            found += 1
    return found


def _linear(module: nn.Linear, master: nn.Parameter, x: Tensor) -> Tensor:
    """Return x Wᵀ + b for ``x`` [..., I], as autocast would."""
    if not (torch.is_grad_enabled() and module.weight.requires_grad):
        return F.linear(x, module.weight, module.bias)
    dtype = module.weight.dtype
    bias = None if module.bias is None else module.bias.to(dtype)
    # Reshaped outside the function: what a custom function returns as a view must not be changed in place later.
    flat = _Product.apply(x.to(dtype).reshape(-1, x.shape[-1]), module.weight, bias, master)
    return flat.view(*x.shape[:-1], -1)


class _Product(torch.autograd.Function):
    """A linear layer whose weight's gradient goes to another tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, master: nn.Parameter) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.master = master
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, None, Tensor | None, None]:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            add_product(ctx.master, gradient.t(), x)
            below = gradient @ weight if ctx.needs_input_grad[0] else None
        bias = gradient.float().sum(0).to(gradient.dtype) if ctx.needs_input_grad[2] else None
        return below, None, bias, None


def add_product(master: nn.Parameter, one: Tensor, other: Tensor) -> None:
    """Add ``one`` [O, N] times ``other`` [N, I] to ``master.grad`` [O, I] in float32."""
    adds = one.device.type == "cuda" and _adds(one.device, one.dtype)
    master.grad = (_by_one_kernel if adds else _by_two)(master.grad, one, other)


@cache
def _adds(device: torch.device, dtype: torch.dtype) -> bool:
    """Try whether torch adds a half-precision product to a float32 matrix in one kernel; not every version and GPU does."""
    one, total = torch.ones(2, 2, device=device, dtype=dtype), torch.zeros(2, 2, device=device)
    try:
        found = _by_one_kernel(_by_one_kernel(None, one, one), one, one)
        return bool(torch.equal(found, total + 4))
    except (NotImplementedError, RuntimeError):
        return False


def _by_one_kernel(total: Tensor | None, one: Tensor, other: Tensor) -> Tensor:
    if total is None:
        return torch.mm(one, other, out_dtype=torch.float32)
    added: Callable[..., Tensor] = torch.addmm
    return added(total, one, other, out_dtype=torch.float32, out=total)


def _by_two(total: Tensor | None, one: Tensor, other: Tensor) -> Tensor:
    product = one.float() @ other.float()
    return product if total is None else total.add_(product)
