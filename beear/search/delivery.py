"""Delivers a search: the output folder, a tracking run with a child run for each trial, and the summary on the screen."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from beear.config.schema import RunConfig
from beear.errors import UserError
from beear.evaluation.trials import judged
from beear.files import write_text
from beear.records.redact import redact_all
from beear.records.search import SearchReport, Trial
from beear.registry.run import Run
from beear.registry.trials import TrialRun, attach, deliver_waiting
from beear.report.search_page import search_html
from beear.report.search_text import chosen_trial, describe, summary_lines
from beear.run.lifecycle import Running
from beear.run.progress import Progress
from beear.search.outcome import best_config, best_yaml

RECORD, PAGE, BEST = "search.json", "search.html", "best.yaml"
# Trials' numbers wait in this folder while the tracking server is unreachable. It is kept only while some still wait.
WAITING = "tracking"
# This file names the tracking run that has not received everything yet.
DUE = ".untracked"
KEPT = (RECORD, PAGE, BEST, "pending_metrics.jsonl", WAITING, DUE)
CHOSEN, FAILED, UNDECIDED = 0, 1, 3


class Children:
    """The trials' tracking runs, children of the search's. It does nothing where tracking is off.

    If the server is unreachable, a trial is not tracked and a note says so. The search goes on.
    """

    def __init__(self, running: Running, folder: Path) -> None:
        """Keep what a child needs."""
        self._parent, self._identity, self._folder = running.tracker.run, running.placed.checked.identity, folder / WAITING
        self._progress = running.progress
        self._runs: dict[str, TrialRun | None] = {}

    def told(self, trial: Trial, what: str) -> None:
        """Log an event of a trial: an epoch, or its end."""
        if self._parent is None:
            return
        if trial.id not in self._runs:
            self._runs[trial.id] = self._started(self._parent, trial)
        child = self._runs[trial.id]
        if child is not None and what == "epoch":
            child.epoch(trial)
        elif child is not None and what == "ended":
            child.end(trial)

    def _started(self, parent: Run, trial: Trial) -> TrialRun | None:
        name, identity = f"trial {trial.number}: {describe(trial.settings)}", f"{self._identity}/{trial.number}"
        try:
            return TrialRun(parent, str(self._folder / trial.id), identity, name, trial)
        except UserError as error:
            self._progress.warn(f"trial {trial.number} is not tracked: {error}")
            return None


def deliver(report: SearchReport, asked: RunConfig, running: Running) -> int:
    """Write the record, the page and best.yaml, move the folder into place, tell the tracker; return the exit code.

    Raises:
        UserError: something else was put into the output folder meanwhile.
    """
    output, tracker, progress = running.output, running.tracker, running.progress
    if report.chosen is not None:
        write_text(output.staging / BEST, best_yaml(config_of(report, output.target, asked), report))
    write_text(output.staging / PAGE, search_html(report))
    write_text(output.staging / RECORD, json.dumps(redact_all(json.loads(report.model_dump_json())), indent=1) + "\n")
    if tracker.run is not None:
        due = {"run_id": tracker.run.run_id, "experiment": tracker.run.experiment}
        write_text(output.staging / DUE, json.dumps(due) + "\n")
    output.finish(KEPT)
    progress.finish_stage()
    told = tracker.run is None or _tracked(tracker.run, output.target, report)
    tracker.delivered()
    return _shown(output.target, report, told, progress)


def _tracked(run: Run, folder: Path, report: SearchReport) -> bool:
    """Send the tracker what it has not received; return whether it took everything."""
    if not (deliver_waiting(run, folder / WAITING, report.trials) and attach(run, str(folder), report)):
        return False
    (folder / DUE).unlink()
    shutil.rmtree(folder / WAITING, ignore_errors=True)
    return True


def _shown(folder: Path, report: SearchReport, told: bool, progress: Progress) -> int:
    code = show(folder, report)
    if told:
        return code
    progress.say(
        f"error: the tracking server did not take all of the search; it is in {folder}, and the same command delivers it once "
        "the server answers"
    )
    return FAILED


def config_of(report: SearchReport, target: Path, asked: RunConfig) -> RunConfig:
    """Return the main command's configuration with the chosen settings; its results go beside the search's."""
    trial = chosen_trial(report)
    assert trial is not None, "asked for where one was chosen"
    folder = str(target.with_name(f"{target.name}-best"))
    return best_config(asked, trial, folder, report.calibration is None)


def chosen_config(target: Path, asked: RunConfig) -> RunConfig:
    """Return that configuration for the finished search in ``target``."""
    return config_of(SearchReport.model_validate_json((target / RECORD).read_text()), target, asked)


def show_complete(folder: Path, uri: str | None, progress: Progress) -> int:
    """Print a finished search, after sending the tracker what it has not received. Return the exit code."""
    report = SearchReport.model_validate_json((folder / RECORD).read_text())
    if uri is None or not (folder / DUE).exists():
        return show(folder, report)
    due = json.loads((folder / DUE).read_text())
    try:
        run = Run.reopen(
            uri, due["experiment"], str(folder), run_id=due["run_id"], identity=report.run_id, name=report.run_id[:8],
            config=report.config,
        )  # fmt: skip
        told = _tracked(run, folder, report)
    except UserError as error:
        progress.say(f"error: {error}")
        told = False
    return _shown(folder, report, told, progress)


def show_failed(trials: Sequence[Trial], progress: Progress) -> int:
    """Say why every trial failed; return the exit code.

    Raises:
        UserError: all failed for one reason, which the user can mend.
    """
    reasons = Counter(trial.reason for trial in trials)
    if len(reasons) == 1 and all(trial.mistake for trial in trials):
        raise UserError(f"every trial ended with this: {trials[0].reason}")
    progress.finish_stage()
    told = "; ".join(f"{count} of {len(trials)}: {reason}" for reason, count in reasons.most_common())
    progress.say(f"error: every trial failed, and the same command tries them again: {told}")
    return FAILED


def show(folder: Path, report: SearchReport) -> int:
    """Print the result and where it is; return the exit code."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    for line in summary_lines(report):
        console.print(line, markup=False)
    for name, path in (("page", PAGE), ("record", RECORD), ("settings", BEST)):
        if (folder / path).exists():
            console.print(f"{name}: {folder / path}", markup=False)
    return CHOSEN if succeeded(report) else UNDECIDED


def succeeded(report: SearchReport) -> bool:
    """Say whether the gate could pass the chosen trial's ASR; its utility and over-refusal are within the limits already."""
    chosen = chosen_trial(report)
    limit: float = report.config["gate"]["asr"]
    return chosen is not None and judged(chosen).asr <= limit
