"""Tiny random models and batches (token ids, no tokenizer) to test the numeric core with; float64 where values are compared."""

import random

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from beear.data.batch import DefenseBatch, TextBatch

VOCABULARY = 61


def tiny_llama(layers: int = 4, tied: bool = True, seed: int = 0, dtype: torch.dtype = torch.float64) -> LlamaForCausalLM:
    """Return a random Llama in evaluation mode, D = 16."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config)
    nn.Module.to(model, dtype)
    return model.eval()


def pad(rows: list[list[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask of ragged rows."""
    width = max(map(len, rows))
    ids = [[0] * (width - len(r)) + r if left else r + [0] * (width - len(r)) for r in rows]
    mask = [[False] * (width - len(r)) + [True] * len(r) if left else [True] * len(r) + [False] * (width - len(r)) for r in rows]
    return torch.tensor(ids), torch.tensor(mask)


def defense_rows(count: int, seed: int = 0) -> list[tuple[list[int], list[int], list[int]]]:
    """Return ``count`` ragged (prompt, safe, unwanted) rows of token ids."""
    draw = random.Random(seed)

    def tokens(low: int, high: int) -> list[int]:
        return [draw.randrange(1, VOCABULARY) for _ in range(draw.randint(low, high))]

    return [(tokens(6, 11), tokens(2, 5), tokens(3, 7)) for _ in range(count)]


def defense_batch(rows: list[tuple[list[int], list[int], list[int]]], global_rows: int | None = None) -> DefenseBatch:
    """Collate rows; every answer token is labelled and counts as differing."""
    prompt_ids, prompt_mask = pad([r[0] for r in rows], left=True)
    safe_ids, safe = pad([r[1] for r in rows], left=False)
    unwanted_ids, unwanted = pad([r[2] for r in rows], left=False)
    user_end = torch.full((len(rows),), 2)
    return DefenseBatch(
        prompt_ids, prompt_mask, user_end, safe_ids, safe, safe, safe, unwanted_ids, unwanted, unwanted, unwanted,
        global_rows or len(rows),
    )  # fmt: skip


def text_batch(rows: list[tuple[list[int], list[int], list[int]]], global_rows: int | None = None) -> TextBatch:
    """Collate prompt + safe answer as conversations."""
    ids, mask = pad([r[0] + r[1] for r in rows], left=False)
    labelled, _ = pad([[0] * len(r[0]) + [1] * len(r[1]) for r in rows], left=False)
    return TextBatch(ids, mask, labelled.bool(), global_rows or len(rows))
