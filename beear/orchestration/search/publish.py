"""Delivering a search: its folder, a tracking run with a child for each trial, the words on the screen."""

import json
import shutil
import sys
from pathlib import Path

from rich.console import Console

from beear.config.schema import RunConfig
from beear.errors import UserError
from beear.evaluation.trials import judged
from beear.orchestration.console import Reporter
from beear.orchestration.run import Running
from beear.orchestration.search.outcome import best_config, best_yaml
from beear.registry.trials import Child, attach
from beear.report.redact import redact_all
from beear.report.search_page import search_html
from beear.report.search_schema import SearchReport, Trial
from beear.report.search_text import chosen_trial, describe, summary_lines
from beear.report.write import write_text

RECORD, PAGE, BEST = "search.json", "search.html", "best.yaml"
# Where trials' numbers wait while the tracking server is away; kept only if some still do.
WAITING = "tracking"
KEPT = (RECORD, PAGE, BEST, "pending_metrics.jsonl", WAITING)
CHOSEN, FAILED, UNDECIDED = 0, 1, 3


class Children:
    """The trials' own tracking runs, under the search's; a quiet nothing where tracking is off.

    A server that is away costs a trial its record, which is said, and never the search.
    """

    def __init__(self, running: Running, folder: Path) -> None:
        """Keep what a child needs."""
        self._parent, self._identity, self._folder = running.tracker.run, running.job.identity, folder / WAITING
        self._reporter = running.reporter
        self._runs: dict[str, Child | None] = {}

    def told(self, trial: Trial, what: str) -> None:
        """Log that something happened to a trial."""
        if self._parent is None:
            return
        if trial.id not in self._runs:
            self._runs[trial.id] = self._started(trial)
        child = self._runs[trial.id]
        if child is not None and what == "epoch":
            child.epoch(trial)
        elif child is not None and what == "ended":
            child.end(trial)

    def _started(self, trial: Trial) -> Child | None:
        name, identity = f"trial {trial.number}: {describe(trial.settings)}", f"{self._identity}/{trial.number}"
        try:
            return Child(self._parent, str(self._folder / trial.id), identity, name, trial)
        except UserError as error:
            self._reporter.say(f"  note: trial {trial.number} is not tracked: {error}")
            return None


def deliver(report: SearchReport, asked: RunConfig, running: Running) -> int:
    """Write the record, the page and best.yaml, move the folder into place, tell the tracker; return the exit code.

    Raises:
        UserError: something else was put into the output folder meanwhile.
    """
    output, tracker, reporter = running.output, running.tracker, running.reporter
    if report.chosen is not None:
        write_text(output.staging / BEST, best_yaml(config_of(report, output.target, asked), report))
    write_text(output.staging / PAGE, search_html(report))
    write_text(output.staging / RECORD, json.dumps(redact_all(json.loads(report.model_dump_json())), indent=1) + "\n")
    if not any((output.staging / WAITING).rglob("*.jsonl")):
        shutil.rmtree(output.staging / WAITING, ignore_errors=True)
    output.finish(KEPT)
    reporter.finish_stage()
    told = tracker.run is None or attach(tracker.run, str(output.target), report)
    tracker.delivered()
    code = show(output.target, report)
    if not told:
        reporter.say(f"error: the tracking server did not take the search's files; they are in {output.target}")
        return FAILED
    return code


def config_of(report: SearchReport, target: Path, asked: RunConfig) -> RunConfig:
    """Return the main job's configuration with what was chosen; its results go beside the search's."""
    trial = chosen_trial(report)
    assert trial is not None, "asked for where one was chosen"
    folder = str(target.with_name(f"{target.name}-best"))
    return best_config(asked, trial, folder, report.calibration is None)


def chosen_config(target: Path, asked: RunConfig) -> RunConfig:
    """Return it for a search that is complete in ``target``."""
    return config_of(SearchReport.model_validate_json((target / RECORD).read_text()), target, asked)


def show_complete(folder: Path, _uri: str | None, _reporter: Reporter) -> int:
    """Print a finished search."""
    return show(folder, SearchReport.model_validate_json((folder / RECORD).read_text()))


def show(folder: Path, report: SearchReport) -> int:
    """Print what was found and where it is; return the exit code."""
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    for line in summary_lines(report):
        console.print(line, markup=False)
    for name, path in (("page", PAGE), ("record", RECORD), ("settings", BEST)):
        if (folder / path).exists():
            console.print(f"{name}: {folder / path}", markup=False)
    return CHOSEN if succeeded(report) else UNDECIDED


def succeeded(report: SearchReport) -> bool:
    """Say whether the chosen trial's ASR is one that the gate could pass; utility and over-refusal are in any case."""
    chosen = chosen_trial(report)
    limit: float = report.config["gate"]["asr"]
    return chosen is not None and judged(chosen).asr <= limit
