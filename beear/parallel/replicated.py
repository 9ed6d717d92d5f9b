"""Every worker holds the whole model: one process, or several with their gradients added (data parallel)."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


class Single:
    """One worker, no communication."""

    rank, world = 0, 1

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """``device`` holds the model."""
        self.device = torch.device(device)
        self.model: nn.Module
        self.optimizer: torch.optim.Optimizer

    def prepare(self, model: nn.Module, lr: float) -> nn.Module:
        """Place the model and make AdamW over what is trained; dropout stays off, so runs do not depend on workers."""
        self.model = model.to(self.device).eval()
        self.optimizer = torch.optim.AdamW(self._trained(), lr=lr, weight_decay=0.0)
        return self.model

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients."""
        loss.backward()

    def step(self, clip: float) -> float:
        """Add gradients over workers, clip, step, clear; return the norm before clipping."""
        self._add_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self._trained(), clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def reduce(self, value: Tensor) -> Tensor:
        """Return ``value``."""
        return value

    def most(self, value: float) -> float:
        """Return ``value``."""
        return value

    def gather(self, value: T) -> list[T]:
        """Return ``[value]``."""
        return [value]

    def state_dict(self) -> dict[str, Any]:
        """Return trained weights (by name) and optimizer state."""
        weights = {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}
        return {"weights": weights, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back weights and optimizer state."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def _add_gradients(self) -> None:
        """One worker has nothing to add."""


class DataParallel(Single):
    """Several workers in a torch.distributed group that the caller has set up (gloo on CPU, nccl on GPU)."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Read rank and world from the process group."""
        super().__init__(device)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def reduce(self, value: Tensor) -> Tensor:
        """Return the sum over workers."""
        total = value.clone()
        dist.all_reduce(total)
        return total

    def most(self, value: float) -> float:
        """Return the maximum over workers."""
        top = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(top, op=dist.ReduceOp.MAX)
        return float(top)

    def gather(self, value: T) -> list[T]:
        """Return every worker's value, in rank order."""
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def _add_gradients(self) -> None:
        # A worker whose shard of a batch is empty has no gradients: it joins with zeros, or the others would wait.
        for parameter in self._trained():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in self._trained() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))
