"""Filling a model that was sharded while it was empty: by reading rows, or by sending them from the first worker."""

import copy
from collections.abc import Mapping
from functools import partial
from itertools import chain

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from beear.parallel.base import Source
from beear.parallel.half_precision import HALF, Exact, loses, same


def skeleton(whole: nn.Module | None) -> nn.Module:
    """Return on every worker a copy of the first worker's model ``whole``, with its weights on the meta device."""
    box: list[nn.Module | None] = [None]
    if whole is not None:
        empty = {
            id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad) for p in whole.parameters()
        }
        box = [copy.deepcopy(whole, empty)]  # type: ignore[arg-type]  # The memo of copies made already, by id.
    dist.broadcast_object_list(box, src=0)
    assert box[0] is not None
    return box[0]


def materialise(model: nn.Module, device: torch.device) -> None:
    """Give every weight on the meta device uninitialised memory on ``device``; tied weights stay tied."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                if parameter not in made:
                    local = torch.empty_like(parameter, device=device)
                    made[parameter] = nn.Parameter(local, requires_grad=parameter.requires_grad)
                module._parameters[name] = made[parameter]


def lower_frozen(model: nn.Module, compute: torch.dtype) -> None:
    """Convert frozen weights on the meta device to ``compute`` where that is half precision.

    They are gathered in it anyway, and FSDP demands one dtype only of weights that are trained together.
    """
    if compute in HALF:
        for parameter in model.parameters():
            if parameter.is_meta and not parameter.requires_grad:
                parameter.data = parameter.data.to(compute)


@torch.no_grad()
def fill_from_rows(sharded: Mapping[str, Tensor], source: Source) -> Exact:
    """Read this worker's rows of each weight, and no others; return how to read the weights that rounding changed."""
    lost: list[str] = []
    for name, weight in sharded.items():
        local = local_of(weight)
        if len(local):
            start = first_row(weight)
            values = source.rows(name, start, start + len(local))
            if local.dtype in HALF and loses(values, local.dtype):
                lost.append(name)
            local.copy_(values)
    # The first worker exports them, and rounding may have changed another worker's rows alone.
    found: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(found, lost)
    return {name: partial(source.rows, name, 0, sharded[name].shape[0]) for name in chain(*found)}


@torch.no_grad()
def fill_from_first(sharded: Mapping[str, Tensor], whole: nn.Module | None, device: torch.device) -> Exact:
    """Send each worker its rows of each weight of ``whole``, which the first worker holds and frees on the way.

    The first worker returns the exact values of weights that rounding changed. One weight at a time is on ``device``.
    """
    given, exact = dict(whole.named_parameters()) if whole is not None else {}, Exact()
    for name, weight in sharded.items():
        rows = -(-weight.shape[0] // dist.get_world_size())
        received = torch.empty((rows, *weight.shape[1:]), dtype=weight.dtype, device=device)
        parts = None
        if whole is not None:
            values = given[name].detach()
            if weight.dtype in HALF and loses(values, weight.dtype):
                exact[name] = partial(same, values)
            parts = [_padded(part, rows) for part in values.to(device, weight.dtype).split(rows)]
            parts += [torch.zeros_like(received) for _ in range(dist.get_world_size() - len(parts))]
            given[name].data = torch.empty(0)
        dist.scatter(received, parts, src=0)
        local = local_of(weight)
        local.copy_(received[: len(local)])
    return exact


def local_of(weight: Tensor) -> Tensor:
    """Return this worker's rows of a sharded weight (a view)."""
    assert isinstance(weight, DTensor)
    return weight.to_local()


def whole_of(weight: Tensor, device: torch.device) -> Tensor:
    """Return a weight gathered on ``device`` from every worker, or as it is where it is not sharded."""
    if not isinstance(weight, DTensor):
        return weight
    moved = weight.to(device)
    assert isinstance(moved, DTensor)
    return moved.full_tensor()


def first_row(weight: Tensor) -> int:
    """Return the number of this worker's first row."""
    assert isinstance(weight, DTensor)
    return compute_local_shape_and_global_offset(weight.shape, weight.device_mesh, weight.placements)[1][0]


def _padded(part: Tensor, rows: int) -> Tensor:
    padding = part.new_zeros(rows - len(part), *part.shape[1:])
    return torch.cat([part, padding]).contiguous()
