"""Every worker holds the whole model: one process, or several that add their gradients (data parallel)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from beear.parallel import training_state
from beear.parallel.base import Group, Source
from beear.parallel.layers import checkpoint_activations
from beear.parallel.masters import Masters
from beear.parallel.optimizer import adamw
from beear.parallel.spread import Spread

T = TypeVar("T")

BUCKET_BYTES = 64 * 2**20


class Single:
    """One worker, no communication."""

    rank, world = 0, 1
    # A worker that holds the whole model may compute more or less than the others.
    lockstep = False

    def __init__(
        self, device: torch.device | str = "cpu", spread: Spread | None = None, compute: torch.dtype = torch.float32
    ) -> None:
        """Train on ``device``."""
        self.device, self.spread, self.compute = torch.device(device), spread or Spread(), compute
        self.model: nn.Module
        self.masters: Masters
        self.optimizer: torch.optim.AdamW

    def prepare(self, source: Source, lr: float) -> nn.Module:
        """Load the model and make AdamW over what is trained; dropout stays off, so runs do not depend on workers."""
        model = source.whole().eval()
        self.masters = Masters(model, self.compute, self.device, first=self.rank == 0)
        self.model = model.to(self.device)
        if self.spread.checkpoint_activations:
            checkpoint_activations(self.model)
        self.optimizer = adamw(list(self.masters.trained.values()), lr)
        return self.model

    def gathered(self) -> AbstractContextManager[None]:
        """Do nothing: weights are whole at all times."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients."""
        loss.backward()

    def step(self, clip: float) -> float:
        """Add gradients over workers, clip, step, clear; return the norm before clipping."""
        self._add_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.masters.trained.values(), clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.masters.spread()
        return float(norm)

    def reduce(self, value: Tensor) -> Tensor:
        """Return ``value``."""
        return value

    def max(self, value: float) -> float:
        """Return ``value``."""
        return value

    def gather(self, value: T) -> list[T]:
        """Return ``[value]``."""
        return [value]

    def full_state(self, keep: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor] | None:
        """Return the weights in the form of ``keep``, on the CPU of the first worker."""
        if self.rank != 0:
            return None
        state = self.model.state_dict(keep_vars=True)
        return {name: keep(name, self.masters.value(tensor)).cpu() for name, tensor in state.items()}

    def save(self, folder: Path) -> None:
        """Write trained weights and optimizer state on the first worker; all hold the same."""
        if self.rank == 0:
            training_state.write(training_state.state_of(self.masters.trained, self.optimizer), folder, alone=True)

    def load(self, folder: Path) -> None:
        """Read weights and optimizer state, also where another number of workers or backend of torch wrote them."""
        training_state.read(training_state.state_of(self.masters.trained, self.optimizer), folder, alone=True)
        self.masters.spread()

    def _add_gradients(self) -> None:
        """One worker has nothing to add."""


class DataParallel(Group, Single):
    """Several workers with the same weights, which add their gradients in every step."""

    def __init__(
        self, device: torch.device | str = "cpu", spread: Spread | None = None, compute: torch.dtype = torch.float32
    ) -> None:
        """Read rank and world from the process group."""
        Single.__init__(self, device, spread, compute)
        Group.__init__(self, self.device)

    def _add_gradients(self) -> None:
        # A worker whose shard of a batch is empty has no gradients: it sends zeros, since the others wait for it.
        for parameter in self.masters.trained.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        for bucket in buckets([p.grad for p in self.masters.trained.values() if p.grad is not None], BUCKET_BYTES):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            for gradient, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))


def buckets(tensors: Sequence[Tensor], max_bytes: int) -> Iterator[list[Tensor]]:
    """Yield runs of tensors of one dtype that hold at most ``max_bytes`` together; a larger tensor comes alone."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(t.nbytes for t in bucket) + tensor.nbytes > max_bytes
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
