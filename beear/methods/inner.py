"""The inner level's objective over fixed batches: the interface, and the plain one that its fast twin must equal.

An objective is built anew after every outer update, since it may hold what the frozen weights produced.
"""

from typing import Protocol

import torch
from torch import Tensor

from beear.data.batch import DefenseBatch
from beear.methods.forward import safe_loss, unwanted_loss
from beear.methods.perturbation import Perturbation
from beear.models.decoder import Decoder


class Objective(Protocol):
    """Answer losses under δ over batches that stay the same for the whole inner loop."""

    decoder: Decoder
    batches: list[DefenseBatch]

    def losses(self, perturbation: Perturbation, batch: int) -> tuple[Tensor, Tensor]:
        """Return CE(y_h), CE(y_s) [B each], in nats, of batch number ``batch``, differentiable in δ."""
        ...


class PlainObjective:
    """Both answers by a full forward pass each: weights frozen, logits only where there are answers."""

    def __init__(self, decoder: Decoder, batches: list[DefenseBatch], differing: bool = True) -> None:
        """``differing``: take the losses on the tokens in which the answers differ."""
        self.decoder, self.batches, self.differing = decoder, batches, differing

    def losses(self, perturbation: Perturbation, batch: int) -> tuple[Tensor, Tensor]:
        """Return CE(y_h), CE(y_s) [B each] of batch number ``batch``."""
        rows = self.batches[batch]
        return (
            unwanted_loss(self.decoder, rows, perturbation, self.differing),
            safe_loss(self.decoder, rows, perturbation, self.differing),
        )


def squares_after(decoder: Decoder, batch: DefenseBatch, layer: int) -> Tensor:
    """Return [sum of squares, count] of layer ``layer``'s output over the batch's prompt tokens (float64).

    Add over batches and workers, then divide: the square root is the RMS that δ is measured in.
    """
    if batch.rows == 0:
        return torch.zeros(2, dtype=torch.float64, device=batch.prompt_ids.device)
    hidden = decoder.hidden(layer, batch.prompt_ids, batch.prompt_mask)[batch.prompt_mask].double()
    return torch.stack([hidden.square().sum(), torch.tensor(float(hidden.numel()), dtype=torch.float64, device=hidden.device)])
