"""Tensors of one batch.

Legend: B rows, P prompt tokens (left-padded, so the prompt's tail is the same columns in every row),
R answer tokens (right-padded), T whole-conversation tokens (right-padded).
"""

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor


@dataclass
class _Movable:
    def to(self, device: torch.device | str) -> Self:
        """Return the same batch with every tensor on ``device``."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **moved)

    def part(self, rows: slice | Tensor) -> Self:
        """Return the same batch with only ``rows`` of every tensor, without columns that then hold nothing but padding.

        ``global_rows`` stays the same.
        """
        held = {f.name: getattr(self, f.name)[rows] for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        for mask in [name for name in held if name.endswith("mask")]:
            # safe_mask also decides the columns of safe_ids, safe_labelled and safe_differs; a mask named "mask" those of all.
            columns = held[mask].any(0)
            for name in held:
                if held[name].dim() == 2 and name.startswith(mask.removesuffix("mask")):
                    held[name] = held[name][:, columns]
        return replace(self, **held)

    def lengths(self) -> list[tuple[int, ...]]:
        """Return the number of real tokens of each row in each part that is padded on its own.

        Unwanted answers are left out: removal does not train on them.
        """
        names = [f.name for f in fields(self) if f.name.endswith("mask") and f.name != "unwanted_mask"]
        return [tuple(row) for row in torch.stack([getattr(self, name).sum(-1) for name in names], dim=-1).tolist()]

    def shortest_first(self) -> Self:
        """Return the same batch, shortest rows first, so that a slice of its rows holds little padding."""
        return self.part(torch.tensor([sum(row) for row in self.lengths()]).argsort(stable=True))


@dataclass
class DefenseBatch(_Movable):
    """Requests with a safe and an unwanted answer each.

    ``*_ids`` are int64, ``*_mask`` bool (True: a real token), ``*_labelled`` bool (True: counts in the loss),
    ``*_differs`` bool (labelled and outside the answers' common start and end; all False only
    in a row that :func:`beear.data.encode.unlabelled` made).
    ``user_end`` [B] is the number of template tokens between the user text's end and the prompt's end.
    ``global_rows`` is the number of rows in the global batch, over which losses are averaged.
    """

    prompt_ids: Tensor  # [B, P]
    prompt_mask: Tensor  # [B, P]
    user_end: Tensor  # [B]
    safe_ids: Tensor  # [B, Rs]
    safe_mask: Tensor  # [B, Rs]
    safe_labelled: Tensor  # [B, Rs]
    safe_differs: Tensor  # [B, Rs]
    unwanted_ids: Tensor  # [B, Rh]
    unwanted_mask: Tensor  # [B, Rh]
    unwanted_labelled: Tensor  # [B, Rh]
    unwanted_differs: Tensor  # [B, Rh]
    global_rows: int

    @property
    def rows(self) -> int:
        """Rows held here (this worker's share of ``global_rows``)."""
        return self.prompt_ids.shape[0]


@dataclass
class TextBatch(_Movable):
    """Whole conversations; ``labelled`` marks the assistant tokens that count in the loss."""

    ids: Tensor  # [B, T]
    mask: Tensor  # [B, T]
    labelled: Tensor  # [B, T]
    global_rows: int

    @property
    def rows(self) -> int:
        """Rows held here (this worker's share of ``global_rows``)."""
        return self.ids.shape[0]


@dataclass
class OuterBatch:
    """One removal step: defense rows with the perturbation; conversations and clean defense requests without it."""

    defense: DefenseBatch
    anchor: TextBatch
