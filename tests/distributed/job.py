"""One short training that any backend can run, on workers or alone: what its result is, is told by a plain single run."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from beear.config.schema import AdapterConfig
from beear.data.batch import OuterBatch
from beear.methods.base import Defense
from beear.models.adapters import attach_lora
from beear.models.decoder import Decoder
from beear.parallel.base import Backend, Whole
from beear.parallel.choose import choose
from beear.parallel.spread import Spread
from beear.testing.tiny import defense_batch, defense_rows, text_batch, tiny_llama
from tests.configs import method_of

ROWS, STEPS = 7, 3


@dataclass(frozen=True)
class Job:
    """``epochs`` (first, last): the run goes through them; ``load`` and ``save`` name checkpoint folders.

    In float64: Adam divides by gradients that are all but nothing, and float32's rounding of those is what δ then differs by.
    """

    backend: str = "single"
    tied: bool = True
    lora: bool = False
    gather: Literal["once", "step"] = "once"
    checkpoint: bool = False
    micro_batch: int | None = None
    epochs: tuple[int, int] = (1, 2)
    load: Path | None = None
    save: Path | None = None
    clip: float = 1.0
    dtype: torch.dtype = torch.float64


def model_of(job: Job) -> nn.Module:
    """Return a random tiny Llama, with a LoRA whose second factor is not zero where the job asks for one."""
    model: nn.Module = tiny_llama(tied=job.tied, dtype=job.dtype)
    if not job.lora:
        return model
    torch.manual_seed(5)
    model = attach_lora(model, AdapterConfig(kind="lora", rank=2)).to(job.dtype)  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def run(rank: int, world: int, job: Job) -> dict[str, Tensor] | None:
    """Return the first worker's whole weights and each δ; a worker holds rows ``rank::world`` of every batch."""
    backend = choose(Spread(job.backend, world, gather=job.gather, checkpoint_activations=job.checkpoint), "cpu")
    model = backend.prepare(Whole(model_of(job)), lr=1e-3)
    given = {"layer": 2, "batch_size": ROWS, "placement": "suffix+everywhere", "inner_lr": 0.05, "max_inner_steps": 6}
    method = method_of(Decoder(model, torch.float32), backend, job.micro_batch, clip=job.clip, **given)
    if job.load:
        backend.load(job.load)
    for epoch in range(job.epochs[0], job.epochs[1] + 1):
        one_epoch(method, epoch, rank, world)
    if job.save:
        backend.save(job.save)
    return result_of(backend, method)


@cache
def alone(job: Job) -> dict[str, Tensor]:
    """Return what one worker gets, kept for the next test that asks."""
    found = run(0, 1, job)
    assert found is not None
    return found


def one_epoch(method: Defense, epoch: int, rank: int, world: int) -> None:
    """Entrap and remove on batches that follow from the epoch alone."""
    mine = slice(rank, None, world)
    method.begin_epoch([defense_batch(defense_rows(ROWS, seed=s)[mine], ROWS) for s in (1, 2)], cools=False)
    for step in range(STEPS):
        rows, others = defense_rows(ROWS, seed=10 * epoch + step)[mine], defense_rows(ROWS, seed=90 * epoch + step)[mine]
        method.step(OuterBatch(defense_batch(rows, ROWS), text_batch(others, ROWS)))


def result_of(backend: Backend, method: Defense) -> dict[str, Tensor] | None:
    """Return whole weights and each δ, on the first worker."""
    state = backend.full_state(lambda _name, tensor: tensor.clone())
    deltas = {f"delta/{i}": p.delta.detach().clone() for i, p in enumerate(getattr(method, "perturbations", []))}
    return None if state is None else state | deltas


def largest_gap(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest relative difference of a tensor; infinite where names differ."""
    if list(found) != list(expected):
        return float("inf")
    return max(float((found[n] - value).norm() / value.norm().clamp_min(1e-12)) for n, value in expected.items())
