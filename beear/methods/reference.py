"""The table of fields in docs/configuration.md, made from the classes that commands parse.

    python -m beear.methods.reference docs/configuration.md

rewrites what stands between the two markers; the words around it are written by hand.
"""

import sys
from pathlib import Path

from pydantic import BaseModel

from beear.config.fields import FieldSpec, leaves, sections
from beear.errors import UserError
from beear.methods.configuration import run_config

BEGIN, END = "<!-- fields: begin -->", "<!-- fields: end -->"


def table(config_class: type[BaseModel]) -> str:
    """Return one Markdown table per section, in the order of the classes."""
    known = leaves(config_class)
    groups = [*((name, words) for name, _, words in sections(config_class)), ("", "The run as a whole")]
    parts = []
    for name, words in groups:
        fields = [spec for spec in known.values() if spec.section == name]
        if fields:
            title = f"`{name}`: {words}" if name else words
            rows = "\n".join(_row(spec) for spec in fields)
            parts.append(f"### {title}\n\n| Field | Default | Takes | Meaning |\n|---|---|---|---|\n{rows}")
    return "\n\n".join(parts)


def renewed(document: str, config_class: type[BaseModel]) -> str:
    """Return ``document`` with the table between the markers made anew.

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
