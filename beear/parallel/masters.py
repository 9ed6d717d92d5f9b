"""Float32 master weights beside a model that computes with a copy of them in the dtype of its matrix products.

Autocast would make that copy again in every forward pass, and convert every gradient before it is added up.
"""

from functools import partial

import torch
from torch import Tensor, nn

from beear.parallel.half_precision import HALF, Exact, lower, multiplied, stream_in_float32
from beear.parallel.products import add_in_products


class Masters:
    """What the optimizer steps on: ``trained`` holds, by name, the model's own weight or the master of a rounded one.

    Frozen weights have no master.
    """

    def __init__(self, model: nn.Module, compute: torch.dtype, device: torch.device, first: bool) -> None:
        """Round the weights of ``model`` in place to a half-precision ``compute``; the ``first`` worker keeps exact values."""
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._names = {id(p): name for name, p in model.named_parameters()}
        self._copies: dict[str, nn.Parameter] = {}
        self._exact = Exact()
        if compute in HALF:
            self._lower(model, compute, device, first)

    def _lower(self, model: nn.Module, compute: torch.dtype, device: torch.device, first: bool) -> None:
        weights = multiplied(model)
        self._exact = lower({name: p for name, p in weights.items() if not p.requires_grad}, compute, device, first)
        self._copies = {name: p for name, p in weights.items() if p.requires_grad}
        for name, copy in self._copies.items():
            self.trained[name] = master = nn.Parameter(copy.detach().to(device))
            copy.data = master.detach().to(compute)
            copy.register_post_accumulate_grad_hook(partial(_add_to_master, master))
        stream_in_float32(model)
        if device.type == "cuda":
            add_in_products(model, {id(copy): self.trained[name] for name, copy in self._copies.items()})

    @torch.no_grad()
    def spread(self) -> None:
        """Copy the masters to the weights that products are computed with."""
        if self._copies:
            torch._foreach_copy_(list(self._copies.values()), [self.trained[name] for name in self._copies])

    def value(self, tensor: Tensor) -> Tensor:
        """Return a weight or buffer of the model, unrounded where this worker can."""
        name = self._names.get(id(tensor), "")
        if name in self.trained:
            return self.trained[name].detach()
        if name in self._exact:
            return self._exact[name]()
        return tensor.detach().float() if tensor.dtype in HALF else tensor.detach()


def _add_to_master(master: nn.Parameter, copy: Tensor) -> None:
    """Add the gradient of one backward pass to the master's in float32, so that a sum of several passes is not rounded."""
    # None where the matrix product has added it already (beear/parallel/products.py).
    if copy.grad is None:
        return
    if master.grad is None:
        master.grad = copy.grad.float()
    else:
        master.grad += copy.grad
    copy.grad = None
