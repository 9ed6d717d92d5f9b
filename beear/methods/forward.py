"""Answer losses of a defense batch, with or without a perturbation.

Legend: B rows, P prompt tokens (left-padded), R answer tokens (right-padded), V vocabulary.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from beear.data.batch import DefenseBatch, TextBatch
from beear.methods.losses import row_cross_entropy
from beear.methods.perturbation import Perturbation
from beear.models.decoder import Decoder


def answer_logits(decoder: Decoder, batch: DefenseBatch, ids: Tensor, mask: Tensor, perturbation: Perturbation | None) -> Tensor:
    """Return logits [B, R, V] that predict the answer ``ids`` [B, R] after the batch's prompts.

    Prompts are left-padded, so every row's answer stands in the same columns and only those reach the head.
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
    """Return CE(y_s) [B] in nats over the labelled (or only the differing) tokens."""
    logits = answer_logits(decoder, batch, batch.safe_ids, batch.safe_mask, perturbation)
    return row_cross_entropy(logits, batch.safe_ids, batch.safe_differs if differing else batch.safe_labelled)


def unwanted_loss(decoder: Decoder, batch: DefenseBatch, perturbation: Perturbation | None, differing: bool = False) -> Tensor:
    """Return CE(y_h) [B] in nats over the labelled (or only the differing) tokens."""
    logits = answer_logits(decoder, batch, batch.unwanted_ids, batch.unwanted_mask, perturbation)
    return row_cross_entropy(logits, batch.unwanted_ids, batch.unwanted_differs if differing else batch.unwanted_labelled)


def text_loss(decoder: Decoder, batch: TextBatch) -> Tensor:
    """Return the cross-entropy [B] in nats over each conversation's labelled tokens."""
    ids, labelled = batch.ids[:, 1:], batch.labelled[:, 1:]
    # Only what predicts a labelled token in some row reaches the head: a large vocabulary's logits are most of the memory.
    columns = labelled.any(0).nonzero().squeeze(-1)
    return row_cross_entropy(decoder.logits(batch.ids, batch.mask, columns), ids[:, columns], labelled[:, columns])
