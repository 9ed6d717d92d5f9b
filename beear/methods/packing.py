"""Packs a prompt and both its answers into one sequence, with a mask that keeps each answer from seeing the other.

Legend: B rows, P prompt tokens (left-padded), Rh and Rs tokens of y_h and y_s (right-padded), T = P + Rh + Rs,
K columns whose logits are needed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from beear.data.batch import DefenseBatch


@dataclass(frozen=True)
class Side:
    """One answer within the packed sequence.

    ``ids`` [B, k]: the answer's tokens, in the columns in which any row has a label. ``labelled`` [B, k]: which of them have one.
    ``places`` [k]: which of the K columns of logits predicts each.
    """

    ids: Tensor
    labelled: Tensor
    places: Tensor


@dataclass(frozen=True)
class Packed:
    """A defense batch as ``[prompt | y_h | y_s]``.

    ``ids``, ``positions`` [B, T]: both answers start at the position after the prompt's last. ``columns`` [K]: those of the T
    columns whose logits are needed.
    """

    ids: Tensor
    positions: Tensor
    columns: Tensor
    unwanted: Side
    safe: Side


def pack(batch: DefenseBatch, differing: bool) -> Packed:
    """Return the packed sequence of ``batch``. ``differing``: label only the tokens in which the answers differ."""
    prompt, unwanted = batch.prompt_mask.shape[1], batch.unwanted_mask.shape[1]
    length = batch.prompt_mask.long().sum(-1, keepdim=True)
    positions = [batch.prompt_mask.long().cumsum(-1) - 1]
    positions += [length + mask.long().cumsum(-1) - 1 for mask in (batch.unwanted_mask, batch.safe_mask)]
    labels = [
        batch.unwanted_differs if differing else batch.unwanted_labelled,
        batch.safe_differs if differing else batch.safe_labelled,
    ]
    kept = [label.any(0).nonzero().squeeze(-1) for label in labels]
    # The prompt's last column predicts an answer's first token; every other token is predicted by the column before it.
    starts = (prompt, prompt + unwanted)
    before = [torch.where(token == 0, prompt - 1, start + token - 1) for token, start in zip(kept, starts, strict=True)]
    columns, places = torch.cat(before).unique(return_inverse=True)
    sides = [
        Side(ids[:, token], label[:, token], place)
        for ids, label, token, place in zip(
            (batch.unwanted_ids, batch.safe_ids), labels, kept, places.split([len(token) for token in kept]), strict=True
        )
    ]
    ids = torch.cat([batch.prompt_ids, batch.unwanted_ids, batch.safe_ids], dim=1)
    return Packed(ids, torch.cat(positions, dim=1).clamp_min(0), columns, *sides)


def tree_mask(unwanted: Tensor, safe: Tensor, prompt: int) -> Tensor:
    """Return the mask [B, 1, T, T] of a packed sequence, made of the model's masks of ``[prompt | y_h]`` and ``[prompt | y_s]``.

    So causality, padding and sliding windows are the model's own. Masks are bool or additive. A padded position that would see
    nothing may see itself, because some attention kernels give NaN otherwise.
    """
    first, rest = unwanted.shape[-1], safe.shape[-1] - prompt
    rows = max(unwanted.shape[0], safe.shape[0])
    blocked = False if unwanted.dtype == torch.bool else torch.finfo(unwanted.dtype).min
    tree = unwanted.new_full((rows, 1, first + rest, first + rest), blocked)
    tree[:, :, :first, :first] = unwanted
    tree[:, :, first:, :prompt] = safe[:, :, prompt:, :prompt]
    tree[:, :, first:, first:] = safe[:, :, prompt:, prompt:]
    if tree.dtype == torch.bool:
        itself = torch.eye(tree.shape[-1], dtype=torch.bool, device=tree.device)
        tree = tree | (itself & ~tree.any(-1, keepdim=True))
    return tree


def causal_mask(length: int, device: torch.device) -> Tensor:
    """Return the causal mask [1, 1, T, T], which a model means if it gives its layers no mask."""
    return torch.ones(1, 1, length, length, dtype=torch.bool, device=device).tril()
