"""Loading weights into ZeRO. Under stage 3 no worker ever holds the whole model.

DeepSpeed makes its float32 master weights from the rounded ones that it computes with. Where rounding changes some (a
float32 checkpoint, a fresh LoRA), the first worker keeps the exact values: trained ones until they are in the masters,
frozen ones for the export.
"""

from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from beear.errors import UserError
from beear.parallel.base import Source
from beear.parallel.half_precision import READ, Exact, loses, lower, places_of
from beear.parallel.shards import skeleton

Rows = Callable[[str, int, int], Tensor]


def whole_model(source: Source, compute: torch.dtype, device: torch.device) -> tuple[nn.Module, Exact]:
    """Return the model on ``device`` with its weights rounded to ``compute``, and the exact values of those that changed."""
    model = source.whole().eval()
    exact = lower(dict(model.named_parameters()), compute, device, keep=dist.get_rank() == 0)
    return model.to(device), exact


def empty_model(source: Source) -> tuple[nn.Module, Rows]:
    """Return the model without weights on every worker, and how the first worker reads their rows."""
    model = source.empty()
    if model is not None:
        return model.eval(), source.rows
    whole = source.whole() if dist.get_rank() == 0 else None
    given = dict(whole.named_parameters()) if whole is not None else {}
    return skeleton(whole).eval(), lambda name, start, stop: given[name].detach()[start:stop]


def partition(
    deepspeed: ModuleType, model: nn.Module, rows: Rows, compute: torch.dtype, config: dict[str, Any], device: torch.device
) -> Exact:
    """Load the weights of ``model`` into stage 3's partitions, in ``compute``; return the exact values of rounded ones.

    One weight after the other, the first worker reads it and every worker keeps its part.

    Raises:
        UserError: on every worker, when the first one could not read a weight.
    """
    exact, problem, first = Exact(), "", None
    for name, places in places_of(model).items():
        old: Tensor = getattr(*places[0])
        read: Rows = rows if old.is_meta else partial(_own_rows, old.detach())
        values, lost = torch.empty(old.shape, dtype=compute, device=device), False
        if dist.get_rank() == 0 and not problem:
            try:
                lost = _fill(values, partial(read, name))
            except UserError as error:
                # The other workers wait for this weight and the next ones, so the error is raised after the last.
                problem = str(error)
        if lost:
            exact[name] = partial(read, name, 0, old.shape[0])
        new: Any = nn.Parameter(values, requires_grad=old.requires_grad)
        for module, attribute in places:
            setattr(module, attribute, new)
        if first is None:
            first = new
            deepspeed.zero.Init(module=nn.ParameterList([new]), config_dict_or_path=config, dtype=compute)
        else:
            first.convert_to_zero_parameters(param_list=[new])
    _agree(problem)
    for module in model.modules():
        for attribute, buffer in module.named_buffers(recurse=False):
            module._buffers[attribute] = buffer.to(device)
    return exact


def restore(trained: dict[str, nn.Parameter], exact: Exact, put: Callable[[nn.Parameter, Tensor], None]) -> Exact:
    """``put`` the exact values of ``trained`` weights on every worker; return those of frozen ones, which stay in ``exact``."""
    names = [list(exact)]
    dist.broadcast_object_list(names)
    for name in names[0]:
        if name in trained:
            parameter: Any = trained[name]
            shape = getattr(parameter, "ds_shape", parameter.shape)
            known = exact[name]() if name in exact else torch.empty(shape)
            value = known.to(parameter.device)
            dist.broadcast(value, 0)
            put(parameter, value)
    return {name: value for name, value in exact.items() if name not in trained}


def _own_rows(values: Tensor, _name: str, start: int, stop: int) -> Tensor:
    return values[start:stop]


def _fill(values: Tensor, rows: Callable[[int, int], Tensor]) -> bool:
    """Read ``values`` a span of rows at a time; say whether rounding changed any."""
    lost = False
    for start, stop in _spans(values.shape):
        part = rows(start, stop)
        lost = lost or loses(part, values.dtype)
        values[start:stop] = part.to(values.dtype)
    return lost


def _spans(shape: torch.Size) -> Iterator[tuple[int, int]]:
    step = max(1, READ // max(1, shape[1:].numel()))
    return ((start, min(start + step, shape[0])) for start in range(0, shape[0], step))


def _agree(problem: str) -> None:
    """Raise the first worker's problem, if there is one, on every worker."""
    found = [problem]
    dist.broadcast_object_list(found)
    if found[0]:
        raise UserError(found[0])
