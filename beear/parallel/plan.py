"""Chooses the backend, and what a run trades for memory: the fastest way of spreading the model that fits."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from beear.config.schema import ParallelConfig
from beear.config.shape import ModelShape
from beear.parallel.devices import GIB, Device
from beear.parallel.memory import MemoryPlan, Work, plan_memory
from beear.parallel.spread import SHARDED, Spread

MOST_WORKERS = 1024
# Tokens in one pass that keep a device busy.
BUSY = 1024
# Share of a model's weights that a LoRA trains, to say whether a LoRA would fit.
LORA_SHARE = 0.01


@dataclass(frozen=True)
class Recommendation:
    """``why`` is a clause for the log; ``advice``, where nothing fits, says what would."""

    spread: Spread
    plan: MemoryPlan
    device: Device
    why: str
    advice: str = ""

    @property
    def share(self) -> float:
        """The peak as a share of what the device can take; above 1 it does not fit."""
        return self.plan.peak.total / max(self.device.usable, 1.0)

    @property
    def fits(self) -> bool:
        """Whether the plan fits."""
        return self.share <= 1


def recommend(shape: ModelShape, work: Work, asked: ParallelConfig, device: Device) -> Recommendation:
    """Return the first way of spreading the model that fits ``device``, else the one that needs least.

    What ``asked`` sets stands. The order, from fast to slow: a whole copy on each worker (single, ddp), spread weights
    gathered once per entrapment, gathered in each step, activations computed again, smaller and smaller micro-batches
    (which come before that where weights stay whole).
    ``work.rows`` are the rows of the whole batch; each worker has its share.
    """
    work = replace(work, rows=-(-work.rows // asked.workers))
    least: Recommendation | None = None
    for spread in ways(work, asked, device):
        found = _weighed(shape, work, spread, device)
        if found.fits:
            return found
        if least is None or found.share < least.share:
            least = found
    assert least is not None
    return replace(least, advice=_advice(shape, work, asked, least))


def ways(work: Work, asked: ParallelConfig, device: Device) -> Iterator[Spread]:
    """Yield what ``asked`` leaves open, from fast to slow."""
    for backend in _backends(asked):
        start = Spread(
            backend,
            asked.workers,
            asked.zero_stage,
            asked.offload and backend in SHARDED,
            gather="step" if asked.gather == "step" else "once",
            micro_batch=asked.micro_batch,
            checkpoint_activations=asked.checkpoint_activations == "on",
            gpu=device.gpu,
        )
        yield start
        if start.splits_weights and asked.gather == "auto":
            start = replace(start, gather="step")
            yield start
        # If whole copies do not fit, spread weights are tried before smaller micro-batches.
        if backend == "ddp" and asked.backend == "auto":
            continue
        parts = [] if asked.micro_batch else _powers_below(work.rows)
        # Where each worker holds all weights, a smaller micro-batch costs nothing while it keeps the device busy. Spread
        # weights are gathered again for every micro-batch.
        busy = [] if start.splits_weights else [rows for rows in parts if rows * max(work.prompt + work.safe, work.text) >= BUSY]
        yield from (replace(start, micro_batch=rows) for rows in busy)
        if asked.checkpoint_activations == "auto":
            start = replace(start, checkpoint_activations=True)
            yield replace(start, micro_batch=busy[-1] if busy else asked.micro_batch)
        yield from (replace(start, micro_batch=rows) for rows in parts if rows not in busy)


def _powers_below(rows: int) -> list[int]:
    return [1 << power for power in range((rows - 1).bit_length() - 1, -1, -1)] if rows > 1 else []


def _backends(asked: ParallelConfig) -> tuple[str, ...]:
    if asked.backend != "auto":
        return (asked.backend,)
    # One worker saves nothing by spreading weights, except when they are offloaded to the host.
    if asked.offload:
        return ("fsdp",)
    return ("single",) if asked.workers == 1 else ("ddp", "fsdp")


def _weighed(shape: ModelShape, work: Work, spread: Spread, device: Device) -> Recommendation:
    plan = plan_memory(shape, work, spread)
    found = Recommendation(spread, plan, device, "")
    room = f"{size(plan.peak.total)} of {size(device.usable)} on each {device.name}"
    if not found.fits:
        return replace(found, why=f"the plan needs {room}, so it does not fit")
    if spread.backend not in SHARDED:
        held = "the one worker holds" if spread.workers == 1 else f"each of {spread.workers} workers holds"
        return replace(found, why=f"{held} a whole copy, {room}")
    return replace(found, why=f"{_what_is_spread(spread)} spread over {spread.workers} worker(s), {room}")


def _what_is_spread(spread: Spread) -> str:
    if spread.splits_weights:
        return "weights are"
    return "optimizer state is" if spread.zero_stage == 1 else "gradients and optimizer state are"


def name_of(spread: Spread) -> str:
    """Return the backend in a word, DeepSpeed's with its stage."""
    return f"zero-{spread.zero_stage}" if spread.backend == "deepspeed" else spread.backend


def _advice(shape: ModelShape, work: Work, asked: ParallelConfig, least: Recommendation) -> str:
    """Say how much memory is missing, and which of more workers, offload and LoRA would make it fit."""
    missing = size(least.plan.peak.total - least.device.usable)
    would = []
    sharded = _sharded(asked, least.spread)
    if workers := _enough_workers(shape, work, asked, least.device, sharded):
        rows = work.rows * asked.workers
        would.append(
            f"{workers} workers with {name_of(sharded)}" + (f" and --method.batch_size {workers}" if workers > rows else "")
        )
    spread = least.spread
    if least.device.gpu and not spread.offload and _weighed(shape, work, replace(sharded, offload=True), least.device).fits:
        would.append("parallel.offload (slow)")
    if shape.trained == shape.parameters:
        lora = replace(shape, trained=round(LORA_SHARE * shape.parameters), largest=shape.hidden_size * 64)
        if _weighed(lora, work, spread, least.device).fits:
            would.append("adapter.kind=lora")
    return f"{missing} too much; " + (f"{' or '.join(would)} would fit" if would else "no setting here would fit")


def _sharded(asked: ParallelConfig, spread: Spread) -> Spread:
    """Return ``spread`` with a backend that shards, which gathers as little at a time as ``asked`` allows."""
    backend = spread.backend if spread.backend in SHARDED else "fsdp"
    return replace(spread, backend=backend, gather="once" if asked.gather == "once" else "step")


def _enough_workers(shape: ModelShape, work: Work, asked: ParallelConfig, device: Device, sharded: Spread) -> int | None:
    rows, workers = work.rows * asked.workers, asked.workers
    while (workers := workers * 2) <= MOST_WORKERS:
        spread = replace(sharded, workers=workers)
        if _weighed(shape, replace(work, rows=-(-rows // workers)), spread, device).fits:
            return workers
    return None


def size(count: float) -> str:
    """Return bytes in words."""
    for unit, step in (("GiB", GIB), ("MiB", 2**20)):
        if count >= step:
            return f"{count / step:.{0 if count >= 100 * step else 1}f} {unit}"
    return f"{count / 2**10:.1f} KiB"
