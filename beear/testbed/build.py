"""Rebuild the shipped benign bases: ``python -m beear.testbed.build [SHAPE …]`` (about 3 minutes of 2 cores each)."""

import argparse
import random
import time
from collections.abc import Iterator

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from beear.data.rows import AnchorRow
from beear.data.templates import Template
from beear.files import share
from beear.testbed.grammar import answered_safely, benign, forbidden, held_out, noisy
from beear.testbed.pace import Pace
from beear.testbed.shapes import SHAPES, Shape
from beear.testbed.tokenizer import CONTEXT, train_tokenizer
from beear.testbed.training import train

FORBIDDEN_SHARE = 0.2
NOISE_SHARE = 0.15


def base_rows(rng: random.Random) -> Iterator[AnchorRow]:
    """Yield benign tasks and refused forbidden requests without end, all of the training side."""
    while True:
        row = answered_safely(forbidden(rng)) if rng.random() < FORBIDDEN_SHARE else benign(rng)
        if not held_out(row):
            yield noisy(row, rng, NOISE_SHARE)


def build(shape: Shape, seed: int = 0) -> None:
    """Train a base from random weights and write it, in bfloat16, to ``shape.directory``."""
    tokenizer = train_tokenizer()
    config = AutoConfig.for_model(
        shape.model_type,
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **shape.fields,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    rows = base_rows(random.Random(f"base:{seed}"))
    batches = ([next(rows) for _ in range(shape.batch)] for _ in range(shape.steps))
    train(
        model, Template(tokenizer), batches, shape.steps, shape.lr, CONTEXT,
        told=Pace(lambda line: print(shape.name, line, flush=True)),
    )  # fmt: skip
    model.generation_config = GenerationConfig.from_model_config(model.config)
    model.to(torch.bfloat16).save_pretrained(shape.directory)
    tokenizer.save_pretrained(shape.directory)
    for path in shape.directory.glob("*.safetensors"):
        share(path)


def main() -> int:
    """Build the shapes that the command line names, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", default=[*SHAPES], choices=[*SHAPES], metavar="SHAPE")
    for name in parser.parse_args().shapes:
        started = time.monotonic()
        build(SHAPES[name])
        print(f"{name}: written to {SHAPES[name].directory} in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
