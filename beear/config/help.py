"""The text of ``--help``: every field by section, with its default, its unit and one line."""

import shutil
import textwrap

from pydantic import BaseModel

from beear.config.arguments import offered
from beear.config.fields import FieldSpec, leaves, sections

_OPTIONS = (
    ("--config FILE", "YAML file with the same fields; options on the command line win"),
    ("--dry-run", "print the resolved configuration and the plan, touch nothing"),
    ("--verbose", "show every library's log"),
    ("--fresh", "run again even if this run is complete (output.fresh)"),
    ("--resume", "go on with a search that was cut off, which the same command does anyway; refuse to begin a new one"),
    ("--help", "show this text"),
)


def help_text(config_class: type[BaseModel], description: str, width: int | None = None) -> str:
    """Return the help of a program whose configuration is ``config_class``; ``width`` in characters."""
    width = width or max(60, min(shutil.get_terminal_size((110, 24)).columns, 120))
    known = leaves(config_class)
    options = [option for option in _OPTIONS if offered(option[0], known)]
    lines = [description.strip(), "", "Options:"]
    for name, words in options:
        lines += _entry(name, words, width)
    lines += ["", *textwrap.wrap("Fields (default in brackets; none resets a field that may be unset):", width)]
    for title, description_, fields in _groups(config_class, known):
        lines += ["", f"{title}: {description_}" if title else description_]
        for spec in fields:
            lines += _entry(f"--{spec.name} [{spec.shown_default}]", spec.description + _takes(spec), width)
    return "\n".join(lines)


def _groups(config_class: type[BaseModel], known: dict[str, FieldSpec]) -> list[tuple[str, str, list[FieldSpec]]]:
    titles = [*((name, words) for name, _, words in sections(config_class)), ("", "the run as a whole")]
    groups = [(name, words, [s for s in known.values() if s.section == name]) for name, words in titles]
    return [group for group in groups if group[2]]


def _takes(spec: FieldSpec) -> str:
    """Say what the field takes, unless it is any text or the description lists the values already."""
    words = spec.expected.removeprefix("a ")
    return "" if spec.types == (str,) else f" ({words})"


def _entry(name: str, words: str, width: int) -> list[str]:
    indent = 44 if width >= 100 else 8
    body = textwrap.wrap(words, width - indent, break_long_words=False) or [""]
    if len(name) + 3 <= indent and width >= 100:
        return [f"  {name:<{indent - 2}}{body[0]}", *(" " * indent + line for line in body[1:])]
    return [f"  {name}", *(" " * indent + line for line in body)]
