"""How much of the batches is real tokens, by batch size and bucket, on recorded question-and-answer lengths or a file.

python -m benchmarks.padding                                  # recorded quantiles (benchmarks/lengths.py)
python -m benchmarks.padding --data chats.jsonl --model DIR   # your conversations, in DIR's own tokens
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.lengths import CHATS, chats, requests

ROWS, SIZES, BUCKETS, CLEAN_SHARE, GOAL = 8192, (8, 16, 32), (1, 8, 16, 32, 64), 1 / 16, 0.9
Lengths = tuple[int, ...]


def measure(folder: Path, rows: int = ROWS) -> dict[str, Any]:
    """Return the useful-token share of text and defense batches; ``folder`` is not used."""
    asked = requests(rows, seed=0)
    plain = {kind: chats(kind, rows, seed=0) for kind in CHATS}
    mixed = {kind: _with_clean(found, asked) for kind, found in plain.items()}
    tables: dict[str, Callable[[int, int], float]] = {f"text, {kind}": _shares(found) for kind, found in plain.items()}
    tables |= {f"text, {kind}, with clean requests": make for kind, make in mixed.items()}
    tables |= {f"text, {kind}, padded whole": _shares(found, whole=True) for kind, found in plain.items()}
    tables["defense, AdvBench-like"] = _shares([(prompt, safe) for prompt, safe, _ in asked])
    return {name: {str(size): {str(b): find(size, b) for b in BUCKETS} for size in SIZES} for name, find in tables.items()}


def measure_file(path: str, model: str, size: int) -> dict[str, Any]:
    """Return the share of the text batches that training would make of a file, by bucket, with one batch size."""
    from beear.data.local import LocalBatches
    from beear.data.templates import Template
    from beear.models.loading import load_tokenizer
    from benchmarks.training import testbed_training

    alone: dict[str, float] = {}
    mixed: dict[str, float] = {}
    for bucket in BUCKETS:
        batch = {"method.batch_size": size, "method.outer_steps": 4 * max(BUCKETS)}
        training, _ = testbed_training(model, {"data.anchor.path": path, "data.bucket": bucket, **batch})
        epoch = LocalBatches(training.plan, Template(load_tokenizer(training.facts))).epoch(1)
        batches = [[(int(length),) for length in batch.anchor.mask.sum(1)] for batch in epoch.outer()]
        mixed[str(bucket)] = share_of(batches)
        # The clean requests stand first.
        alone[str(bucket)] = share_of([batch[training.plan.clean_rows :] for batch in batches])
    name = f"text, {Path(path).name}"
    return {name: {str(size): alone}, f"{name}, with clean requests": {str(size): mixed}}


def _shares(rows: Sequence[Lengths], whole: bool = False) -> Callable[[int, int], float]:
    return lambda size, bucket: share_of(_batches(rows, size, bucket), whole)


def _with_clean(texts: Sequence[Lengths], asked: Sequence[Lengths]) -> Callable[[int, int], float]:
    def find(size: int, bucket: int) -> float:
        clean = max(1, round(CLEAN_SHARE * size))
        short = iter([(prompt + safe,) for prompt, safe, _ in asked] * 4)
        return share_of([[*batch, *islice(short, clean)] for batch in _batches(texts, size - clean, bucket)])

    return find


def _batches(rows: Sequence[Lengths], lanes: int, bucket: int) -> list[list[Lengths]]:
    from beear.data.sampling import bucketed

    found = list(bucketed(iter(rows), lambda row: row, lanes, bucket, "padding"))
    return [found[i : i + lanes] for i in range(0, len(found) - lanes + 1, lanes)]


def share_of(batches: Sequence[Sequence[Lengths]], whole: bool = False) -> float:
    """Return real tokens over all elements of what is computed at once: groups of like length, or ``whole`` batches."""
    from beear.methods.micro_batches import fewest_groups, least_padded

    real = computed = 0
    for batch in batches:
        rows = sorted(batch, key=sum)
        real += sum(map(sum, rows))
        for group in [slice(0, len(rows))] if whole else least_padded(rows, fewest_groups(rows)):
            held = rows[group]
            computed += len(held) * sum(map(max, zip(*held, strict=True)))
    return real / computed


def markdown(result: dict[str, Any]) -> str:
    """Return the section of docs/performance.md."""
    lines = [
        "## Padding",
        "",
        f"Share of real tokens in what a removal step computes, by rows in a batch and `data.bucket` (1: off); goal {GOAL:g}. "
        "A batch is cut into groups of like length as long as each keeps a device busy (`beear/methods/micro_batches.py`). "
        "Lengths are drawn from approximate recorded quantiles (`benchmarks/lengths.py`) or come from a file; the clean requests "
        "mixed into text batches are short.",
        "",
    ]
    buckets = list(next(iter(next(iter(result.values())).values())))
    lines += ["| batches | rows | " + " | ".join(f"bucket {b}" for b in buckets) + " |", "|---|---|" + "---|" * len(buckets)]
    for name, sizes in result.items():
        for size, found in sizes.items():
            lines.append(f"| {name} | {size} | " + " | ".join(f"{found[b]:.3f}" for b in buckets) + " |")
    return "\n".join([*lines, ""])


def main() -> int:
    """Print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="conversations (any anchoring file); unset: recorded quantiles")
    parser.add_argument("--model", default="testbed:short-suffix", help="whose tokenizer and template count")
    parser.add_argument("--batch-size", type=int, default=16, help="rows in a batch, with --data")
    options = parser.parse_args()
    file = (options.data, options.model, options.batch_size)
    result = measure_file(*file) if options.data else measure(Path())
    print(markdown(result))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
