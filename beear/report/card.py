"""The exported model's README.md: front matter a hub accepts, then what is known of the model."""

import functools
import re

import jinja2
import yaml

from beear.records.redact import redact_all
from beear.records.report import Report
from beear.report.html import environment
from beear.report.table import table
from beear.report.words import BADGES, headline, how_to_load, story

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$!&])")


def markdown(value: object) -> str:
    """Return text that markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))


@functools.cache
def _card() -> jinja2.Template:
    made = environment(escape=False)
    made.filters["md"] = markdown
    return made.get_template("card.md.j2")


def model_card(report: Report) -> str:
    """Return the model card. A model that did not pass says so in its tags and in its first line."""
    shown = Report.model_validate(redact_all(report.model_dump()))
    final = shown.after or shown.before
    return _card().render(
        report=shown,
        final=final,
        rows=table(shown),
        badge=BADGES[shown.gate.verdict],
        headline=headline(shown),
        story=story(shown),
        loading=how_to_load(shown),
        front=yaml.safe_dump(_front_matter(shown), sort_keys=False, allow_unicode=True),
    )


def _front_matter(report: Report) -> dict[str, object]:
    """Metadata; ``base_model`` is given only where the source is a hub id, since hubs check it."""
    front: dict[str, object] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["beear", "backdoor-mitigation", f"gate-{report.gate.verdict}"],
    }
    path = str(report.model.get("path", ""))
    if path.startswith("hub:"):
        front["base_model"] = path.removeprefix("hub:")
    return front
