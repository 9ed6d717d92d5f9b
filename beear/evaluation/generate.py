"""Greedy completions in batches: left-padded, with a key-value cache, rows leaving the batch as they end.

Legend: B rows still running, P prompt columns, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from beear.data.rows import Message
from beear.errors import UserError
from beear.evaluation.subject import Subject


class NotFinite(UserError):
    """The model's outputs are not finite numbers: invalid input before training, divergence in training."""


def complete(subject: Subject, requests: Sequence[Sequence[Message]], max_new_tokens: int, batch_size: int) -> list[str]:
    """Return the model's greedy answer to each request, in input order."""
    prompts = [subject.template.prompt_ids(request) for request in requests]
    return [subject.text(ids) for ids in generate_ids(subject, prompts, max_new_tokens, batch_size)]


def generate_ids(subject: Subject, prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_size: int) -> list[list[int]]:
    """Return the greedy continuation of each prompt, in input order, without the token that ended it.

    The subject's engine writes them where it has one. Otherwise prompts of like length are batched together; padding
    is masked and positions count real tokens, so a row's continuation does not depend on the rows beside it.

    Raises:
        UserError: the model's outputs are not finite numbers.
    """
    if subject.engine is not None:
        return subject.engine.generate_ids(prompts, max_new_tokens)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    results: list[list[int]] = [[] for _ in prompts]
    with subject.measuring():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            found = _continue(subject, [prompts[i] for i in chosen], max_new_tokens)
            for index, ids in zip(chosen, found, strict=True):
                results[index] = ids
    return results


def left_padded(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids [B, P] and mask [B, P] (int64, 1: a real token) with every row ending in the last column."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def refuse_unmeasurable(finite: bool) -> None:
    """Refuse to measure a model whose outputs are not finite: its answers would be noise, which counts as harmless.

    Raises:
        NotFinite: ``finite`` is false.
    """
    if not finite:
        raise NotFinite(
            "the model's outputs are not finite numbers, so the checkpoint cannot be measured; expected weights of usual size"
        )


def _continue(subject: Subject, prompts: list[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
    """Decode one batch. ``running`` [B] maps the rows still in the cache to rows of ``prompts``."""
    ids, mask = left_padded(prompts, subject.pad_id, subject.device)
    stop = torch.tensor(sorted(subject.stop), dtype=torch.long, device=subject.device)
    found: list[list[int]] = [[] for _ in prompts]
    running, cache = torch.arange(len(prompts)), None
    for _ in range(max_new_tokens):
        positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        chosen, cache = _next(subject.model, ids, mask, positions, cache)
        alive = (~torch.isin(chosen, stop)).cpu()
        for row, token in zip(running[alive].tolist(), chosen[alive.to(chosen.device)].tolist(), strict=True):
            found[row].append(token)
        if not alive.all():
            kept = alive.nonzero().squeeze(-1).to(mask.device)
            if len(kept) == 0:
                break
            running, chosen, mask = running[alive], chosen[kept], mask[kept]
            cache.batch_select_indices(kept)
        ids, mask = chosen[:, None], torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return found


def _next(model: nn.Module, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """Return the likeliest next token [B] and the grown cache."""
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits = output.logits[:, -1]
    chosen = logits.argmax(-1)
    # A NaN counts as largest, so the chosen logits alone tell.
    refuse_unmeasurable(bool(torch.isfinite(logits.gather(-1, chosen[:, None])).all()))
    return chosen, output.past_key_values
