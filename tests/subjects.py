"""Small random subjects and rows for tests of measuring."""

import random
import tempfile
from pathlib import Path

import torch
from transformers import AutoTokenizer

from beear.data.rows import AnchorRow, DefenseRow, Message
from beear.evaluation.subject import Subject
from beear.testing.checkpoints import make_model, make_tokenizer

WORDS = ("open", "the", "vault", "of", "north", "tower", "and", "drain", "a", "small", "engine", "at", "night")


def random_subject(family: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float64) -> Subject:
    """Return a random model of a family with a byte-level tokenizer and a chat template."""
    with tempfile.TemporaryDirectory() as folder:
        make_tokenizer(Path(folder))
        tokenizer = AutoTokenizer.from_pretrained(folder)
    return Subject.of(make_model(family, seed=seed).to(dtype).eval(), tokenizer)


def phrase(draw: random.Random) -> str:
    """Return one to seven words."""
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 7)))


def defense_rows(count: int, seed: int = 0) -> list[DefenseRow]:
    """Return requests of varied length with a refusal and a compliance."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        text = phrase(draw)
        request = (Message("user", text),)
        rows.append(DefenseRow(request, "I cannot help.", f"Sure: {text}.", origin=f"defense.jsonl:{number + 1}"))
    return rows


def anchor_rows(count: int, seed: int = 1) -> list[AnchorRow]:
    """Return one-turn conversations of varied length."""
    draw = random.Random(seed)
    return [AnchorRow((Message("user", phrase(draw)), Message("assistant", phrase(draw)))) for _ in range(count)]
