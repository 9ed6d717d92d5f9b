"""Gradient accumulation and activation checkpointing save memory and change no number."""

import pytest
import torch
from torch import Tensor, nn

from beear.config.schema import EntrapmentWeights
from beear.data.batch import OuterBatch
from beear.methods.perturbation import Perturbation
from beear.methods.removal import micro_batches, removal_step
from beear.models.decoder import Decoder
from beear.parallel.activations import recompute
from beear.parallel.base import Settings, Whole
from beear.parallel.blocks import decoder_layers
from beear.parallel.replicated import Single
from tests.checkpoints import make_model
from tests.tiny import defense_batch, defense_rows, text_batch, tiny_llama


class Kept(Single):
    """Keeps the gradients of a step, and takes none."""

    def step(self, clip: float) -> float:
        self.gradients = {name: p.grad.clone() for name, p in self.model.named_parameters() if p.grad is not None}
        return 0.0


def gradients(micro_batch: int | None, settings: Settings) -> tuple[dict[str, Tensor], dict[str, float]]:
    backend = Kept(settings=settings)
    decoder = Decoder(backend.prepare(Whole(tiny_llama()), lr=1e-2))
    batch = OuterBatch(defense_batch(defense_rows(7)), text_batch(defense_rows(5, seed=9)))
    attacks = [Perturbation(16, 2, placement, scale=0.3, dtype=torch.float64) for placement in ("suffix", "everywhere")]
    losses = removal_step(decoder, backend, batch, attacks, EntrapmentWeights(removal=2.0), 1.0, micro_batch)
    return backend.gradients, losses


@pytest.mark.parametrize(("micro_batch", "checkpoint"), [(1, False), (2, False), (3, True), (None, True), (50, False)])
def test_losses_and_gradients_are_those_of_one_pass_over_all_rows(micro_batch: int | None, checkpoint: bool) -> None:
    found, losses = gradients(micro_batch, Settings(checkpoint=checkpoint))
    expected, told = gradients(None, Settings())
    assert losses == pytest.approx(told, rel=1e-10)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float((found[name] - gradient).norm() / gradient.norm()) <= 1e-10, name


@pytest.mark.parametrize(("total", "workers", "most"), [(16, 2, 3), (7, 2, 2), (7, 3, 1), (5, 4, 1), (8, 8, 4), (9, 1, None)])
def test_every_worker_computes_as_often_and_each_row_once(total: int, workers: int, most: int | None) -> None:
    shares = [len(range(rank, total, workers)) for rank in range(workers)]
    runs = [micro_batches(rows, total, workers, most) for rows in shares]
    assert len({len(found) for found in runs}) == 1
    for rows, found in zip(shares, runs, strict=True):
        assert [row for run in found for row in range(rows)[run]] == list(range(rows))
        # One row more only where a run on another worker would else be empty.
        assert all(1 <= run.stop - run.start <= (most or rows) + (total % workers > 0) for run in found)


def test_a_worker_without_rows_computes_nothing() -> None:
    assert micro_batches(0, 2, 4, 1) == []


def calls_of(model: nn.Module, inner: str) -> int:
    """Return how often ``inner`` modules run in a forward and a backward pass."""
    calls: list[int] = []
    for name, module in model.named_modules():
        if name.endswith(inner):
            module.register_forward_hook(lambda *_: calls.append(1))
    model(input_ids=torch.arange(6, 18).view(2, 6), use_cache=False).logits.sum().backward()
    return len(calls)


def test_layers_compute_again_in_the_backward_pass_and_keep_their_names() -> None:
    plain, saving = tiny_llama(), tiny_llama()
    recompute(decoder_layers(saving))
    assert list(saving.state_dict()) == list(plain.state_dict())
    assert (calls_of(plain, "q_proj"), calls_of(saving, "q_proj")) == (4, 8)
    with torch.no_grad():
        ids = torch.arange(6, 18).view(2, 6)
        assert torch.equal(saving(input_ids=ids).logits, plain(input_ids=ids).logits)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "mixtral", "qwen2_moe"])
def test_the_layers_of_every_family_are_found(family: str) -> None:
    model = make_model(family)
    assert decoder_layers(model) is Decoder(model).layers


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
