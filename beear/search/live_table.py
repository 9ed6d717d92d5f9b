"""A search on the screen: a table that updates on a terminal, one line an event elsewhere."""

from types import TracebackType

from rich.live import Live

from beear.evaluation.trials import judged, ranked
from beear.records.search import Trial
from beear.report.search_text import describe, points, search_table
from beear.run.progress import Progress


class LiveTable:
    """Shows trials as they change; a context manager."""

    def __init__(self, progress: Progress, trials: list[Trial], nats: bool = False) -> None:
        """``trials``: those of an earlier session. ``nats``: utility is measured by NLL."""
        self._progress, self._nats = progress, nats
        self._trials = {trial.id: trial for trial in trials}
        self._live = Live(console=progress.console, refresh_per_second=2) if progress.console.is_terminal else None

    def __enter__(self) -> "LiveTable":
        """Start the table."""
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop updating; the last table stays on the screen."""
        if self._live:
            self._live.stop()

    def told(self, trial: Trial, what: str) -> None:
        """Show an event of a trial."""
        self._trials[trial.id] = trial
        if self._live:
            order = ranked(list(self._trials.values()))
            self._live.update(search_table(list(self._trials.values()), order[0].id if order else None, nats=self._nats))
        elif what != "epoch" or trial.epochs:
            self._progress.say("  " + line(trial, what, self._nats))


def line(trial: Trial, what: str, nats: bool) -> str:
    """Return one line on an event of a trial."""
    name = f"trial {trial.number} ({describe(trial.settings)})"
    if what == "started":
        return f"{name} started"
    if what == "restarted":
        return f"{name} crashed and goes on from its last epoch"
    if what == "ended":
        best = f", best epoch {trial.best_epoch}: ASR at most {judged(trial).asr_high:.1%}" if trial.best_epoch else ""
        return f"{name} {trial.status}{' ' + trial.reason if trial.reason else ''}{best}"
    last = trial.epochs[-1]
    kept = "" if last.within_limits else ", beyond the limits"
    return (
        f"{name} epoch {last.epoch}: ASR {last.asr:.1%} (at most {last.asr_high:.1%}), "
        f"utility loss {points(last.utility_loss, nats)}{kept}"
    )
