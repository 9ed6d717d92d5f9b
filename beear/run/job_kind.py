"""What the commands' runs differ in, for all that every run does alike."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from beear.run import delivery
from beear.run.output_folder import REPORT
from beear.run.progress import Progress
from beear.run.stages import Checked


@dataclass(frozen=True)
class JobKind:
    """One kind of run.

    Args:
        name: the command.
        trains: whether it trains, or only measures.
        again: said where a run is complete already.
        record: the file in the output folder that says which run it is of.
        show: prints a complete output folder and delivers what a tracking server has not taken; returns the exit code.
        refine: refuses what no cluster could mend, and may add to the run's identity.
        worth: patterns of files in the staging folder that are worth resuming from.
        together: trainings of one worker that may run at a time.
    """

    name: str
    trains: bool = True
    again: str = ""
    record: str = REPORT
    show: Callable[[Path, str | None, Progress], int] = delivery.show_complete
    refine: Callable[[Checked], Checked] = lambda checked: checked
    worth: tuple[str, ...] = ("checkpoint_*",)
    together: int = 1
