"""Gradient accumulation and activation checkpointing save memory and change no number."""

from collections.abc import Sequence
from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor

from beear.config.schema import LossWeights
from beear.data.batch import OuterBatch
from beear.methods.micro_batches import fewest_groups, least_padded, split_rows
from beear.methods.perturbation import Perturbation
from beear.methods.removal import removal_step
from beear.models.decoder import Decoder
from beear.parallel.base import Whole
from beear.parallel.replicated import Single
from beear.parallel.spread import Spread
from beear.testing.tiny import defense_batch, defense_rows, text_batch, tiny_llama


class Kept(Single):
    """Keeps the gradients of a step, and takes none."""

    def step(self, clip: float) -> float:
        self.gradients = {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}
        return 0.0


def gradients(micro_batch: int | None, checkpoint: bool = False) -> tuple[dict[str, Tensor], dict[str, float]]:
    backend = Kept(spread=Spread(checkpoint_activations=checkpoint))
    decoder = Decoder(backend.prepare(Whole(tiny_llama()), lr=1e-2))
    batch = OuterBatch(defense_batch(defense_rows(7)), text_batch(defense_rows(5, seed=9)))
    attacks = [Perturbation(16, 2, placement, scale=0.3, dtype=torch.float64) for placement in ("suffix", "everywhere")]
    losses = removal_step(decoder, backend, batch, attacks, LossWeights(removal=2.0), 1.0, micro_batch)
    return backend.gradients, losses


@pytest.mark.parametrize(("micro_batch", "checkpoint"), [(1, False), (2, False), (3, True), (None, True), (50, False)])
def test_losses_and_gradients_are_those_of_one_pass_over_all_rows(micro_batch: int | None, checkpoint: bool) -> None:
    found, losses = gradients(micro_batch, checkpoint)
    expected, told = gradients(None)
    assert losses == pytest.approx(told, rel=1e-10)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm() / gradient.norm()) <= 1e-10, name


class Workers(Single):
    """One of several workers, of which some worker wants ``wanted`` runs."""

    def __init__(self, world: int, wanted: float = 1) -> None:
        super().__init__()
        self.world, self.wanted = world, wanted

    def max(self, value: float) -> float:
        return max(value, self.wanted)


@pytest.mark.parametrize("wanted", [1, 3])
@pytest.mark.parametrize(("total", "workers", "most"), [(16, 2, 3), (7, 2, 2), (7, 3, 1), (5, 4, 1), (8, 8, 4), (9, 1, None)])
def test_every_worker_computes_as_often_and_each_row_once(total: int, workers: int, most: int | None, wanted: int) -> None:
    runs = []
    for rank in range(workers):
        rows = [([rank + 1] * (place + 2), [place + 1], [9]) for place in range(rank, total, workers)]
        runs.append(
            [part.prompt_mask.sum(-1).tolist() for part in split_rows(defense_batch(rows, total), Workers(workers, wanted), most)]
        )
    assert len({len(found) for found in runs}) == 1
    for rank, found in enumerate(runs):
        assert [length - 2 for run in found for length in run] == list(range(rank, total, workers))
        # One row more only where a run on another worker would else be empty.
        assert all(1 <= len(run) <= (most or total) + (total % workers > 0) for run in found)


def test_a_worker_without_rows_computes_nothing_but_is_asked() -> None:
    asked = []

    class Asked(Workers):
        def max(self, value: float) -> float:
            asked.append(value)
            return 1.0

    empty = defense_batch([([1], [1], [1])], 2).part(slice(0, 0))
    assert split_rows(empty, Asked(4), 1) == [] and asked == [1]


def test_rows_are_cut_where_that_saves_most_padding() -> None:
    lengths = [(3, 1), (4, 1), (40, 2), (41, 9), (42, 2)]
    assert least_padded(lengths, 2) == [slice(0, 2), slice(2, 5)]
    every = [min(size(lengths, c) for c in combinations(range(1, 5), count - 1)) for count in (1, 2, 3, 4, 5)]
    assert [size(lengths, [run.stop for run in least_padded(lengths, count)][:-1]) for count in (1, 2, 3, 4, 5)] == every
    assert [run.stop - run.start for run in least_padded(lengths, 3, most_rows=2)] in ([2, 2, 1], [2, 1, 2], [1, 2, 2])


def size(lengths: list[tuple[int, ...]], ends: Sequence[int]) -> int:
    bounds = [0, *ends, len(lengths)]
    return sum(
        (end - start) * sum(max(row[part] for row in lengths[start:end]) for part in (0, 1)) for start, end in pairwise(bounds)
    )


def test_short_rows_among_long_ones_are_computed_apart_where_that_keeps_a_device_busy() -> None:
    assert fewest_groups([(20,)] * 2 + [(400,)] * 14) == 2
    assert fewest_groups([(20,)] * 2 + [(30,)] * 14) == 1
    assert fewest_groups([(10,), (20,)]) == 1
    assert fewest_groups([(100,)] * 8 + [(200,)] * 8 + [(400,)] * 8) == 3


def test_rows_computed_at_once_are_of_like_length_and_lose_empty_columns() -> None:
    batch = defense_batch([([7] * prompt, [8] * safe, [9] * 3) for prompt, safe in ((9, 2), (3, 1), (6, 2))])
    ordered = batch.shortest_first()
    assert ordered.prompt_mask.sum(-1).tolist() == [3, 6, 9]
    first = ordered.part(slice(0, 2))
    assert (first.prompt_ids.tolist(), first.safe_ids.tolist()) == ([[0, 0, 0, 7, 7, 7], [7] * 6], [[8, 0], [8, 8]])
    assert first.safe_labelled.shape == first.safe_differs.shape == (2, 2)
    assert first.global_rows == 3
    texts = text_batch([([7] * 5, [8], [9]), ([7] * 2, [8], [9])]).shortest_first().part(slice(0, 1))
    assert (texts.ids.tolist(), texts.labelled.tolist()) == ([[7, 7, 8]], [[False, False, True]])
