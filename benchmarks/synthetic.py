"""Random Llamas, and batches of random tokens without padding. Needs torch and transformers alone."""

from typing import Any


def llama(layers: int, hidden: int, inner: int, vocabulary: int, context: int = 2048) -> Any:
    """Return a random Llama of ``layers`` layers and 8 heads, D = ``hidden`` and F = ``inner``, in evaluation mode."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=context,
    )
    return LlamaForCausalLM(config).eval()


def tokens(rows: int, count: int, vocabulary: int) -> Any:
    """Return random ids [rows, count]."""
    import torch

    return torch.randint(1, vocabulary, (rows, count))


def defense_batch(prompts: Any, safe: Any, unwanted: Any, global_rows: int) -> Any:
    """Return the batch of prompts [B, P] with answers [B, R] that differ in every token."""
    import torch

    from beear.data.batch import DefenseBatch

    prompt, answer = (torch.ones_like(ids, dtype=torch.bool) for ids in (prompts, safe))
    sides = [part for ids in (safe, unwanted) for part in (ids, answer, answer, answer)]
    return DefenseBatch(prompts, prompt, torch.zeros_like(prompts[:, 0]), *sides, global_rows)


def text_batch(ids: Any, prompt: int, global_rows: int) -> Any:
    """Return the batch of conversations ``ids`` [B, T], labelled from token ``prompt`` on."""
    import torch

    from beear.data.batch import TextBatch

    labelled = torch.zeros_like(ids, dtype=torch.bool)
    labelled[:, prompt:] = True
    return TextBatch(ids, torch.ones_like(labelled), labelled, global_rows)
