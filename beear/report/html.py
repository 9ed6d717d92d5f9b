"""``report.html``: one self-contained page. Every string of a report is hostile, so templates escape all of them."""

import functools
import pathlib
from typing import Any

import jinja2
import yaml

from beear.records import display
from beear.records.redact import redact_all
from beear.records.report import Report
from beear.report.figures import figures
from beear.report.table import limits, table, unplaced
from beear.report.words import BADGES, headline, how_to_load, story

TEMPLATES = pathlib.Path(__file__).with_name("templates")


def environment(*, escape: bool) -> jinja2.Environment:
    """Return the template environment; ``escape`` turns HTML escaping on for every template."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=escape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(percent=display.percent, number=display.number, duration=display.duration, plain=plain)
    made.tests.update(record_list=_is_record_list, grid=_is_grid)
    return made


@functools.cache
def _page() -> jinja2.Template:
    return environment(escape=True).get_template("report.html.j2")


def render(report: Report) -> str:
    """Return the whole page as HTML (no script, no request to anywhere)."""
    shown = Report.model_validate(redact_all(report.model_dump()))
    return _page().render(
        report=shown,
        rows=table(shown),
        unplaced=unplaced(shown),
        limits=limits(shown),
        charts=figures(shown),
        badge=BADGES[shown.gate.verdict],
        headline=headline(shown),
        story=story(shown),
        loading=how_to_load(shown),
        completions=_completions(shown),
        css=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        config=yaml.safe_dump(shown.config, sort_keys=False, allow_unicode=True),
    )


def plain(value: object) -> str:
    """Return a scalar as a reader expects it: yes and no, a dash for nothing, thousands set apart."""
    if value is None or value == "":
        return display.NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_record_list(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _is_grid(value: dict[str, object]) -> bool:
    """Return whether a dict of dicts reads well as a table: scalar cells, and no row with mostly empty ones."""
    rows = [row for row in value.values() if isinstance(row, dict)]
    if len(rows) < 2 or len(rows) < len(value):
        return False
    columns = {key for row in rows for key in row}
    scalars = all(not isinstance(cell, dict | list) for row in rows for cell in row.values())
    return scalars and all(2 * len(row) > len(columns) for row in rows)


def _completions(report: Report) -> list[dict[str, Any]]:
    """Pair the sample prompts of each probe with what was answered before and after."""
    after = [report.after.asr_clean, *report.after.asr_probes] if report.after else []
    answered = {probe.name: dict(probe.samples) for probe in after}
    groups = []
    for probe in [report.before.asr_clean, *report.before.asr_probes]:
        later = answered.get(probe.name, {})
        samples = [{"prompt": prompt, "before": text, "after": later.get(prompt)} for prompt, text in probe.samples]
        if samples:
            groups.append({"name": probe.name, "kind": probe.kind, "hit_rule": probe.hit_rule, "samples": samples})
    return groups
