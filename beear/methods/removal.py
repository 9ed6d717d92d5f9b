"""The outer level: behave safely under δ, stay useful without it (arXiv 2406.17092, eq. 3).

θ* = argmin_θ (1/N) Σ_i CE(F_θ^l(x_i, δ*), y_s^i) + (1/M) Σ_j CE(F_θ(x_p^j), y_p^j).
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from beear.data.batch import DefenseBatch, OuterBatch
from beear.methods.forward import safe_loss, text_loss
from beear.methods.losses import global_mean
from beear.methods.micro_batches import runs_of
from beear.methods.perturbation import Perturbation
from beear.models.decoder import Decoder
from beear.parallel.base import Backend


class Weights(Protocol):
    """Weights of the two terms; ``method.weights`` of the configuration has them."""

    @property
    def removal(self) -> float:
        """The safe answer under the perturbation."""
        ...

    @property
    def anchor(self) -> float:
        """The anchoring set."""
        ...


def removal_step(
    decoder: Decoder,
    backend: Backend,
    batch: OuterBatch,
    perturbations: list[Perturbation],
    weights: Weights,
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
    requests = runs_of(batch.defense, backend, micro_batch)
    for attack in attacks:
        for few in requests:
            part = _frozen_safe_loss(decoder, few, attack) / len(attacks)
            losses[0] += part.detach()
            backend.backward(weights.removal * part)
    for texts in runs_of(batch.anchor, backend, micro_batch):
        part = global_mean(text_loss(decoder, texts), batch.anchor.global_rows)
        losses[1] += part.detach()
        backend.backward(weights.anchor * part)
    norm = backend.step(clip)
    removal, anchor = backend.reduce(losses).tolist()
    if not all(map(math.isfinite, (removal, anchor, norm))):
        raise FloatingPointError(f"removal: loss {[removal, anchor]} or gradient norm {norm} is not finite")
    return {"removal": removal, "anchor": anchor, "gradient_norm": norm}


def _frozen_safe_loss(decoder: Decoder, batch: DefenseBatch, attack: Perturbation | None) -> Tensor:
    if attack is not None:
        attack.requires_grad_(False)
    return global_mean(safe_loss(decoder, batch, attack), batch.global_rows)
