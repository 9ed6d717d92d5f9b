"""Training speed and peak tensor memory of every backend, on one worker and on two, beside one plain worker.

``make evidence PART=backends`` writes the table and the JSON. A worker has one thread. Each round lets one plain
worker, the backend's one worker and its two workers work in turn on the same global batches; ratios are within a round.
"""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import synthetic
from benchmarks.crew import Crew

# name: backend, ZeRO stage
BACKENDS = {
    "ddp": ("ddp", 3),
    "fsdp": ("fsdp", 3),
    "zero-1": ("deepspeed", 1),
    "zero-2": ("deepspeed", 2),
    "zero-3": ("deepspeed", 3),
}
LIMIT = 1.6


@dataclass(frozen=True)
class Load:
    """A Llama of ``layers`` layers, D = ``hidden``, and one epoch's work on B = ``rows`` rows a global batch."""

    layers: int = 6
    hidden: int = 384
    vocabulary: int = 2048
    rows: int = 32
    prompt: int = 64
    answer: int = 24
    inner_steps: int = 6
    outer_steps: int = 2
    rounds: int = 7

    @property
    def tokens(self) -> int:
        """Tokens of an epoch: prompt and both answers in each inner step; prompt and answer, twice, in each outer one."""
        inner = self.inner_steps * (self.prompt + 2 * self.answer)
        return self.rows * (inner + self.outer_steps * 2 * (self.prompt + self.answer))


def measure(folder: Path, load: Load | None = None, names: tuple[str, ...] = tuple(BACKENDS)) -> dict[str, Any]:
    """Return, by backend, the seconds of every round and the peak bytes of an epoch."""
    load = load or Load()
    found: dict[str, Any] = {}
    with Crew(1, build, "single", 3, load) as plain:
        for name in names:
            backend, stage = BACKENDS[name]
            with ExitStack() as stack:
                # Several plain workers are the one thing that ddp is; alone it is the plain worker.
                alone = plain if backend == "ddp" else stack.enter_context(Crew(1, build, backend, stage, load))
                two = stack.enter_context(Crew(2, build, backend, stage, load))
                crews = {"plain": plain, "one": alone, "two": two}
                rounds = [{way: max(crew.run("epoch")) for way, crew in crews.items()} for _ in range(load.rounds)]
                found[name] = {way: [seconds[way] for seconds in rounds] for way in crews}
    for name, peaks in measure_peaks(load, names).items():
        found[name]["peaks"] = peaks
        print(_line(name, found[name], load.tokens), flush=True)
    return {"load": {**vars(load), "tokens": load.tokens}, "backends": found}


def measure_peaks(load: Load, names: tuple[str, ...] = tuple(BACKENDS)) -> dict[str, dict[str, int]]:
    """Return, by backend, the most tensor bytes a worker holds, in processes of their own.

    One that has trained would give back during the watch what it held before, and a watched one allocates more slowly.
    """

    def peak(workers: int, backend: str, stage: int) -> int:
        with Crew(workers, build, backend, stage, load) as crew:
            return int(max(crew.run("peak")))

    plain, found = peak(1, "single", 3), {}
    for name in names:
        backend, stage = BACKENDS[name]
        alone = plain if backend == "ddp" else peak(1, backend, stage)
        found[name] = {"plain": plain, "one": alone, "two": peak(2, backend, stage)}
    return found


def build(rank: int, world: int, backend: str, stage: int, load: Load) -> dict[str, Any]:
    """Return a worker's work: ``epoch`` gives its seconds (the first call trains one before), ``peak`` its most tensor bytes."""
    from benchmarks.tensor_memory import Meter

    made: list[Any] = []

    def timed() -> float:
        if not made:
            made.append(_epoch(rank, world, backend, stage, load))
            made[0]()
        began = time.perf_counter()
        made[0]()
        return time.perf_counter() - began

    def peak() -> int:
        meter = Meter()
        # Only what is made while it watches counts, the weights included.
        with meter.watching() as span:
            epoch = _epoch(rank, world, backend, stage, load)
            with span("epoch"):
                epoch()
                epoch()
        return meter.peaks["epoch"]

    return {"epoch": timed, "peak": peak}


def _epoch(rank: int, world: int, backend: str, stage: int, load: Load) -> Any:
    from beear.config.resolve import ResolvedMethod
    from beear.data.batch import OuterBatch
    from beear.methods.base import MethodParts
    from beear.methods.beear import BeearSettings
    from beear.methods.bilevel import Bilevel
    from beear.models.decoder import Decoder
    from beear.parallel.base import Whole
    from beear.parallel.choose import choose
    from beear.parallel.spread import Spread

    whole = synthetic.llama(load.layers, load.hidden, load.hidden * 8 // 3 // 8 * 8, load.vocabulary)
    chosen = choose(Spread(backend, world, zero_stage=stage), "cpu")
    model = chosen.prepare(Whole(whole), lr=1e-4)
    settings = BeearSettings(layer=2, placement="suffix", inner_steps=load.inner_steps)
    training = ResolvedMethod(outer_lr=1e-4, batch_size=load.rows)
    method = Bilevel(MethodParts(Decoder(model), chosen, settings, training, seed=0, hidden_size=load.hidden))
    lengths = (load.prompt, load.answer, load.answer, load.prompt + load.answer)
    *sides, texts = (synthetic.tokens(load.rows, length, load.vocabulary)[rank::world] for length in lengths)
    defense = synthetic.defense_batch(*sides, load.rows)
    text = synthetic.text_batch(texts, load.prompt, load.rows)

    def epoch() -> None:
        method.begin_epoch([defense], cools=False)
        for _ in range(load.outer_steps):
            method.step(OuterBatch(defense, text))

    return epoch


def gains(found: dict[str, Any], workers: str) -> list[float]:
    """Return how many times the plain worker's tokens/s ``workers`` reach, round by round, in order of size."""
    return sorted(plain / mine for plain, mine in zip(found["plain"], found[workers], strict=True))


def _line(name: str, found: dict[str, Any], tokens: int) -> str:
    cells = [name]
    for workers in ("one", "two"):
        speed, gain = tokens / median(found[workers]), gains(found, workers)
        peak = found["peaks"][workers] / 2**20
        cells += [f"{speed:,.0f}", f"{median(gain):.2f} ({gain[0]:.2f}–{gain[-1]:.2f})", f"{peak:.0f}"]
    return "| " + " | ".join(cells) + " |"


def markdown(result: dict[str, Any]) -> str:
    """Return the section of docs/performance.md."""
    load = result["load"]
    plain = result["backends"][next(iter(result["backends"]))]
    return "\n".join(
        [
            "## Backends",
            "",
            f"Training (entrapment and removal) of a random Llama of {load['layers']} layers, D = {load['hidden']}, global "
            f"batches of {load['rows']} rows, {load['tokens']:,} tokens an epoch, float32, one thread a worker. × is the "
            f"tokens/s of one plain worker (`single`: {load['tokens'] / median(plain['plain']):,.0f} tokens/s, "
            f"{plain['peaks']['plain'] / 2**20:.0f} MiB), in the same round: median of {load['rounds']} rounds (least–most). "
            f"Peak tensor memory is the larger worker's. What is asked of two workers is {LIMIT} ×.",
            "",
            "| backend | 1 worker, tokens/s | × | peak MiB | 2 workers, tokens/s | × | peak MiB each |",
            "|---|---|---|---|---|---|---|",
            *(_line(name, found, load["tokens"]) for name, found in result["backends"].items()),
            "",
            "A model this small shows what sharding costs, not what it is for: it lets a model train that no worker could hold.",
            "",
        ]
    )
