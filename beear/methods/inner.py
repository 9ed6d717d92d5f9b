"""The inner level's objective over fixed batches: the interface, and the plain one that its fast twin must equal.

An objective is built anew after every outer update, since it may hold what the frozen weights produced.
"""

import math
from collections.abc import Callable, Sequence
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


def sizes_after(decoder: Decoder, batch: DefenseBatch, layer: int) -> Tensor:
    """Return [sum of sizes, count] of layer ``layer``'s output at the batch's prompt tokens (float64), for :func:`unit`.

    A token's size is the logarithm of its vector's RMS. Add over batches and workers.
    """
    if batch.rows == 0:
        return torch.zeros(2, dtype=torch.float64, device=batch.prompt_ids.device)
    hidden = decoder.hidden(layer, batch.prompt_ids, batch.prompt_mask)[batch.prompt_mask].double()
    squares = hidden.square().mean(dim=-1)
    squares = squares[squares != 0]
    return torch.stack([0.5 * squares.log().sum(), torch.tensor(float(squares.numel()), device=squares.device).double()])


def unit(total: float, count: float) -> float:
    """Return what δ is measured in: the RMS of an ordinary token's hidden state, by the geometric mean over tokens.

    Not by the RMS over all tokens: in large models the first one alone can hold activations a thousand times larger
    (arXiv 2402.17762), and δ's steps and bound would be several times what the other tokens bear.
    """
    return math.exp(total / count) if count else 0.0


def unit_after(decoder: Decoder, batches: Sequence[DefenseBatch], layer: int, reduce: Callable[[Tensor], Tensor]) -> float:
    """Return δ's unit after layer ``layer`` over all workers' ``batches``; ``reduce`` adds a tensor over the workers."""
    nothing = torch.zeros(2, dtype=torch.float64, device=decoder.device)
    return unit(*reduce(sum((sizes_after(decoder, batch, layer) for batch in batches), start=nothing)).tolist())


@torch.no_grad()
def mean_gap(
    decoder: Decoder, perturbation: Perturbation, batches: list[DefenseBatch], reduce: Callable[[Tensor], Tensor]
) -> float:
    """Return the global mean of CE(y_h) - CE(y_s), in nats, under ``perturbation``."""
    objective = PlainObjective(decoder, batches)
    total = torch.zeros(1, dtype=torch.float64, device=decoder.device)
    for number, batch in enumerate(batches):
        if batch.rows:
            unwanted, safe = objective.losses(perturbation, number)
            total += (unwanted - safe).double().sum() / batch.global_rows
    return float(reduce(total))
