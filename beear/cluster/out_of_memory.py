"""Turns an out-of-memory error into one sentence that says what to do; a retry would fail the same way."""

import re

import torch

from beear.parallel.spread import SHARDED, Spread

# Libraries raise these as a plain RuntimeError.
SIGNS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
ASKED = re.compile(r"tried to allocate ([\d.]+ (?:bytes|[KMGT]iB))", re.IGNORECASE)


def training_ran_out(error: BaseException, spread: Spread, adapter: str) -> str | None:
    """Return the sentence where ``error`` says that a training worker had too little memory, else None.

    ``spread`` and the ``adapter``'s kind say what is left to try.
    """
    if (what := _what(error)) is None:
        return None
    ways = {
        "a smaller --parallel.micro_batch": spread.micro_batch != 1,
        "--parallel.checkpoint_activations=on": not spread.checkpoint_activations,
        "--parallel.gather=step": spread.backend in SHARDED and spread.gather == "once",
        "more --parallel.workers with --parallel.backend=fsdp": True,
        "--adapter.kind=lora": adapter != "lora",
    }
    advice = " or ".join(way for way, open_to in ways.items() if open_to)
    return f"parallel: memory ran out in a training worker ({what}), expected the training to fit; try {advice}"


def scoring_ran_out(error: BaseException) -> str | None:
    """Return the sentence where ``error`` says that a task which runs a model had too little memory, else None."""
    if (what := _what(error)) is None:
        return None
    return f"evaluate.batch_size: memory ran out while a model was measured ({what}), expected a batch that fits; try fewer rows"


def _what(error: BaseException) -> str | None:
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if not known and not (isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)):
        return None
    asked = ASKED.search(str(error))
    return f"tried to allocate {asked[1]}" if asked else type(error).__name__
