"""What a run would need on each kind of device, as a table: ``--dry-run``'s last part."""

import os
import textwrap
from collections.abc import Sequence

from beear.config.schema import ParallelConfig, RunConfig
from beear.config.shape import ModelShape
from beear.orchestration.lengths import Lengths
from beear.parallel.devices import A100, GIB, H100, H200, Device, cpu
from beear.parallel.memory import SHARDED
from beear.parallel.plan import Recommendation, recommend, size

HEADINGS = ("device", "holds", "weights", "gradients", "optimizer", "gathered", "activations", "total", "backend")
WIDTHS = (7, 8, 9, 9, 9, 9, 11, 9, 0)
COLUMNS = 100


def resources(config: RunConfig, shape: ModelShape, lengths: Lengths) -> list[str]:
    """Return the lines: one device a row at its peak, then what was chosen for each and why."""
    parallel = config.parallel
    found = [recommend(shape, lengths.work(config, device.gpu), parallel, device) for device in devices(parallel)]
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
    """Return the devices a plan is shown for. A CPU worker has its share of this machine, unless the configuration says."""
    own = parallel.device_memory * GIB if parallel.device_memory else _machine_memory() / parallel.workers
    return cpu(own), A100, H100, H200


def _machine_memory() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _cells(one: Recommendation) -> tuple[str, ...]:
    peak, spread = one.plan.peak, one.spread
    backend = f"zero-{spread.zero_stage}" if spread.backend == "deepspeed" else spread.backend
    bytes_of = (
        one.device.usable,
        peak.parameters,
        peak.gradients,
        peak.optimizer,
        peak.gathered,
        peak.activations + peak.buffers,
        peak.total,
    )
    return (one.device.name, *(size(count) if count else "-" for count in bytes_of), backend if one.fits else "none fits")


def _words(one: Recommendation) -> str:
    """Return what is chosen, and why."""
    spread = one.spread
    how = [
        word
        for word, on in (
            ("weights gathered once per entrapment" if spread.gather_once else "weights gathered in each step",
             spread.backend in SHARDED),
            ("in host memory between uses", spread.offload),
            ("activations computed again", spread.checkpoint),
            (f"micro-batches of {spread.micro_batch}", spread.micro_batch is not None),
        )
        if on
    ]  # fmt: skip
    chosen = ", ".join([f"{one.device.name}: {spread.backend}", *how])
    if one.fits:
        return f"{chosen}; most is needed in {one.plan.peak.phase}"
    return f"{chosen}; {one.advice}"


def _row(cells: Sequence[str]) -> str:
    first, *numbers, last = cells
    wide = [f"{number:>{width}}" for number, width in zip(numbers, WIDTHS[1:-1], strict=True)]
    return " ".join([f"{first:<{WIDTHS[0]}}", *wide, f" {last}"])
