"""Sharded over two gloo workers, training gives what one worker alone gets; weights are gathered when it is said."""

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from beear.config.schema import LossWeights
from beear.data.batch import OuterBatch
from beear.errors import UserError
from beear.methods.entrapment import InnerRule, PlainObjective, entrap, frozen
from beear.methods.perturbation import Perturbation
from beear.methods.removal import removal_step
from beear.models.decoder import Decoder
from beear.parallel.base import Whole
from beear.parallel.choose import choose
from beear.parallel.fsdp import FullySharded
from beear.parallel.spread import Spread
from beear.testing.tiny import defense_batch, defense_rows, text_batch, tiny_llama
from benchmarks.pool import Pool
from tests.distributed.job import ROWS, Job, alone, largest_gap, run

LOW = torch.bfloat16
JOBS = {
    "full, tied": Job(tied=True),
    "full, untied": Job(tied=False),
    "lora, tied": Job(tied=True, lora=True),
    "lora, untied": Job(tied=False, lora=True),
    "gathered per step": Job(gather="step"),
    "checkpointed": Job(tied=False, checkpoint=True, gather="step"),
    "micro-batches": Job(tied=False, micro_batch=2),
    "clipped hard": Job(clip=1e-3),
}


def run_all(rank: int, world: int, jobs: list[Job]) -> list[dict[str, Tensor] | None]:
    """Run several jobs in one call."""
    return [run(rank, world, job) for job in jobs]


@pytest.mark.parametrize(("backend", "names"), [("fsdp", [*JOBS]), ("ddp", ["full, tied", "checkpointed", "micro-batches"])])
def test_two_workers_equal_one(pool: Pool, backend: str, names: list[str]) -> None:
    found = pool.run(run_all, [replace(JOBS[name], backend=backend) for name in names])[0]
    for name, result in zip(names, found, strict=True):
        expected = alone(replace(JOBS[name], gather="once", checkpoint=False, micro_batch=None))
        assert largest_gap(result, expected) <= 1e-9, name


def low_precision(rank: int, world: int, backend: str, tied: bool) -> tuple[Any, list[float]]:
    """Take three removal steps in bfloat16; return the whole weights and the losses."""
    made = choose(Spread(backend, world), "cpu", LOW)
    model = made.prepare(Whole(tiny_llama(tied=tied, dtype=torch.float32)), lr=1e-3)
    mine, losses = slice(rank, None, world), []
    for seed in range(3):
        rows = defense_rows(ROWS, seed=seed)[mine]
        batch = OuterBatch(defense_batch(rows, ROWS), text_batch(rows, ROWS))
        losses.append(removal_step(Decoder(model, LOW), made, batch, [], LossWeights(), clip=1.0)["removal"])
    return made.full_state(lambda _name, tensor: tensor.clone()), losses


@pytest.mark.parametrize("tied", [True, False])
def test_in_bfloat16_master_weights_stay_float32_and_losses_are_those_of_autocast(pool: Pool, tied: bool) -> None:
    state, losses = pool.run(low_precision, "fsdp", tied)[0]
    assert losses == pytest.approx(low_precision(0, 1, "single", tied)[1], rel=0.02)
    for name, weight in state.items():
        assert weight.dtype == torch.float32 and not torch.equal(weight, weight.bfloat16().float()), name


def entrap_thirty_steps(rank: int, world: int, gather_once: bool) -> tuple[list[int], list[bool]]:
    """Return how often weights were gathered before, during and after 30 inner steps, and whether in lockstep."""
    backend = choose(Spread("fsdp", world, gather="once" if gather_once else "step"), "cpu")
    decoder = Decoder(backend.prepare(Whole(tiny_llama(tied=False, dtype=torch.float32)), lr=1e-3))
    batch = defense_batch(defense_rows(4, seed=1)[rank::world], 4)
    attack, counts, lockstep = Perturbation(16, 2, "suffix"), [], []
    with patch.object(dist, "all_gather_single", wraps=dist.all_gather_single) as gathers:
        with backend.gathered():
            counts.append(gathers.call_count)
            lockstep.append(backend.lockstep)
            entrap(PlainObjective(decoder, [batch]), attack, InnerRule(steps=30), backend.reduce)
            counts.append(gathers.call_count)
        lockstep.append(backend.lockstep)
        decoder.logits(batch.prompt_ids, batch.prompt_mask)
        counts.append(gathers.call_count)
    return counts, lockstep


