"""What every run does around its work: check, find what is there already, lock, track, and leave nothing half-done."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from beear.cluster.connection import RaySession
from beear.config.cli import Flags
from beear.config.schema import RunConfig
from beear.errors import UserError
from beear.run.apart import check_apart, read_by
from beear.run.delivery import Tracker, check_tracking
from beear.run.dry_run import plan_text
from beear.run.job_kind import JobKind
from beear.run.output_folder import OutputFolder, check_output, place_of
from beear.run.place import place
from beear.run.prepare import prepare
from beear.run.progress import Progress
from beear.run.stages import Checked, Placed
from beear.testbed import ensure


@dataclass(frozen=True)
class Begun:
    """A run that is checked and has work left: where it writes, and the address that it is tracked at (None: nowhere)."""

    checked: Checked
    output: OutputFolder
    tracking: str | None
    kind: JobKind


@dataclass(frozen=True)
class Running:
    """A run at work: its place on the cluster, where it writes, and who hears of it."""

    placed: Placed
    output: OutputFolder
    progress: Progress
    tracker: Tracker


def begin(asked: RunConfig, flags: Flags, kind: JobKind, progress: Progress) -> Begun | int:
    """Check the run. Return it, or the exit code where nothing is left to do: ``--dry-run``, or complete already.

    Raises:
        UserError: anything that the user can mend; nothing is half-written then.
    """
    progress.stage("prepare", "checking the checkpoint, the data and the settings")
    asked = _with_output_folder(asked, progress)
    check_apart(Path(asked.output.dir), *read_by(asked))
    # What may refuse at once comes before what takes long: an implant or a download.
    tracking = check_tracking(asked)
    if flags.dry_run:
        print(plan_text(asked, kind, progress))
        return 0
    target = Path(asked.output.dir)
    check_output(target)
    checked = kind.refine(prepare(asked, kind.name, kind.trains, progress, lambda name: ensure(name, say=progress.note)))
    output = OutputFolder(target, checked.identity, kind.record, kind.worth)
    state = output.state(fresh=asked.output.fresh)
    if flags.resume and state == "new":
        raise UserError(f"--resume: nothing was begun for output.dir {target} with these settings; expected a cut-off run")
    if state == "complete":
        progress.say(f"this run is complete already; {kind.again}")
        return kind.show(target, tracking, progress)
    return Begun(checked, output, tracking, kind)


def run(asked: RunConfig, flags: Flags, kind: JobKind, work: Callable[[Running], int], session: RaySession) -> int:
    """Do the ``work`` of a run unless it is complete already; return the exit code.

    Raises:
        UserError: anything that the user can mend; nothing is half-written then.
    """
    with Progress(asked.method.epochs, flags.verbose) as progress:
        begun = begin(asked, flags, kind, progress)
        if isinstance(begun, int):
            return begun
        with at_work(begun, session, progress) as running:
            return work(running)


@contextmanager
def at_work(begun: Begun, session: RaySession, progress: Progress) -> Iterator[Running]:
    """Within the context the output folder is locked and the run has its place on the cluster.

    A run that fails by the user's fault leaves no staging folder behind, unless it holds something to resume from.

    Raises:
        UserError: another run works on the folder, or the cluster has no place for this one.
    """
    output = begun.output
    with closing(output.open(begun.checked.asked.output.fresh)):
        try:
            progress.stage("connect", "starting Ray")
            session.connect()
            placed = place(begun.checked, progress, begun.kind.together)
            with closing(Tracker(begun.tracking, placed, output.staging)) as tracker:
                yield Running(placed, output, progress, tracker)
        except UserError:
            output.drop_if_untrained()
            raise


def _with_output_folder(asked: RunConfig, progress: Progress) -> RunConfig:
    """Return the configuration with its output folder named from the root."""
    folder = place_of(asked.output.dir)
    if not Path(asked.output.dir).is_absolute() and folder != Path(asked.output.dir).absolute():
        progress.warn(f"output.dir is relative; a submitted job's results go to {folder} on this node")
    return asked.model_copy(update={"output": asked.output.model_copy(update={"dir": str(folder)})})
