"""What the tests of DeepSpeed's ZeRO share."""

import os
from typing import Any

import torch
from torch import Tensor, nn

from beear.config.schema import AdapterConfig
from beear.methods.losses import global_mean, text_loss
from beear.models.adapters import attach_lora
from beear.models.decoder import Decoder
from beear.parallel import zero_engine
from beear.parallel.choose import choose
from beear.parallel.spread import Spread
from beear.testing.tiny import defense_rows, text_batch, tiny_llama

ROWS = 7


def backend_of(name: str, world: int, stage: int, compute: torch.dtype = torch.float32, **settings: Any) -> Any:
    """Return a backend, on several workers one whose smallest weights are spread too, on machines without a compiler."""
    if world > 1:
        # In the pool's processes only: the tests' own goes on to run other things.
        zero_engine.PERSISTENT = 0
        os.environ["PATH"] = "/nowhere"
    return choose(Spread(name, world, zero_stage=stage, **settings), "cpu", compute)


def model_of(tied: bool = True, lora: bool = False) -> nn.Module:
    """Return a float32 model, with a LoRA where asked."""
    model = tiny_llama(tied=tied, dtype=torch.float32)
    torch.manual_seed(1)
    return attach_lora(model, AdapterConfig(kind="lora", rank=2, targets="q_proj,down_proj")) if lora else model


def descend(backend: Any, model: nn.Module, steps: range, workers: int | None = None, passes: int = 1) -> list[float]:
    """Train on conversations and return the gradient norms; the first ``workers`` workers hold the rows.

    Each step's loss comes in ``passes`` backward passes.
    """
    workers, norms = workers or backend.world, []
    for step in steps:
        mine = defense_rows(ROWS, seed=step)[backend.rank :: workers] if backend.rank < workers else []
        for number in range(passes):
            if rows := mine[number::passes]:
                backend.backward(global_mean(text_loss(Decoder(model, backend.compute), text_batch(rows, ROWS)), ROWS))
        norms.append(backend.step(1.0))
    return norms


def whole(backend: Any) -> dict[str, Tensor] | None:
    """Return the whole weights, on the first worker."""
    return backend.full_state(lambda _name, tensor: tensor.clone())


def difference(left: Tensor, right: Tensor) -> float:
    """Return the relative distance of two tensors."""
    return float((left - right).norm() / right.norm().clamp_min(1e-12))


def furthest(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """Return the largest relative distance of two sets of weights of the same names."""
    assert list(left) == list(right)
    return max(difference(left[name], right[name]) for name in right)
