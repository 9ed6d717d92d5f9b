"""Writes the table of all fields into docs/configuration.md.

    python -m beear.methods.reference docs/configuration.md

replaces what is between the two markers. The text around them is written by hand.
"""

import sys
from pathlib import Path

from pydantic import BaseModel

from beear.config.fields import FieldSpec, groups, leaves
from beear.errors import UserError
from beear.methods.configuration import run_config

BEGIN, END = "<!-- fields: begin -->", "<!-- fields: end -->"


def table(config_class: type[BaseModel]) -> str:
    """Return one Markdown table per section, in the order of the classes."""
    parts = []
    for name, words, fields in groups(config_class, leaves(config_class)):
        title = f"`{name}`: {words}" if name else words.capitalize()
        rows = "\n".join(_row(spec) for spec in fields)
        parts.append(f"### {title}\n\n| Field | Default | Takes | Meaning |\n|---|---|---|---|\n{rows}")
    return "\n\n".join(parts)


def renewed(document: str, config_class: type[BaseModel]) -> str:
    """Return ``document`` with a new table between the markers.

    Raises:
        UserError: a marker is missing.
    """
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise UserError(f"the document has no {END if begin else BEGIN}; expected both markers around the table")
    return f"{head}{BEGIN}\n\n{table(config_class)}\n\n{END}{tail}"


def _row(spec: FieldSpec) -> str:
    cells = (f"`{spec.name}`", f"`{spec.shown_default}`", spec.expected, spec.description)
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(renewed(target.read_text(encoding="utf-8"), run_config()), encoding="utf-8")