def test_weights_are_gathered_once_for_thirty_inner_steps(pool: Pool) -> None:
    # 4 layers, the embedding, the head and the final norm.
    groups = 4 + 3
    for counts, lockstep in pool.run(entrap_thirty_steps, True):
        assert counts == [groups, groups, 2 * groups] and lockstep == [False, True]
    for counts, lockstep in pool.run(entrap_thirty_steps, False):
        assert counts[0] == 0 and counts[1] >= 30 * 2 * groups and lockstep == [True, True]


class Broken(Exception):
    """Stands for what a family does with arguments that it does not take."""


def break_off(rank: int, world: int, gather_once: bool, where: str) -> tuple[Any, float]:
    """Break a forward or a backward pass off in a middle layer of one worker (of both in lockstep); then train."""
    backend = choose(Spread("fsdp", world, gather="once" if gather_once else "step"), "cpu")
    decoder = Decoder(backend.prepare(Whole(tiny_llama(dtype=torch.float32)), lr=1e-3))
    rows = defense_rows(4, seed=1)[rank::world]
    batch = defense_batch(rows, 4)

    def fail(*_: object) -> None:
        raise Broken

    def change(hidden: Tensor) -> Tensor:
        if where == "backward":
            hidden = hidden.clone()
            hidden.register_hook(fail)
            return hidden
        raise Broken

    attack = Perturbation(16, 1, "suffix")
    objective = PlainObjective(decoder, [batch])
    with backend.gathered():
        if rank == 0 or backend.lockstep:
            with frozen(objective), pytest.raises(Broken), decoder.perturbed(2, change):
                torch.autograd.grad(objective.losses(attack, 0)[0].sum(), [attack.delta])
        found = entrap(objective, attack, InnerRule(steps=3), backend.reduce)
    removal_step(decoder, backend, OuterBatch(batch, text_batch(rows, 4)), [attack], LossWeights(), clip=1.0)
    return backend.full_state(lambda _name, tensor: tensor.clone()), found.loss_unwanted[-1]


@pytest.mark.parametrize(("gather_once", "where"), [(True, "forward"), (False, "forward"), (True, "backward")])
def test_a_pass_that_breaks_off_spoils_nothing_that_follows(pool: Pool, gather_once: bool, where: str) -> None:
    state, loss = pool.run(break_off, gather_once, where)[0]
    single = choose(Spread("single", 1), "cpu")
    decoder, rows = Decoder(single.prepare(Whole(tiny_llama(dtype=torch.float32)), lr=1e-3)), defense_rows(4, seed=1)
    batch, attack = defense_batch(rows), Perturbation(16, 1, "suffix")
    expected = entrap(PlainObjective(decoder, [batch]), attack, InnerRule(steps=3), single.reduce)
    removal_step(decoder, single, OuterBatch(batch, text_batch(rows)), [attack], LossWeights(), clip=1.0)
    assert loss == pytest.approx(expected.loss_unwanted[-1], rel=1e-5)
    told = single.full_state(lambda _name, tensor: tensor)
    assert told is not None and largest_gap(state, told) <= 1e-5


def offloaded(rank: int, world: int) -> str:
    """Return what is said of offloading on the CPU."""
    try:
        FullySharded("cpu", Spread("fsdp", offload=True))
    except UserError as error:
        return str(error)
    return ""


def test_offloading_from_the_cpu_is_refused(pool: Pool) -> None:
    assert "parallel.offload is true" in pool.run(offloaded)[0]
