"""The losses of both levels, as pure functions (arXiv 2406.17092, equations 2 and 3).

Legend: B rows held here, R answer tokens, V vocabulary. Every sum is over local rows divided by the rows of the
**global** batch, so adding up the workers' values (and gradients) gives the global mean, unequal shards included.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def row_cross_entropy(logits: Tensor, ids: Tensor, labelled: Tensor) -> Tensor:
    """Return the mean cross-entropy [B], in nats, over each row's labelled tokens.

    ``logits`` [B, R, V] at position r predict ``ids`` [B, R] at r; ``labelled`` [B, R] is bool.
    Computed in float32 at least: half precision loses the small losses that decide a crossing.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    targets = ids.masked_fill(~labelled, 0)
    # Flat: over a middle dimension the softmax is several times slower on a CPU.
    per_token = F.cross_entropy(wide.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    return (per_token * labelled).sum(-1) / labelled.sum(-1).clamp_min(1)


def global_mean(per_row: Tensor, global_rows: int) -> Tensor:
    """Return this worker's part of the mean over the global batch."""
    return per_row.sum() / global_rows


def entrapment_loss(
    ce_unwanted: Tensor, ce_safe: Tensor, global_rows: int, unwanted: float, safe: float, safe_cap: float | None
) -> Tensor:
    """Return (1/N) sum_i [ unwanted * CE(y_h) - safe * min(CE(y_s), cap) ], the inner level's objective.

    Without the cap the second term is unbounded below.
    """
    away = ce_safe if safe_cap is None else ce_safe.clamp_max(safe_cap)
    return global_mean(unwanted * ce_unwanted - safe * away, global_rows)
