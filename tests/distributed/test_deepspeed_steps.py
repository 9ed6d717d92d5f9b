"""What DeepSpeed's ZeRO exchanges, and when: gathers in the inner loop, several backward passes, workers without rows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from beear.parallel.base import Whole
from beear.testing.tiny import defense_batch, defense_rows
from benchmarks.pool import Pool
from tests.distributed.zero import ROWS, backend_of, descend, furthest, model_of, whole

LR, INNER = 1e-3, 30


@contextmanager
def counted() -> Iterator[list[int]]:
    """Within the context note how many elements each all-gather brings to a worker."""
    from deepspeed.comm import comm

    sizes: list[int] = []
    original: Callable[..., Any] = comm.cdb.all_gather_into_tensor

    def gather(output_tensor: Tensor, *arguments: Any, **named: Any) -> Any:
        sizes.append(output_tensor.numel())
        return original(output_tensor, *arguments, **named)

    comm.cdb.all_gather_into_tensor = gather
    try:
        yield sizes
    finally:
        comm.cdb.all_gather_into_tensor = original


class Shim(nn.Module):
    """Stands in a layer's place and returns what that layer is known to return."""

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        self.known = known

    def forward(self, hidden: Tensor, **_named: Any) -> Tensor:
        return self.known


@contextmanager
def shims(model: Any, layer: int, known: Tensor) -> Iterator[None]:
    """Within the context the model's first ``layer`` layers are not computed."""
    stack, before = model.model, model.model.layers
    stack.layers = nn.ModuleList([*(Shim(known) for _ in range(layer)), *before[layer:]])
    try:
        yield
    finally:
        stack.layers = before


def attack(backend: Any, model: Any, steps: int, extra: int = 0) -> Tensor:
    """Take gradient steps on a δ after layer 2, on forward passes that start there; the weights are frozen."""
    batch = defense_batch(defense_rows(ROWS, seed=9)[backend.rank :: backend.world], ROWS)
    inputs = {"input_ids": batch.prompt_ids, "attention_mask": batch.prompt_mask.long(), "use_cache": False}
    delta = torch.zeros(16, requires_grad=True)
    seen: list[Tensor] = []
    model.requires_grad_(False)
    with backend.gathered():
        handle = model.model.layers[1].register_forward_hook(lambda _m, _i, output: seen.append(output))
        with torch.no_grad():
            model(**inputs)
        handle.remove()
        for step in range(steps + extra * backend.rank):
            with shims(model, 2, seen[0].detach() + delta):
                loss = (model(**inputs).logits.logsumexp(-1) * batch.prompt_mask).sum() / ROWS
            (gradient,) = torch.autograd.grad(loss, [delta])
            if step < steps:
                delta = (delta - 0.01 * backend.reduce(gradient)).detach().requires_grad_(True)
    model.requires_grad_(True)
    return delta.detach()


def attack_and_descend(rank: int, world: int, name: str, stage: int, once: bool, settings: dict[str, Any]) -> Any:
    """Train, attack, train: weights, δ and norms, and the sizes of the gathers during the attack."""
    backend = backend_of(name, world, stage, gather="once" if once else "step", **settings)
    model = backend.prepare(Whole(model_of(tied=False)), LR)
    norms, sizes = descend(backend, model, range(2)), list[int]()
    states = [backend.lockstep]
    with torch.no_grad():
        # Stage 3 takes it for the beginning of another training pass, and asks for weights ahead of a backward pass.
        model(input_ids=torch.arange(8)[None])
    if world == 1:
        delta = attack(backend, model, INNER)
    else:
        with counted() as sizes:
            # Where weights are whole, workers need not keep step.
            delta = attack(backend, model, INNER, extra=3 if once else 0)
    with backend.gathered():
        states.append(backend.lockstep)
    norms += descend(backend, model, range(2, 4))
    return whole(backend), delta, norms, sizes, [*states, backend.lockstep]


def held_to_one_worker(pool: Pool, stage: int, once: bool, settings: dict[str, Any]) -> list[Any]:
    """Run on two workers, compare with one, and return what the first worker saw."""
    first, second = pool.run(attack_and_descend, "deepspeed", stage, once, settings)
    state, delta, norms, _, _ = attack_and_descend(0, 1, "single", stage, once, {})
    assert torch.equal(first[1], second[1])
    assert furthest({"delta": first[1]}, {"delta": delta}) <= 1e-5
    assert first[2] == pytest.approx(norms, rel=1e-5)
    assert furthest(first[0], state) <= 1e-5
    return [first, second]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_weights_are_gathered_once_in_thirty_inner_steps(pool: Pool, stage: int) -> None:
    count = sum(p.numel() for p in model_of(tied=False).parameters())
    for _, _, _, sizes, lockstep in held_to_one_worker(pool, stage, True, {}):
        assert sum(sizes) == (count if stage == 3 else 0)
        assert lockstep == [stage > 1, False, stage > 1]


def test_weights_are_gathered_in_each_inner_step_where_memory_is_short(pool: Pool) -> None:
    model: Any = model_of(tied=False)
    above = sum(p.numel() for p in (*model.model.layers[2:].parameters(), *model.lm_head.parameters()))
    for _, _, _, sizes, lockstep in held_to_one_worker(pool, 3, False, {}):
        assert sum(sizes) >= INNER * above
        assert lockstep == [True, True, True]


@pytest.mark.parametrize("stage", [2, 3])
def test_offloaded_and_recomputed_is_the_same(pool: Pool, stage: int) -> None:
    held_to_one_worker(pool, stage, False, {"offload": True, "checkpoint_activations": True})


def uneven(rank: int, world: int, stage: int, workers: int, passes: int) -> Any:
    """Train where the first ``workers`` workers hold all rows, in several backward passes per step."""
    backend = backend_of("deepspeed", world, stage)
    model = backend.prepare(Whole(model_of()), LR)
    return descend(backend, model, range(3), workers, passes), whole(backend)


@pytest.mark.parametrize(("stage", "workers", "passes"), [(1, 1, 2), (1, 2, 3), (2, 2, 3), (3, 2, 3)])
def test_several_passes_and_a_worker_without_rows(pool: Pool, stage: int, workers: int, passes: int) -> None:
    (norms, state), (other, _) = pool.run(uneven, stage, workers, passes)
    alone = backend_of("single", 1, stage)
    model = alone.prepare(Whole(model_of()), LR)
    assert norms == other == pytest.approx(descend(alone, model, range(3)), rel=1e-5)
    assert furthest(state, model.state_dict()) <= 1e-5


def spoilt(rank: int, world: int, stage: int) -> Any:
    """Take a step on a loss that is not a number, then a good one."""
    backend = backend_of("deepspeed", world, stage)
    model = backend.prepare(Whole(model_of()), LR)
    backend.backward(model(input_ids=torch.tensor([[1, 2]])).logits.sum() * float("nan"))
    norms, before = [backend.step(1.0)], whole(backend)
    return [*norms, *descend(backend, model, range(1))], before


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_gradient_that_is_not_finite_shows_in_the_norm(pool: Pool, stage: int) -> None:
    (norms, state), _ = pool.run(spoilt, stage)
    alone = backend_of("single", 1, stage)
    assert norms[0] == float("inf")
    assert furthest(state, model_of().state_dict()) == 0
    assert norms[1:] == pytest.approx(descend(alone, alone.prepare(Whole(model_of()), LR), range(1)), rel=1e-5)
