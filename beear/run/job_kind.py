"""What kinds of job differ in, for all that every job does alike."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from beear.run import delivery
from beear.run.output_folder import REPORT
from beear.run.prepare import Job, Kind
from beear.run.progress import Reporter


def staying(job: Job) -> Job:
    """Return the job as it is."""
    return job


@dataclass(frozen=True)
class JobKind:
    """``again`` is said of a complete run, whose file ``record`` tells which run it is; ``show`` prints it.

    ``check`` refuses what no cluster would mend, and may add to a job's identity. ``worth``: what a run that failed has that is
    worth to be gone on from. ``together``: trainings of one worker that may run at a time.
    """

    name: Kind
    again: str = ""
    record: str = REPORT
    show: Callable[[Path, str | None, Reporter], int] = delivery.show_complete
    check: Callable[[Job], Job] = staying
    worth: tuple[str, ...] = ("checkpoint_*",)
    together: int = 1
