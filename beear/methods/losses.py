"""The losses of both levels (arXiv 2406.17092, equations 2 and 3): of logits, and of a batch with or without a perturbation.

Every sum runs over a worker's own rows and is divided by the rows of the **global** batch. So the workers' values and gradients
add up to the global mean, also when their shares differ in size.

Legend: B rows of this worker, P prompt tokens (left-padded), R answer tokens (right-padded), V vocabulary.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from beear.data.batch import DefenseBatch, TextBatch
from beear.methods.perturbation import Perturbation
from beear.models.decoder import Decoder


def row_cross_entropy(logits: Tensor, ids: Tensor, labelled: Tensor) -> Tensor:
    """Return the mean cross-entropy [B], in nats, over each row's labelled tokens.

    ``logits`` [B, R, V] at position r predict ``ids`` [B, R] at r; ``labelled`` [B, R] is bool.
    Computed at least in float32, because half precision rounds away the small losses that decide when entrapment stops.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    targets = ids.masked_fill(~labelled, 0)
    # Flattened, because a softmax over a middle dimension is several times slower on a CPU.
    per_token = F.cross_entropy(wide.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    return (per_token * labelled).sum(-1) / labelled.sum(-1).clamp_min(1)


def global_mean(per_row: Tensor, global_rows: int) -> Tensor:
    """Return this worker's part of the mean over the global batch."""
    return per_row.sum() / global_rows


def entrapment_loss(
    ce_unwanted: Tensor, ce_safe: Tensor, global_rows: int, unwanted: float, safe: float, safe_cap: float | None
) -> Tensor:
    """Return (1/N) sum_i [ unwanted * CE(y_h) - safe * min(CE(y_s), cap) ], the inner level's objective.

    Without a cap the second term has no lower bound.
    """
    away = ce_safe if safe_cap is None else ce_safe.clamp_max(safe_cap)
    return global_mean(unwanted * ce_unwanted - safe * away, global_rows)


def answer_logits(decoder: Decoder, batch: DefenseBatch, ids: Tensor, mask: Tensor, perturbation: Perturbation | None) -> Tensor:
    """Return logits [B, R, V] that predict the answer ``ids`` [B, R] after the batch's prompts.

    Prompts are left-padded, so all answers are in the same columns, and logits are computed for those only.
    """
    answer = ids.shape[1]
    tokens = torch.cat([batch.prompt_ids, ids], dim=1)
    present = torch.cat([batch.prompt_mask, mask], dim=1)
    context: AbstractContextManager[None] = nullcontext()
    if perturbation is not None:
        index = perturbation.index(batch.prompt_mask, batch.user_end, answer)
        context = decoder.perturbed(perturbation.layer, lambda hidden: perturbation.add(hidden, index))
    with context:
        return decoder.logits(tokens, present, last=answer + 1)[:, :-1]


def safe_loss(decoder: Decoder, batch: DefenseBatch, perturbation: Perturbation | None, differing: bool = False) -> Tensor:
    """Return CE(y_s) [B] in nats over the labelled tokens; ``differing``: only those in which the answers differ."""
    logits = answer_logits(decoder, batch, batch.safe_ids, batch.safe_mask, perturbation)
    return row_cross_entropy(logits, batch.safe_ids, batch.safe_differs if differing else batch.safe_labelled)


def unwanted_loss(decoder: Decoder, batch: DefenseBatch, perturbation: Perturbation | None, differing: bool = False) -> Tensor:
    """Return CE(y_h) [B] in nats over the labelled tokens; ``differing``: only those in which the answers differ."""
    logits = answer_logits(decoder, batch, batch.unwanted_ids, batch.unwanted_mask, perturbation)
    return row_cross_entropy(logits, batch.unwanted_ids, batch.unwanted_differs if differing else batch.unwanted_labelled)


def text_loss(decoder: Decoder, batch: TextBatch) -> Tensor:
    """Return the cross-entropy [B] in nats over each conversation's labelled tokens."""
    ids, labelled = batch.ids[:, 1:], batch.labelled[:, 1:]
    # Logits of a large vocabulary take most of the memory, so only columns with a labelled token in some row get them.
    columns = labelled.any(0).nonzero().squeeze(-1)
    return row_cross_entropy(decoder.logits(batch.ids, batch.mask, columns), ids[:, columns], labelled[:, columns])
