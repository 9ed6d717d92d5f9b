"""Weights, gradients and the optimizer's state sharded by torch's FSDP2 (``fully_shard``)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_common import TrainingState

from beear.errors import UserError
from beear.parallel import training_state
from beear.parallel.base import Group, Source
from beear.parallel.half_precision import HALF, Exact
from beear.parallel.layers import checkpoint_activations, decoder_layers
from beear.parallel.optimizer import adamw
from beear.parallel.shards import fill_from_first, fill_from_rows, local_of, lower_frozen, materialise, skeleton, whole_of
from beear.parallel.spread import Spread


class FullySharded(Group):
    """Every worker holds its rows of each weight; a layer is gathered only while it computes. Frozen rows are in ``compute``.

    Within ``gathered()`` all layers stay gathered, in ``compute``, where the settings say that memory allows it.
    """

    def __init__(self, device: torch.device | str, spread: Spread, compute: torch.dtype = torch.float32) -> None:
        """Read rank and world from the process group.

        Raises:
            UserError: weights are to be offloaded to the CPU that they are trained on.
        """
        super().__init__(torch.device(device))
        if spread.offload and self.device.type == "cpu":
            raise UserError("parallel.offload is true but workers train on the CPU, expected false or workers with a GPU")
        self.spread, self.compute, self._whole = spread, compute, False
        self.model: nn.Module
        self.optimizer: torch.optim.AdamW
        self.exact: Exact

    @property
    def lockstep(self) -> bool:
        """Whether a forward pass gathers weights from the other workers."""
        return self.world > 1 and not self._whole

    def prepare(self, source: Source, lr: float) -> nn.Module:
        """Shard the model while it is empty, then let each worker load its own rows.

        No worker ever holds the whole model, but for the first one where the source cannot read rows: in CPU memory.
        """
        model, whole = source.empty(), None
        if reads := model is not None:
            self.model = model.eval()
        else:
            whole = source.whole() if self.rank == 0 else None
            self.model = skeleton(whole).eval()
        if self.spread.checkpoint_activations:
            checkpoint_activations(self.model)
        lower_frozen(self.model, self.compute)
        unread = [name for name, parameter in self.model.named_parameters() if parameter.is_meta]
        shard(self.model, init_device_mesh(self.device.type, (self.world,)), self.compute, self.spread.offload)
        materialise(self.model, torch.device("cpu") if self.spread.offload else self.device)
        # Otherwise the first part that is called would make itself the root.
        fully_shard.state(self.model)._lazy_init()  # type: ignore[attr-defined]
        self.model.register_forward_pre_hook(self._forget_interrupted, prepend=True)
        weights = dict(self.model.named_parameters())
        sharded = {name: weights[name] for name in unread}
        self.exact = fill_from_rows(sharded, source) if reads else fill_from_first(sharded, whole, self.device)
        self.optimizer = adamw(list(self._trained().values()), lr)
        return self.model

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Gather all layers once; where the settings say that they do not fit, each is gathered as it computes."""
        if self._whole or self.spread.gather == "step":
            yield
            return
        self._keep_whole(True)
        for part in self._parts():
            part.unshard()
        try:
            yield
        finally:
            self._keep_whole(False)
            self._reshard()

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of this worker's rows, added over the workers."""
        loss.backward()

    @torch.no_grad()
    def step(self, clip: float) -> float:
        """Clip, step, clear; return the norm before clipping."""
        gradients = [local_of(p.grad) for p in self._trained().values() if p.grad is not None]
        squares = [torch.linalg.vector_norm(g, dtype=torch.float64).square() for g in gradients]
        norm = float(self.reduce(torch.stack(squares).sum().to(self.device)).sqrt())
        # The same as torch.nn.utils.clip_grad_norm_, also where the norm is not finite: then the weights become NaN.
        torch._foreach_mul_(gradients, min(1.0, clip / (norm + 1e-6)))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    @torch.no_grad()
    def full_state(self, keep: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor] | None:
        """Gather one weight at a time; the first worker keeps it, unrounded where it can."""
        state: dict[str, Tensor] = {}
        self._reshard()
        names = {id(p): name for name, p in self.model.named_parameters()}
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            full, first = whole_of(tensor.detach(), self.device), names.get(id(tensor), "")
            if self.rank == 0:
                value = self.exact[first]() if first in self.exact else full
                state[name] = keep(name, value.float() if value.dtype in HALF else value).cpu()
        return state if self.rank == 0 else None

    def save(self, folder: Path) -> None:
        """Write this worker's rows of trained weights and optimizer state."""
        training_state.write(self._state(), folder, alone=False)

    def load(self, folder: Path) -> None:
        """Read this worker's rows, also where another number of workers or backend of torch wrote them."""
        training_state.read(self._state(), folder, alone=False)

    def _state(self) -> training_state.State:
        self._reshard()
        return training_state.state_of(self._trained(), self.optimizer)

    def _reshard(self) -> None:
        """Free what was gathered, so that parameters are this worker's rows."""
        for part in self._parts():
            part.reshard()

    def _forget_interrupted(self, *_: object) -> None:
        """Reset FSDP's state before a forward pass if an exception interrupted the pass before.

        The fast inner loop is tried first, and raises where a family does not allow it.
        """
        root: Any = fully_shard.state(self.model)  # type: ignore[attr-defined]
        shared = root._state_ctx
        if shared.iter_forward_root is None and not shared.post_backward_final_callback_queued:
            return
        if not self._whole:
            self.model.reset_iter_state()  # type: ignore[operator]
            return
        # reset_iter_state() would free the gathered weights.
        for state in shared.all_states:
            state._training_state = TrainingState.IDLE
            state._modules_to_run_forward.clear()
            for group in state._fsdp_param_groups:
                group._training_state = TrainingState.IDLE
                group._post_forward_indices.clear()
        root._comm_ctx.post_forward_order.clear()
        shared.iter_forward_root, shared.post_backward_final_callback_queued = None, False

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def _parts(self) -> list[FSDPModule]:
        return [module for module in self.model.modules() if isinstance(module, FSDPModule)]

    def _keep_whole(self, whole: bool) -> None:
        self._whole = whole
        root: Any = self.model
        # Both are needed: with the first alone, weights are gathered again in every step.
        root.set_reshard_after_forward(not whole)
        root.set_reshard_after_backward(not whole)


def shard(model: nn.Module, mesh: DeviceMesh, compute: torch.dtype, offload: bool) -> None:
    """Shard in this order: each decoder layer, the embedding and the head, then all that is left with the root.

    Embedding and head are one group where they are one weight. Matrix products are in the compute dtype; trained weights,
    sums of gradients and the residual stream are in float32, as they are under autocast.
    """
    lower = compute if compute in HALF else None
    policy = MixedPrecisionPolicy(param_dtype=lower, reduce_dtype=torch.float32 if lower else None, cast_forward_inputs=False)
    embeds = MixedPrecisionPolicy(lower, policy.reduce_dtype, torch.float32 if lower else None, cast_forward_inputs=False)
    host = CPUOffloadPolicy() if offload else OffloadPolicy()

    def group(modules: Any, policy: MixedPrecisionPolicy) -> None:
        fully_shard(modules, mesh=mesh, mp_policy=policy, offload_policy=host, reshard_after_forward=True)

    for layer in decoder_layers(model):
        group(layer, policy)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[operator]
    if embedding.weight is head.weight:
        group([embedding, head], embeds)
    else:
        group(embedding, embeds)
        group(head, policy)
    group(model, policy)
    for part in model.modules():
        if isinstance(part, FSDPModule):
            # Losses are local sums over global counts: gradients are added, not averaged.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
