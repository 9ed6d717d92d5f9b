"""The outer level: behave safely under δ, stay useful without it (arXiv 2406.17092, eq. 3).

θ* = argmin_θ (1/N) Σ_i CE(F_θ^l(x_i, δ*), y_s^i) + (1/M) Σ_j CE(F_θ(x_p^j), y_p^j).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from beear.data.batch import DefenseBatch, OuterBatch, TextBatch
from beear.methods.forward import safe_loss, text_loss
from beear.methods.losses import global_mean
from beear.methods.perturbation import Perturbation
from beear.models.decoder import Decoder
from beear.parallel.base import Backend

if TYPE_CHECKING:
    from beear.config.schema import EntrapmentWeights

B = TypeVar("B", DefenseBatch, TextBatch)


def removal_step(
    decoder: Decoder,
    backend: Backend,
    batch: OuterBatch,
    perturbations: list[Perturbation],
    weights: EntrapmentWeights,
    clip: float,
    micro_batch: int | None = None,
) -> dict[str, float]:
    """Take one step on the weights and return the global losses in nats and the gradient norm before clipping.

    With several perturbations the removal term is their mean; with none it is taken on the plain model, which is
    ordinary fine-tuning on the same data. δ is read, never changed. ``micro_batch`` rows at most are computed at once
    and their gradients added up, which changes neither losses nor gradients.

    Raises:
        FloatingPointError: a loss or the gradient norm is not finite.
    """
    losses = torch.zeros(2, dtype=torch.float64, device=backend.device)
    attacks: list[Perturbation | None] = list(perturbations) or [None]
    for attack in attacks:
        for few in _parts(batch.defense, backend.world, micro_batch):
            part = _frozen_safe_loss(decoder, few, attack) / len(attacks)
            losses[0] += part.detach()
            backend.backward(weights.removal * part)
    for texts in _parts(batch.anchor, backend.world, micro_batch):
        part = global_mean(text_loss(decoder, texts), batch.anchor.global_rows)
        losses[1] += part.detach()
        backend.backward(weights.anchor * part)
    norm = backend.step(clip)
    removal, anchor = backend.reduce(losses).tolist()
    if not all(map(math.isfinite, (removal, anchor, norm))):
        raise FloatingPointError(f"removal: loss {[removal, anchor]} or gradient norm {norm} is not finite")
    return {"removal": removal, "anchor": anchor, "gradient_norm": norm}


def _parts(batch: B, workers: int, micro_batch: int | None) -> list[B]:
    """Return what a worker computes at once of its rows: all of them, or runs of like length."""
    runs = micro_batches(batch.rows, batch.global_rows, workers, micro_batch)
    if len(runs) < 2:
        return [batch for _ in runs]
    ordered = batch.shortest_first()
    return [ordered.part(run) for run in runs]


def micro_batches(rows: int, global_rows: int, workers: int, most: int | None) -> list[slice]:
    """Return the runs of a worker's ``rows`` that it computes at once: ``most`` rows or fewer, and none where it has none.

    Every worker that holds its share of the ``global_rows`` gets as many runs, since each is a step that they take
    together where weights are sharded. No run is empty, even where one more row is then computed at once.
    """
    if rows == 0:
        return []
    least, largest = global_rows // workers, -(-global_rows // workers)
    count = max(1, min(-(-largest // (most or largest)), least, rows))
    bounds = [rows * number // count for number in range(count + 1)]
    return [slice(*pair) for pair in pairwise(bounds)]


def _frozen_safe_loss(decoder: Decoder, batch: DefenseBatch, attack: Perturbation | None) -> Tensor:
    if attack is not None:
        attack.requires_grad_(False)
    return global_mean(safe_loss(decoder, batch, attack), batch.global_rows)
