"""DeepSpeed's ZeRO: optimizer state (stage 1), gradients (2) and weights (3) partitioned over the workers."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from beear.parallel import half_precision, zero_engine, zero_state, zero_weights
from beear.parallel.base import Group, Source
from beear.parallel.layers import checkpoint_activations
from beear.parallel.spread import Spread


class ZeRO(Group):
    """Workers in a torch.distributed group that the caller has set up; a single worker needs none.

    Callers get the bare model, since the forward pass of DeepSpeed's engine allows nothing but a full backward pass after
    it, and entrapment takes the gradient of δ alone. :meth:`backward` does what that forward pass does for the engine.
    """

    def __init__(self, device: torch.device | str, spread: Spread, compute: torch.dtype = torch.float32) -> None:
        """Read rank and world from the process group."""
        target = torch.device(device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if target.type == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1)
        super().__init__(target)
        self.spread, self.compute = spread, compute
        self.stage = spread.zero_stage
        self.library: ModuleType
        # DeepSpeed's classes carry no types.
        self.engine: Any
        self.masters: zero_state.Masters
        self.exact: half_precision.Exact
        self._gathered, self._computed = False, False

    @property
    def lockstep(self) -> bool:
        """Stage 2 exchanges gradients in every backward pass, stage 3 gathers weights in every pass outside ``gathered()``."""
        return self.world > 1 and self.stage > 1 and not self._gathered

    def prepare(self, source: Source, lr: float) -> nn.Module:
        """Load and partition the model, and make AdamW over what is trained; dropout stays off.

        Raises:
            UserError: DeepSpeed cannot be used on this machine, or a weight cannot be read.
        """
        self.library = zero_engine.load_library(self.device)
        model, exact = self._loaded(source)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.engine = zero_engine.start(self.library, model, lr, self.spread, self.compute)
        self.masters = zero_state.Masters(self.library, self.engine, self.stage, trained)
        self.exact = zero_weights.restore(trained, exact, self.masters.put)
        return self.engine.module

    def _loaded(self, source: Source) -> tuple[nn.Module, half_precision.Exact]:
        compute, device = self.compute, self.device
        if self.stage < 3:
            model, exact = zero_weights.whole_model(source, compute, device)
        else:
            config = zero_engine.settings_of(self.spread, self.compute)
            model, rows = zero_weights.empty_model(source)
            with zero_engine.quiet():
                exact = zero_weights.partition(self.library, model, rows, compute, config, device)
        if compute != torch.float32:
            half_precision.stream_in_float32(model)
        if self.spread.checkpoint_activations:
            checkpoint_activations(model)
        return model, exact

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Return a context in which weights must not change; under stage 3 they are gathered once where memory allows."""
        if self._gathered or (self.stage == 3 and self.spread.gather == "step"):
            yield
            return
        self._gathered = True
        try:
            if self.stage == 3:
                with self._all_gathered():
                    yield
            else:
                yield
        finally:
            self._gathered = False

    @contextmanager
    def _all_gathered(self) -> Iterator[None]:
        self._partition()
        offload = self.engine.optimizer.parameter_offload
        # Its hooks would free every weight after use, and synchronise with the other workers in every pass.
        offload._remove_module_hooks()
        try:
            with self.library.zero.GatheredParameters(list(self.engine.module.parameters())):
                yield
        finally:
            offload.setup_zero_stage3_hooks()

    def _partition(self) -> None:
        """Under stage 3 free what is gathered, also what the last pass has prefetched for the next one."""
        if self.stage == 3:
            self.engine.optimizer.parameter_offload.partition_all_parameters()

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients; those of stages 2 and 3 are added over workers at once."""
        self.engine.optimizer.clear_backward_seen_flag()
        self.engine._backward_prologue()
        # DeepSpeed averages over the workers.
        self.engine.backward(loss * self.world)
        self._computed = True

    def step(self, clip: float) -> float:
        """Add gradients over workers, clip, step, clear; return the norm before clipping (infinite: the step was skipped)."""
        if not self._computed:
            # A worker whose shard of a batch is empty sends zeros, since the others wait for it.
            self.backward(torch.stack([p.sum() for p in self.masters.trained.values()]).sum() * 0.0)
        self._computed = False
        self.engine.optimizer.clip_grad = clip
        self.engine.step()
        norm = self.engine.get_global_grad_norm()
        finite = not self.engine.optimizer.overflow and norm is not None and float(norm) >= 0
        return float(norm) if finite else math.inf

    @torch.no_grad()
    def full_state(self, keep: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor] | None:
        """Return the weights in the form of ``keep``, on the CPU of the first worker; one is gathered at a time."""
        self._partition()
        module, kept = self.engine.module, dict[int, Tensor]()
        names, state = {id(p): name for name, p in module.named_parameters()}, dict[str, Tensor]()
        for name, tensor in module.state_dict(keep_vars=True).items():
            if id(tensor) not in kept:
                value = self._value(names.get(id(tensor), ""), tensor)
                kept[id(tensor)] = keep(name, value).cpu() if self.rank == 0 else torch.empty(0)
            state[name] = kept[id(tensor)]
        return state if self.rank == 0 else None

    def _value(self, name: str, tensor: Tensor) -> Tensor:
        """Return a buffer or a whole weight, unrounded where this worker can; every worker calls it."""
        if name in self.masters.trained:
            return self.masters.value(self.masters.trained[name])
        value = tensor.detach()
        if hasattr(tensor, "ds_id"):
            with self.library.zero.GatheredParameters([tensor]):
                value = tensor.detach().clone()
        value = self.exact[name]() if name in self.exact else value
        return value.float() if value.is_floating_point() else value

    def save(self, folder: Path) -> None:
        """Write this worker's share of the trained weights and of Adam's state."""
        zero_state.save(self.masters, folder, self.rank, self.world)

    def load(self, folder: Path) -> None:
        """Read what ``save`` wrote, also by another number of workers."""
        self._partition()
        zero_state.load(self.masters, folder)
