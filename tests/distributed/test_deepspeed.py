"""DeepSpeed's ZeRO on two workers gives the δ and the weights of one worker on the same global batch."""

from typing import Any

import pytest
import torch

from beear.data.batch import OuterBatch
from beear.models.decoder import Decoder
from beear.parallel.base import Whole
from beear.testing.tiny import defense_batch, defense_rows, text_batch
from benchmarks.pool import Pool
from tests.configs import method_of
from tests.distributed.zero import backend_of, difference, model_of

ROWS, STEPS, EPOCHS = 7, 2, 2


def train(rank: int, world: int, name: str, stage: int, placement: str, tied: bool, lora: bool, once: bool) -> Any:
    """Run two epochs; a worker holds rows ``rank::world`` of every batch (unequal shards: seven rows)."""
    backend = backend_of(name, world, stage, gather="once" if once else "step")
    model = backend.prepare(Whole(model_of(tied, lora)), lr=1e-3)
    given = {"layer": 2, "batch_size": ROWS, "placement": placement, "inner_lr": 0.05, "inner_steps": 6}
    method = method_of(Decoder(model), backend, **given)
    mine, norms = slice(rank, None, world), []
    for epoch in range(1, EPOCHS + 1):
        inner = [defense_batch(defense_rows(ROWS, seed=s)[mine], ROWS) for s in (1, 2)]
        with backend.gathered():
            method.begin_epoch(inner, cools=epoch > 1)
        for step in range(STEPS):
            rows = defense_rows(ROWS, seed=10 * epoch + step)[mine]
            norms.append(method.step(OuterBatch(defense_batch(rows, ROWS), text_batch(rows, ROWS)))["gradient_norm"])
    deltas = {f"delta/{i}": p.delta.detach().clone() for i, p in enumerate(method.perturbations)}
    state = backend.full_state(lambda _name, tensor: tensor.clone())
    return state, deltas | {"norms": torch.tensor(norms)}


CASES = [
    (1, "suffix+prompt", True, False, True),
    (2, "everywhere", False, False, True),
    (3, "suffix+prompt", True, False, True),
    (3, "everywhere", False, False, False),
    (1, "suffix", False, True, True),
    (2, "suffix", True, True, True),
    (3, "suffix", False, True, True),
    (3, "suffix", True, True, False),
]


@pytest.mark.parametrize(("stage", "placement", "tied", "lora", "once"), CASES)
def test_two_workers_equal_one(pool: Pool, stage: int, placement: str, tied: bool, lora: bool, once: bool) -> None:
    (state, plain), (nothing, other) = pool.run(train, "deepspeed", stage, placement, tied, lora, once)
    alone_state, alone = train(0, 1, "single", stage, placement, tied, lora, once)
    assert nothing is None
    assert list(state) == list(alone_state)
    for name, value in alone.items():
        assert torch.equal(plain[name], other[name]), name
        assert difference(plain[name], value) <= 1e-5, name
    for name, value in alone_state.items():
        assert difference(state[name], value) <= 1e-5, name
