"""The outer level: behave safely under δ, stay useful without it (arXiv 2406.17092, eq. 3).

θ* = argmin_θ (1/N) Σ_i CE(F_θ^l(x_i, δ*), y_s^i) + (1/M) Σ_j CE(F_θ(x_p^j), y_p^j).
"""

import torch
from torch import Tensor

from beear.config.schema import EntrapmentWeights
from beear.data.batch import OuterBatch
from beear.methods.forward import safe_loss, text_loss
from beear.methods.losses import global_mean
from beear.methods.perturbation import Perturbation
from beear.models.decoder import Decoder
from beear.parallel.base import Backend


def removal_step(
    decoder: Decoder,
    backend: Backend,
    batch: OuterBatch,
    perturbations: list[Perturbation],
    weights: EntrapmentWeights,
    clip: float,
) -> dict[str, float]:
    """Take one step on the weights and return the global losses in nats and the gradient norm before clipping.

    With several perturbations the removal term is their mean; with none it is taken on the plain model, which is
    ordinary fine-tuning on the same data. δ is read, never changed.

    Raises:
        FloatingPointError: a loss or the gradient norm is not finite.
    """
    losses = {"removal": 0.0, "anchor": 0.0}
    attacks: list[Perturbation | None] = list(perturbations) or [None]
    if batch.defense.rows:
        for attack in attacks:
            part = _frozen_safe_loss(decoder, batch, attack) / len(attacks)
            losses["removal"] += float(part.detach())
            backend.backward(weights.removal * part)
    if batch.anchor.rows:
        part = global_mean(text_loss(decoder, batch.anchor), batch.anchor.global_rows)
        losses["anchor"] = float(part.detach())
        backend.backward(weights.anchor * part)
    norm = backend.step(clip)
    both = backend.reduce(torch.tensor([losses["removal"], losses["anchor"]], dtype=torch.float64, device=decoder.device))
    if not (torch.isfinite(both).all() and torch.isfinite(torch.tensor(norm))):
        raise FloatingPointError(f"removal: loss {both.tolist()} or gradient norm {norm} is not finite")
    return {"removal": float(both[0]), "anchor": float(both[1]), "gradient_norm": norm}


def _frozen_safe_loss(decoder: Decoder, batch: OuterBatch, attack: Perturbation | None) -> Tensor:
    if attack is not None:
        attack.requires_grad_(False)
    return global_mean(safe_loss(decoder, batch.defense, attack), batch.defense.global_rows)
