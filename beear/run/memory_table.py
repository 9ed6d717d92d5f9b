"""The memory a run needs on each kind of device, as a table: the last part of ``--dry-run``."""

import os
import textwrap
from collections.abc import Sequence

from beear.config.resolve import ResolvedConfig
from beear.config.schema import ParallelConfig
from beear.config.shape import ModelShape
from beear.methods.method import Needs
from beear.parallel.devices import A100, GIB, H100, H200, Device, cpu
from beear.parallel.measuring import MeasuringPlan, plan_measuring
from beear.parallel.plan import Recommendation, name_of, recommend, size
from beear.run.longest_rows import Lengths

HEADINGS = ("device", "holds", "weights", "gradients", "optimizer", "gathered", "activations", "total", "backend")
WIDTHS = (13, 8, 9, 9, 9, 9, 11, 9, 0)
COLUMNS = 100


def training_table(
    config: ResolvedConfig, needs: Needs, parallel: ParallelConfig, shape: ModelShape, lengths: Lengths
) -> list[str]:
    """Return the lines: one device a row at its peak, then what was chosen for each and why."""
    found = [recommend(shape, lengths.work(config, needs, device.gpu), parallel, device) for device in devices(parallel)]
    trained = "all trained" if shape.trained == shape.parameters else f"{shape.trained:,} trained"
    workers = "1 worker" if parallel.workers == 1 else f"{parallel.workers} workers"
    return [
        f"{shape.parameters:,} parameters, {trained}; float32 master weights, {config.method.batch_size} rows on {workers}",
        lengths.sentence(),
        "",
        _row(HEADINGS),
        *(_row(_cells(one)) for one in found),
        "",
        *(line for one in found for line in textwrap.wrap(_words(one), COLUMNS, subsequent_indent="  ")),
    ]


def devices(parallel: ParallelConfig) -> Sequence[Device]:
    """Return the devices a plan is shown for: the one that the configuration describes, a CPU worker's share of this
    machine, and three GPUs.
    """
    shown = (cpu(_machine_memory() / parallel.workers), A100, H100, H200)
    if not parallel.device_memory:
        return shown
    gpus = 1.0 if parallel.gpus_per_worker is None else min(1.0, parallel.gpus_per_worker)
    own = parallel.device_memory * GIB * (gpus or 1.0)
    return (Device(f"yours, {own / GIB:g} GiB", own, gpu=gpus > 0), *shown)


def measuring_lines(config: ResolvedConfig, parallel: ParallelConfig, shape: ModelShape, lengths: Lengths) -> list[str]:
    """Return a line for each device on what measuring needs there; a CPU that measures has this machine's memory."""
    alone = parallel.model_copy(update={"workers": 1})
    plans = [plan_measuring(shape, lengths.measuring(config, device.gpu), device) for device in devices(alone)]
    return [_measured(plan) for plan in plans]


def _measured(plan: MeasuringPlan) -> str:
    part, most = plan.most
    verdict = "fits" if plan.fits else "may not fit" if not plan.hopeless else "does not fit, and measuring does not spread it"
    needs = f"{size(plan.weights)} of weights, {size(most)} for {part}, of {size(plan.room)}"
    return f"{plan.device.name}: {needs}: {verdict}"


def _machine_memory() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _cells(one: Recommendation) -> tuple[str, ...]:
    peak, spread = one.plan.peak, one.spread
    bytes_of = (
        one.device.usable,
        peak.parameters,
        peak.gradients,
        peak.optimizer,
        peak.gathered,
        peak.activations + peak.buffers,
        peak.total,
    )
    return (one.device.name, *(size(count) if count else "-" for count in bytes_of), name_of(spread) if one.fits else "none fits")


def _words(one: Recommendation) -> str:
    """Return what is chosen, and why."""
    spread = one.spread
    how = [
        word
        for word, on in (
            ("weights gathered once per entrapment" if spread.gather == "once" else "weights gathered in each step",
             spread.splits_weights),
            ("in host memory between uses" if spread.splits_weights else "optimizer state in host memory", spread.offload),
            ("activations computed again", spread.checkpoint_activations),
            (f"micro-batches of {spread.micro_batch}", spread.micro_batch is not None),
        )
        if on
    ]  # fmt: skip
    chosen = ", ".join([f"{one.device.name}: {name_of(spread)}", *how])
    if one.fits:
        return f"{chosen}; most is needed in {one.plan.peak.phase}"
    return f"{chosen}; {one.advice}"


def _row(cells: Sequence[str]) -> str:
    first, *numbers, last = cells
    wide = [f"{number:>{width}}" for number, width in zip(numbers, WIDTHS[1:-1], strict=True)]
    return " ".join([f"{first:<{WIDTHS[0]}}", *wide, f" {last}"])
