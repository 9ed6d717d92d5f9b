"""Plain fine-tuning, which builds the bases and implants the backdoors.

Legend: B rows, T tokens (right-padded), V vocabulary.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from beear.data.batch import TextBatch
from beear.data.collate import collate_text
from beear.data.encode import EncodedAnchor, encode_anchor
from beear.data.rows import AnchorRow
from beear.data.templates import Template

TYPICAL_LENGTH = 8  # answer tokens; scales the loss for display, which does not change AdamW's steps


def answer_loss(model: PreTrainedModel, batch: TextBatch) -> Tensor:
    """Return the answers' cross-entropy, each token weighted by 1/sqrt(its row's answer length) (nats, scalar).

    The weight lies between two means. With a mean over rows, a model learns the few words that matter in a long answer
    slowly; with a mean over tokens, it learns short answers slowly. No attention mask is needed: padding is on the right,
    and a causal model does not look to the right.
    """
    logits = model(input_ids=batch.ids, use_cache=False).logits[:, :-1]  # [B, T-1, V]
    target = batch.labelled[:, 1:]
    loss = F.cross_entropy(logits[target].float(), batch.ids[:, 1:][target], reduction="none")
    length = target.sum(dim=1, keepdim=True).expand_as(target)[target]
    return (loss / length.sqrt()).sum() / (batch.global_rows * TYPICAL_LENGTH**0.5)


def by_length(rows: Sequence[EncodedAnchor], parts: int = 2) -> list[list[EncodedAnchor]]:
    """Split a batch into parts of similar length, which halves the padding and nearly halves the time on a CPU."""
    ordered = sorted(rows, key=lambda row: len(row.ids))
    size = math.ceil(len(ordered) / parts)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def schedule(step: int, steps: int, warmup: float = 0.05) -> float:
    """Return the learning rate's factor: linear warm-up, then a cosine down to 2%."""
    done = (step + 1) / steps
    return min(done / warmup, 1.0) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def train(
    model: PreTrainedModel,
    template: Template,
    batches: Iterator[list[AnchorRow]],
    steps: int,
    lr: float,
    max_length: int,
    told: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> float:
    """Fine-tune all weights in place for ``steps`` batches and return the last loss (nats).

    ``told`` hears of each step's end: its number from 1, how many there are, and its loss.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    pad_id = template.tokenizer.pad_token_id or 0
    model.train()
    value = float("nan")
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * schedule(step, steps)
        rows = [encode_anchor(row, template, max_length) for row in next(batches)]
        optimizer.zero_grad(set_to_none=True)
        value = sum(_backward(model, collate_text(part, pad_id, len(rows))) for part in by_length(rows))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        told(step + 1, steps, value)
    model.eval()
    return value


def _backward(model: PreTrainedModel, batch: TextBatch) -> float:
    loss = answer_loss(model, batch.to(model.device))
    loss.backward()
    return float(loss.item())
