"""The outer level: train the model to answer safely under δ and to stay useful without it (arXiv 2406.17092, eq. 3).

θ* = argmin_θ (1/N) Σ_i CE(F_θ^l(x_i, δ*), y_s^i) + (1/M) Σ_j CE(F_θ(x_p^j), y_p^j).
"""

import math
from typing import Protocol

import torch

from beear.data.batch import OuterBatch
from beear.methods.losses import global_mean, safe_loss, text_loss
from beear.methods.micro_batches import split_rows
from beear.methods.perturbation import Perturbation
from beear.models.decoder import Decoder
from beear.parallel.base import Backend


class Weights(Protocol):
    """Weights of the two loss terms, such as the configuration's ``method.weights``."""

    @property
    def removal(self) -> float:
        """Weight of the safe answers' loss under the perturbation."""
        ...

    @property
    def anchor(self) -> float:
        """Weight of the anchoring set's loss."""
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
    """Take one step on the weights. Return the losses over the global batch in nats, and the gradient norm before clipping.

    With several perturbations the removal loss is their mean. With none it is that of the unperturbed model, which is ordinary
    fine-tuning. δ does not change. At most ``micro_batch`` rows are computed at once and their gradients added up, which changes
    neither losses nor gradients.

    Raises:
        FloatingPointError: a loss or the gradient norm is not finite.
    """
    losses = torch.zeros(2, dtype=torch.float64, device=backend.device)
    each: list[Perturbation | None] = list(perturbations) or [None]
    requests = split_rows(batch.defense, backend, micro_batch)
    for perturbation in each:
        if perturbation is not None:
            perturbation.requires_grad_(False)
        for few in requests:
            part = global_mean(safe_loss(decoder, few, perturbation), few.global_rows) / len(each)
            losses[0] += part.detach()
            backend.backward(weights.removal * part)
    for texts in split_rows(batch.anchor, backend, micro_batch):
        part = global_mean(text_loss(decoder, texts), texts.global_rows)
        losses[1] += part.detach()
        backend.backward(weights.anchor * part)
    norm = backend.step(clip)
    removal, anchor = backend.reduce(losses).tolist()
    if not all(map(math.isfinite, (removal, anchor, norm))):
        raise FloatingPointError(f"removal: loss {[removal, anchor]} or gradient norm {norm} is not finite")
    return {"removal": removal, "anchor": anchor, "gradient_norm": norm}
