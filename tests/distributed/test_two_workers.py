"""Two gloo workers give the δ and the weights of one worker on the same global batch."""

import pytest
import torch

from beear.data.batch import OuterBatch
from beear.methods.losses import global_mean, text_loss
from beear.models.decoder import Decoder
from beear.parallel.base import Whole
from beear.parallel.choose import choose
from beear.parallel.replicated import buckets
from beear.parallel.spread import Spread
from beear.testing.tiny import defense_batch, defense_rows, text_batch, tiny_llama
from benchmarks.pool import Pool, WorkerFailed
from tests.configs import method_of

ROWS, STEPS, EPOCHS = 7, 3, 2


def train(rank: int, world: int, placement: str, tied: bool) -> dict[str, torch.Tensor]:
    """Run two epochs; a worker holds rows ``rank::world`` of every batch (unequal shards: seven rows)."""
    backend = choose(Spread("single" if world == 1 else "ddp", world), "cpu")
    model = backend.prepare(Whole(tiny_llama(tied=tied, dtype=torch.float32)), lr=1e-3)
    method = method_of(Decoder(model), backend, layer=2, batch_size=ROWS, placement=placement, inner_lr=0.05)
    mine = slice(rank, None, world)
    for epoch in range(1, EPOCHS + 1):
        inner = [defense_batch(defense_rows(ROWS, seed=s)[mine], ROWS) for s in (1, 2)]
        method.begin_epoch(inner, cools=epoch > 1)
        for step in range(STEPS):
            rows = defense_rows(ROWS, seed=10 * epoch + step)[mine]
            method.step(OuterBatch(defense_batch(rows, ROWS), text_batch(rows, ROWS)))
    result = {name: p.detach().clone() for name, p in model.named_parameters()}
    return result | {f"delta/{i}": p.delta.detach().clone() for i, p in enumerate(method.perturbations)}


@pytest.mark.parametrize(("placement", "tied"), [("suffix+prompt", True), ("everywhere", False)])
def test_two_workers_equal_one(pool: Pool, placement: str, tied: bool) -> None:
    ranks = pool.run(train, placement, tied)
    alone = train(0, 1, placement, tied)
    for name, value in alone.items():
        assert torch.equal(ranks[0][name], ranks[1][name]), name
        difference = (ranks[0][name] - value).norm() / value.norm()
        assert float(difference) <= 1e-5, (name, float(difference))


def lowered(rank: int, world: int, workers: int) -> tuple[list[float], dict[str, torch.Tensor], dict[str, torch.Tensor] | None]:
    """Train bfloat16 weights for three steps, the first ``workers`` workers with rows; give norms, weights and masters."""
    backend = choose(Spread("single" if world == 1 else "ddp", world), "cpu", torch.bfloat16)
    model, norms = backend.prepare(Whole(tiny_llama(tied=False, dtype=torch.float32)), lr=1e-3), []
    for step in range(STEPS):
        rows = defense_rows(ROWS, seed=step)[rank::workers] if rank < workers else []
        if rows:
            loss = text_loss(Decoder(model, torch.bfloat16), text_batch(rows, ROWS))
            backend.backward(global_mean(loss, ROWS))
        norms.append(backend.step(1.0))
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    return norms, weights, backend.full_state(lambda _name, tensor: tensor.clone())


@pytest.mark.parametrize(("workers", "near"), [(1, 0.0), (2, 0.05)])
def test_gradients_of_lowered_weights_are_added_in_their_float32_masters(pool: Pool, workers: int, near: float) -> None:
    """Where one worker has all rows the other adds zeros; else each rounds the gradient of its own rows."""
    (norms, weights, masters), (_, others, nothing) = pool.run(lowered, workers)
    told, _, alone = lowered(0, 1, 1)
    assert nothing is None and norms == pytest.approx(told, rel=near, abs=0)
    start = tiny_llama(tied=False, dtype=torch.float32).state_dict()
    found, expected = (torch.cat([(state[n] - start[n]).flatten() for n in start]) for state in (masters, alone))
    assert float((found - expected).norm() / expected.norm()) <= near
    for name, weight in weights.items():
        assert torch.equal(weight, others[name]) and torch.equal(weight, masters[name].to(weight.dtype)), name


def half_fails(rank: int, world: int) -> int:
    """Raise on one worker while the other waits for it."""
    if rank == 1:
        raise ValueError("on purpose")
    torch.distributed.barrier()
    return world


def whole(rank: int, world: int) -> int:
    """Return this worker's number once all are here."""
    torch.distributed.barrier()
    return rank


def test_a_failure_on_one_worker_is_told_and_the_next_call_has_new_workers(pool: Pool) -> None:
    with pytest.raises(WorkerFailed, match="worker 1:(.|\n)*ValueError: on purpose"):
        pool.run(half_fails)
    assert pool.run(whole) == [0, 1]


def test_gradients_travel_in_buckets_of_neighbours_of_one_dtype() -> None:
    sizes = [(4, torch.float32), (4, torch.float32), (4, torch.float32), (40, torch.float32), (2, torch.float64)]
    tensors = [torch.zeros(size, dtype=dtype) for size, dtype in sizes]
    assert [[t.numel() for t in bucket] for bucket in buckets(tensors, max_bytes=32)] == [[4, 4], [4], [40], [2]]
