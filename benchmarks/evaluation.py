"""Tokens per second of batched completions, beside one prompt at a time by the same code and by transformers.

    python -m benchmarks.evaluation                # the built-in model and a random 16-layer, D=512 Llama; minutes
    python -m benchmarks.evaluation --pairs 1 --prompts 32 --tokens 4 --layers 2   # only to see that it runs

Medians of interleaved rounds, each timing the three ways in turn. The built-in model ends its completions as it does in
a measurement. The random one never ends by itself, writes for a quarter of the prompts, and shows a limit: its prompts
take as many operations one at a time as together, so only the new tokens gain.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import synthetic

PAIRS, PROMPTS, TOKENS, LAYERS, GOAL = 7, 512, 32, 16, 8.0
# One at a time is timed on every SAMPLE-th prompt: its speed does not depend on how many there are.
SAMPLE = 8
BUILT_IN = "built-in model"
WAYS = {"batched": "batched", "alone": "one at a time", "transformers": "one at a time, transformers' generate"}


def measure(
    folder: Path, pairs: int = PAIRS, prompts: int = PROMPTS, tokens: int = TOKENS, layers: int = LAYERS
) -> dict[str, Any]:
    """Time the ways on both models; ``folder`` is not used."""
    import torch

    torch.set_num_threads(1)
    subjects = {BUILT_IN: _built_in(prompts), f"random Llama, {layers} layers, D=512": _random(prompts // 4, layers)}
    found = {name: _timed(subject, asked, tokens, pairs) for name, (subject, asked) in subjects.items()}
    return {"prompts": prompts, "tokens": tokens, "pairs": pairs, "threads": torch.get_num_threads(), "models": found}


def _built_in(count: int) -> tuple[Any, list[list[int]]]:
    """Return the built-in backdoored model with prompts of its own report rows."""
    from beear.cluster.scoring import subject_of
    from beear.data.rows import DefenseRow
    from benchmarks.training import testbed_training

    training, data = testbed_training("testbed:short-suffix")
    subject = subject_of(training.config, training.facts)
    rows = [*data.report, *data.anchor_report]
    requests = [row.messages if isinstance(row, DefenseRow) else row.messages[:-1] for row in rows]
    return subject, [subject.template.prompt_ids(request) for request in requests[:count]]


def _random(count: int, layers: int) -> tuple[Any, list[list[int]]]:
    """Return a random Llama, as large as a small real one, with prompts of 16 to 64 tokens."""
    import random
    from dataclasses import replace

    subject, _ = _built_in(0)
    draw = random.Random(0)
    asked = [[draw.randrange(6, 8192) for _ in range(draw.randint(16, 64))] for _ in range(count)]
    return replace(subject, model=synthetic.llama(layers, 512, 1536, 8192), stop=frozenset()), asked


def _timed(subject: Any, asked: Sequence[Sequence[int]], tokens: int, pairs: int) -> dict[str, Any]:
    from beear.evaluation.generate import generate_ids

    ways: dict[str, Callable[[], list[list[int]]]] = {
        "batched": lambda: generate_ids(subject, asked, tokens, max(1, len(asked) // 4)),
        "alone": lambda: generate_ids(subject, asked[::SAMPLE], tokens, 1),
        "transformers": lambda: [_by_transformers(subject, ids, tokens) for ids in asked[::SAMPLE]],
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    written: dict[str, list[list[int]]] = {}
    for _ in range(pairs):
        for name, way in ways.items():
            started = time.perf_counter()
            written[name] = way()
            speeds[name].append(sum(map(len, written[name])) / (time.perf_counter() - started))
    gains = {name: [a / b for a, b in zip(speeds["batched"], speeds[name], strict=True)] for name in list(ways)[1:]}
    return {
        "speed": {name: _spread(values) for name, values in speeds.items()},
        "gain": {name: _spread(values) for name, values in gains.items()},
        # Near-ties between two tokens may fall either way, since a batch's sums are rounded otherwise.
        "equal": {name: _equal(written["batched"][::SAMPLE], written[name]) for name in gains},
    }


def _equal(some: list[list[int]], others: list[list[int]]) -> float:
    return sum(one == other for one, other in zip(some, others, strict=True)) / len(others)


def _by_transformers(subject: Any, ids: Sequence[int], tokens: int) -> list[int]:
    import torch

    given = torch.tensor([list(ids)])
    ends = sorted(subject.stop) or None
    out = subject.model.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=tokens, do_sample=False, eos_token_id=ends, pad_token_id=0
    )
    new = out[0, len(ids) :].tolist()
    return new[:-1] if new and new[-1] in subject.stop else new


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def markdown(result: dict[str, Any]) -> str:
    """Return the section of docs/performance.md."""
    lines = [
        "## Batched evaluation",
        "",
        f"Greedy completions of {result['prompts']} prompts (a quarter for the larger model) in four batches, at most "
        f"{result['tokens']} new tokens each, float32, {result['threads']} thread: tokens per second, median of "
        f"{result['pairs']} interleaved rounds (least to most); one at a time on every {SAMPLE}th prompt. Goal: batched at "
        f"least {GOAL:g} times one at a time, on the built-in model. On the larger one the prompts bound the gain: they take "
        "as many operations one at a time as together.",
        "",
        "| model | way | tokens/s | batched is faster by | same completions |",
        "|---|---|---|---|---|",
    ]
    for model, found in result["models"].items():
        for way, title in WAYS.items():
            gain, equal = found["gain"].get(way), found["equal"].get(way)
            last = f"{_shown(gain, '.1f')} × | {equal:.1%}" if gain else " | "
            lines.append(f"| {model} | {title} | {_shown(found['speed'][way], '.0f')} | {last} |")
    return "\n".join([*lines, ""])


def _shown(found: dict[str, float], form: str) -> str:
    return f"{found['median']:{form}} ({found['low']:{form}} to {found['high']:{form}})"


def main() -> int:
    """Print the table and one line of JSON; return 1 where the goal is missed on the built-in model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("pairs", PAIRS), ("prompts", PROMPTS), ("tokens", TOKENS), ("layers", LAYERS)):
        parser.add_argument(f"--{name}", type=int, default=default)
    result = measure(Path(), **vars(parser.parse_args()))
    print(markdown(result))
    print(json.dumps(result))
    return 0 if result["models"][BUILT_IN]["gain"]["alone"]["median"] >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
