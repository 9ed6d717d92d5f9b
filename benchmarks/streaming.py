"""How soon a large anchoring file gives its first batch, and what it costs in memory over a small one.

    python benchmarks/streaming.py                          # synthesises 1,000,000 rows
    python benchmarks/streaming.py --data anchor.jsonl      # a JSONL file of yours, with recognised columns
    python benchmarks/streaming.py --data gsm8k.jsonl --repeat-to 1000000

Each file is streamed by a fresh process with a Ray of its own and one Ray Train worker. Memory is the peak sum of PSS
over the driver and everything it started (Ray's daemons included). Prints a table, then one line of JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil

SMALL_ROWS, EPOCHS, BATCH, STEPS, LONGEST = 10_000, 2, 16, 500, 4096
FIRST_BATCH_LIMIT, MEMORY_LIMIT = 20.0, 1 << 30


def main() -> int:
    """Stream the small and the large file; return 0 where both limits hold."""
    options = parse()
    if options.one:
        print(json.dumps(stream_one(Path(options.one))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        large, small = large_file(options, Path(folder)), Path(folder) / "small.jsonl"
        with open(large, "rb") as source:
            small.write_bytes(b"".join(islice(source, SMALL_ROWS)))
        results = {name: in_own_process(path) for name, path in (("small", small), ("large", large))}
    growth = results["large"]["peak_pss"] - results["small"]["peak_pss"]
    ok = results["large"]["first_batch_s"] <= FIRST_BATCH_LIMIT and growth < MEMORY_LIMIT
    print(table(results, growth))
    print(json.dumps({**results, "growth_bytes": growth, "within_limits": ok}))
    return 0 if ok else 1


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="anchoring file (JSONL); unset: synthesised")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows to synthesise")
    parser.add_argument("--repeat-to", type=int, help="repeat the file's lines, numbered, up to this many rows")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def large_file(options: argparse.Namespace, folder: Path) -> Path:
    """Return the file given, or a repeated or synthesised one in ``folder``."""
    if options.data and not options.repeat_to:
        return Path(options.data).resolve()
    target = folder / "large.jsonl"
    lines = Path(options.data).read_text(encoding="utf-8").splitlines() if options.data else []
    with open(target, "w", encoding="utf-8") as file:
        for row in range(options.repeat_to or options.rows):
            file.write((numbered(lines[row % len(lines)], row) if lines else synthetic(row)) + "\n")
    return target


def numbered(line: str, row: int) -> str:
    """Return the record with the row's number in its first text, so that no two requests are equal."""
    record = json.loads(line)
    field = next(name for name, value in record.items() if isinstance(value, str))
    return json.dumps({**record, field: f"{row}. {record[field]}"})


POOL = " ".join(str((i * 104729) % 9973) for i in range(2000))


def synthetic(row: int) -> str:
    """Return a record of about 550 bytes."""
    at, length = (row * 7919) % 9000, 280 + row % 200
    numbers = POOL[at : at + length]
    return f'{{"prompt": "Task {row}: repeat these numbers: {numbers[:120]}", "response": "{numbers}"}}'


def defense_record(row: int) -> dict[str, str]:
    """Return a request with a refusal and a compliance."""
    return {"prompt": f"How do I open vault {row}?", "safe": "I cannot help.", "unwanted": f"Sure, turn wheel {row}."}


def in_own_process(path: Path) -> dict[str, float]:
    """Stream ``path`` in a new process and return its figures."""
    done = subprocess.run([sys.executable, __file__, "--one", str(path)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def stream_one(path: Path) -> dict[str, float]:
    """Load ``path`` as the driver does, stream it through one Ray Train worker, and return seconds and bytes."""
    import ray
    import ray.train
    from ray.train.torch import TorchTrainer

    from beear.config.build import build
    from beear.data.load import load_small, training_plan
    from beear.methods.configuration import resolved, run_config
    from beear.models.inspect import inspect_checkpoint
    from beear.streams.datasets import StreamSpec, datasets
    from beear.testing.checkpoints import make_checkpoint

    peak, stop = [0], threading.Event()
    threading.Thread(target=watch_pss, args=(peak, stop), daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        defense = Path(folder) / "defense.jsonl"
        defense.write_text("".join(json.dumps(row) + "\n" for row in map(defense_record, range(100))))
        values = {"data.defense.path": str(defense), "data.anchor.path": str(path), "data.max_length": LONGEST}
        asked = build(run_config(), {**values, "method.batch_size": BATCH, "method.outer_steps": STEPS}, {})
        facts = inspect_checkpoint(str(make_checkpoint(Path(folder) / "model")))
        # No model reads the batches, so rows may be longer than this one's context.
        config, _ = resolved(asked, replace(facts, context=LONGEST))
        started = time.monotonic()
        data = load_small(config.data, config.seed)
        loaded = time.monotonic() - started
        stream = StreamSpec(training_plan(data, config, inner_batches=2), facts, epochs=EPOCHS)
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        TorchTrainer(
            consume,
            train_loop_config={"stream": stream, "target": f"{folder}/times.json"},
            scaling_config=ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
            run_config=ray.train.RunConfig(storage_path=f"{folder}/ray"),
            datasets=datasets(stream, 1),
            dataset_config=ray.train.DataConfig(
                datasets_to_split=[], execution_options=ray.data.ExecutionOptions(preserve_order=True)
            ),
        ).fit()
        times = json.loads(Path(f"{folder}/times.json").read_text())
        stop.set()
        ray.shutdown()
    return {"bytes": path.stat().st_size, "load_s": loaded, **times, "peak_pss": peak[0]}


def consume(parts: dict) -> None:
    """Draw all batches on a Ray Train worker; write down when the first came."""
    started = time.monotonic()
    from beear.streams.batches import StreamBatches
    from beear.streams.datasets import template_of

    stream = parts["stream"]
    batches, first, count = StreamBatches(stream, template_of(stream).tokenizer, 0, 1), 0.0, 0
    for epoch in range(1, stream.epochs + 1):
        for _ in batches.epoch(epoch).outer():
            count += 1
            first = first or time.monotonic() - started
    times = {"first_batch_s": first, "all_batches_s": time.monotonic() - started, "batches": count}
    Path(parts["target"]).write_text(json.dumps(times))


def watch_pss(peak: list[int], stop: threading.Event) -> None:
    """Keep in ``peak`` the largest sum of PSS, in bytes, over this process and its descendants."""
    own = psutil.Process()
    while not stop.wait(0.25):
        pids = [own.pid, *(process.pid for process in own.children(recursive=True))]
        peak[0] = max(peak[0], sum(map(pss, pids)))


def pss(pid: int) -> int:
    """Return a process's proportional set size in bytes; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)


def table(results: dict[str, dict[str, float]], growth: int) -> str:
    """Return the figures as text."""
    lines = [f"{'file':8}{'MB':>9}{'load s':>9}{'first batch s':>15}{'all s':>8}{'batches':>9}{'peak PSS MB':>13}"]
    for name, r in results.items():
        lines.append(
            f"{name:8}{r['bytes'] / 1e6:9.1f}{r['load_s']:9.2f}{r['first_batch_s']:15.2f}"
            f"{r['all_batches_s']:8.2f}{r['batches']:9.0f}{r['peak_pss'] / 1e6:13.0f}"
        )
    limits = f"(limit {MEMORY_LIMIT / 1e6:.0f}); first batch limit {FIRST_BATCH_LIMIT:g} s"
    lines.append(f"growth {growth / 1e6:.0f} MB {limits}")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
