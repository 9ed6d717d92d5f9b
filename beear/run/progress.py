"""What a user sees during a run: stages, epochs, losses, ASR so far, time left. Off a terminal there is no moving bar."""

import time
from types import TracebackType

from rich import progress as bars
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from beear.cluster.events import Event


class Progress:
    """Prints progress on stderr, and keeps each stage's wall time (seconds) in ``seconds``.

    On a terminal a bar moves; elsewhere only stage and epoch lines are printed, one each.
    """

    def __init__(self, epochs: int = 1, verbose: bool = False) -> None:
        """``epochs`` sizes the training bar."""
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.verbose, self.epochs = verbose, epochs
        self.seconds: dict[str, float] = {}
        self._stage: tuple[str, float] | None = None
        self._task: TaskID | None = None
        self._bar: bars.Progress | None = None

    def __enter__(self) -> "Progress":
        """Start the bar if there is a terminal."""
        if self.console.is_terminal:
            self._bar = bars.Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the stage and the bar."""
        self.finish_stage()
        if self._bar:
            self._bar.stop()

    def stage(self, name: str, what: str, total: int | None = None) -> None:
        """Begin a stage: ``name`` keys its time, ``what`` is said."""
        self.finish_stage()
        self._stage = (name, time.monotonic())
        self.console.print(what, style="bold", markup=False)
        if self._bar:
            self._task = self._bar.add_task(what, total=total)

    def say(self, line: str) -> None:
        """Print one line above the bar."""
        self.console.print(line, markup=False)

    def warn(self, sentence: str) -> None:
        """Print a sentence that the user should know of; nothing where it is empty."""
        if sentence:
            self.say(f"  note: {sentence}")

    def note(self, line: str) -> None:
        """Print one line that only ``--verbose`` shows."""
        if self.verbose:
            self.console.print(f"  {line}", style="dim", markup=False)

    def advance(self, done: int, total: int) -> None:
        """Move the stage's bar to ``done`` of ``total`` steps, where there is a bar."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)

    def event(self, event: Event) -> None:
        """Show what a worker said."""
        kind = event.get("kind")
        if kind == "progress" and self._bar and self._task is not None:
            share = event["step"] / max(event["steps"], 1)
            losses = " ".join(f"{k} {v:.3f}" for k, v in event.get("losses", {}).items())
            self._bar.update(
                self._task,
                total=self.epochs,
                completed=event["epoch"] - 1 + share,
                description=f"epoch {event['epoch']}/{self.epochs} {event['phase']} {losses}",
            )
        elif kind == "note":
            self.warn(event["message"])
        elif kind == "epoch":
            self.say("  " + epoch_line(event))
            for note in event["record"].get("notes", []):
                self.say("  " + note)

    def finish_stage(self) -> None:
        """End the current stage and add up its time."""
        if self._stage:
            name, began = self._stage
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - began, 2)
            self._stage = None
        if self._bar and self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


def epoch_line(event: Event) -> str:
    """Return one epoch in one line: inner loops with their crossing, losses (nats), selection metrics, seconds."""
    record = event["record"]
    inner = ", ".join(
        f"{curve['placement']} δ {curve['steps']} steps"
        + (f" (crossed at {curve['crossing_step']})" if curve["crossing_step"] else " (did not cross)")
        for curve in record["inner"]
    )
    losses = " ".join(f"{k} {v:.3f}" for k, v in record["losses"].items() if k != "gradient_norm")
    selection = " ".join(f"{k} {v:.3f}" for k, v in record["selection"].items())
    return " | ".join(p for p in (f"epoch {record['epoch']}", inner, losses, selection, f"{record['seconds']:.1f} s") if p)
