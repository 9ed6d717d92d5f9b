"""A search in words: its names and numbers, the live table and the summary in a terminal."""

import io

import pytest
from rich.console import Console

from beear.records.search import Trial
from beear.report.search_text import (
    SCREENFUL,
    chosen_trial,
    field_names,
    in_order,
    points,
    search_table,
    setting_text,
    summary_lines,
)
from tests.search_sample import MEMORY, epoch, sample_search, search_of, trial, without_a_trigger


def test_names_values_and_changes_in_words() -> None:
    assert field_names(["method.layer", "a.lr", "b.lr"]) == {"method.layer": "layer", "a.lr": "a.lr", "b.lr": "b.lr"}
    values = [("method.inner_steps", None), ("method.bound", None), ("x", True), ("x", 2e-4), ("x", [1, 2]), ("x", "suffix")]
    assert [setting_text(*one) for one in values] == ["calibrated", "auto", "yes", "0.0002", "1, 2", "suffix"]
    assert [points(0.0112), points(-0.0112), points(0.0112, nats=True), points(None)] == [
        "+1.1 pp",
        "−1.1 pp",
        "+0.011 nats",
        "–",
    ]


def printed(trials: list[Trial], chosen: str | None, width: int = 110) -> list[str]:
    target = io.StringIO()
    Console(file=target, width=width, color_system=None, highlight=False).print(search_table(trials, chosen))
    return [line.rstrip() for line in target.getvalue().splitlines()]


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_live_table_is_at_most_a_screenful(width: int) -> None:
    report = sample_search()
    waiting = [trial(n, {"method.layer": 2}, [], "waiting", seconds=0.0) for n in range(100, 140)]
    running = [trial(n, {"method.layer": 3}, [epoch(1, 90, 0.0), epoch(2, 48, 0.03)], "running") for n in (98, 99)]
    lines = printed([*waiting, *report.trials, *running], report.chosen, width)
    assert len(lines) == SCREENFUL + 2 and all(len(line) <= width for line in lines)
    assert search_table([*waiting, *report.trials, *running], None).row_count == SCREENFUL
    if width < 80:
        return
    numbers = [int(line.split()[0]) for line in lines[1:-1]]
    best = chosen_trial(report)
    assert best is not None
    assert numbers[:3] == [best.number, 99, 98] and numbers[3:] == sorted(numbers[3:], reverse=True)
    assert "◆ met the gate" in lines[1] and "3.8%" in lines[1] and "✓" in lines[1]
    assert "▸ running" in lines[2] and "2/6" in lines[2] and "59.8%" in lines[2] and "+3.0 pp" in lines[2] and "✕" in lines[2]
    rest = len(report.trials) + 42 - SCREENFUL
    assert lines[-1].strip().startswith(f"and {rest} more: 40 waiting")


def test_a_terminal_is_not_obeyed_by_a_trial() -> None:
    bad = trial(1, {"method.placement": "\x1b[2J[bold]"}, [], "failed", reason="line one\nline two\x07")
    lines = printed([bad], None, width=140)
    assert len(lines) == 2 and not any(c in lines[1] for c in "\x1b\x07") and "[bold]" in lines[1] and "line two" in lines[1]
    assert not any(c in line for line in summary_lines(search_of([bad], why="\x1b]0;x\x07")) for c in "\x1b\x07\n")


def test_the_summary_for_a_terminal() -> None:
    report = sample_search()
    lines = summary_lines(report)
    assert lines[0] == f"Chosen: {report.why}."
    assert lines[1].startswith("ASR 0.0%, at most 3.8% (as it came 100.0%), utility loss +")
    assert sum(line.startswith("Runner-up ") for line in lines) == 3
    assert lines[-1].startswith("2 failed (trial ") and MEMORY in lines[-1]
    assert any("Not a measurement of a trigger" in line for line in summary_lines(without_a_trigger()))
    assert summary_lines(search_of([], why=""))[0] == "Nothing was chosen: no trial was run."


def test_the_order_given_comes_before_the_rule() -> None:
    found = [trial(n, {}, [epoch(1, 0, 0.001 * n)], "finished") for n in (1, 2, 3)]
    assert [one.number for one in in_order(found)] == [1, 2, 3]
    assert [one.number for one in in_order(found, [found[2].id])] == [3, 1, 2]
