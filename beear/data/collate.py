"""Encoded rows to padded tensors. A row's values do not depend on the other rows of its batch.

Legend: B rows, P prompt tokens (left-padded), R answer tokens (right-padded), T conversation tokens (right-padded).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from beear.data.batch import DefenseBatch, TextBatch
from beear.data.encode import EncodedAnchor, EncodedDefense


def collate_defense(encoded: Sequence[EncodedDefense], pad_id: int, global_rows: int) -> DefenseBatch:
    """Return this worker's rows as tensors; ``global_rows`` is the size of the global batch they belong to."""
    return DefenseBatch(
        prompt_ids=padded([e.prompt_ids for e in encoded], pad_id, left=True),
        prompt_mask=mask_of([e.prompt_ids for e in encoded], left=True),
        user_end=torch.tensor([e.user_end for e in encoded], dtype=torch.int64),
        safe_ids=padded([e.safe_ids for e in encoded], pad_id),
        safe_mask=mask_of([e.safe_ids for e in encoded]),
        safe_labelled=padded([e.safe_labelled for e in encoded], False),
        safe_differs=padded([e.safe_differs for e in encoded], False),
        unwanted_ids=padded([e.unwanted_ids for e in encoded], pad_id),
        unwanted_mask=mask_of([e.unwanted_ids for e in encoded]),
        unwanted_labelled=padded([e.unwanted_labelled for e in encoded], False),
        unwanted_differs=padded([e.unwanted_differs for e in encoded], False),
        global_rows=global_rows,
    )


def collate_text(encoded: Sequence[EncodedAnchor], pad_id: int, global_rows: int) -> TextBatch:
    """Return this worker's conversations as tensors."""
    return TextBatch(
        ids=padded([e.ids for e in encoded], pad_id),
        mask=mask_of([e.ids for e in encoded]),
        labelled=padded([e.labelled for e in encoded], False),
        global_rows=global_rows,
    )


def padded(rows: Sequence[Sequence[int]], fill: int | bool, left: bool = False) -> Tensor:
    """Return rows [B, longest], filled on the right (or left); int64, or bool where ``fill`` is a bool."""
    width = max(map(len, rows), default=0)
    dtype = torch.bool if isinstance(fill, bool) else torch.int64
    out = torch.full((len(rows), width), fill, dtype=dtype)
    for index, row in enumerate(rows):
        if row:
            first = width - len(row) if left else 0
            out[index, first : first + len(row)] = torch.tensor(row, dtype=dtype)
    return out


def mask_of(rows: Sequence[Sequence[int]], left: bool = False) -> Tensor:
    """Return a bool mask [B, longest], True at real tokens."""
    return padded([[True] * len(row) for row in rows], False, left)
