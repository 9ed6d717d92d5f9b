"""The command line of every pipeline: a YAML file, options that win over it, and the help text.

    [--config run.yaml] [--section.field value ...] [--section.field=value] [--dry-run] [--verbose] [--fresh]

Options and help are read from the pydantic classes. An unknown name is answered with the nearest field.
"""

import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

from beear.config.build import build
from beear.config.fields import FieldSpec, groups, leaves, suggestion
from beear.config.yaml_file import read_values
from beear.errors import UserError, nearest

C = TypeVar("C", bound=BaseModel)

_OPTIONS = (
    ("--config FILE", "YAML file with the same fields; options on the command line win"),
    ("--dry-run", "print the resolved configuration and the memory plan, then stop; write nothing"),
    ("--verbose", "show the log messages of every library"),
    ("--fresh", "run again even if this run is complete (output.fresh)"),
    (
        "--resume",
        "continue an interrupted search, which the same command does anyway; stop with an error if there is none",
    ),
    ("--help", "show this text"),
)
PROGRAM_SWITCHES = tuple(name for name, _ in _OPTIONS if " " not in name)
# A switch that only the programs with this field offer.
ONLY_WITH = {"--fresh": "output.fresh", "--resume": "search.trials"}


@dataclass(frozen=True)
class Flags:
    """Options of the program itself. They are not part of the configuration, so they change no identity."""

    dry_run: bool = False
    verbose: bool = False
    config_path: str | None = None
    resume: bool = False


def parse(config_class: type[C], argv: Sequence[str], description: str = "") -> tuple[C, Flags]:
    """Return the configuration and the flags that ``argv``, the words after the program's name, ask for.

    ``--help`` prints the help and exits with code 0. ``--fresh`` sets ``output.fresh`` where the class has it.

    Raises:
        UserError: the command line or the file is wrong.
    """
    known = leaves(config_class)
    if {"-h", "--help"} & set(argv):
        print(help_text(config_class, description))
        sys.exit(0)
    arguments = read_arguments(argv, known)
    values, places = _read(arguments, known)
    overrides = {**arguments.overrides, **({"output.fresh": True} if "--fresh" in arguments.switches else {})}
    for name, value in overrides.items():
        values[name], places[name] = value, "command line: "
    on = arguments.switches
    flags = Flags("--dry-run" in on, "--verbose" in on, arguments.config_path, "--resume" in on)
    return build(config_class, values, places, arguments.problems), flags


@dataclass
class Arguments:
    """The command line, taken apart. ``overrides`` are values by dotted field name; of two for one field the last counts.

    ``problems`` are the words that mean nothing, a sentence each.
    """

    config_path: str | None = None
    switches: set[str] = field(default_factory=set)
    overrides: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read_arguments(argv: Sequence[str], known: Mapping[str, FieldSpec]) -> Arguments:
    """Take the command line apart."""
    found = Arguments()
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "-h":
            word = "--help"
        try:
            _take(word, words, known, found)
        except UserError as error:
            found.problems += error.args
    return found


def _read(arguments: Arguments, known: Mapping[str, FieldSpec]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values of the configuration file and their places; where it cannot be read, that is one problem more."""
    if arguments.config_path is None:
        return {}, {}
    try:
        return read_values(arguments.config_path, known)
    except UserError as error:
        arguments.problems += error.args
        return {}, {}


def _take(word: str, words: list[str], known: Mapping[str, FieldSpec], found: Arguments) -> None:
    """Put what ``word`` says into ``found``, with the value that the next of ``words`` may be.

    Raises:
        UserError: the option is unknown, the word belongs to none, or a value is missing.
    """
    name, equals, value = word.partition("=")
    if not name.startswith("--"):
        raise UserError(f'unexpected "{word}" on the command line; expected --section.field value')
    if name in PROGRAM_SWITCHES and not equals and offered(name, known):
        found.switches.add(name)
    elif name == "--config":
        found.config_path = value if equals else _next(words, "--config", "a YAML file")
    else:
        dotted, given = _override(name[2:], value if equals else None, words, known)
        found.overrides[dotted] = given


def offered(switch: str, known: Mapping[str, FieldSpec]) -> bool:
    """Say whether a program whose fields are ``known`` offers the switch."""
    return switch not in ONLY_WITH or ONLY_WITH[switch] in known


def _override(name: str, value: str | None, words: list[str], known: Mapping[str, FieldSpec]) -> tuple[str, Any]:
    if name not in known:
        # The word after an option that nobody knows is its value: it is no mistake of its own.
        if value is None and words and not words[0].startswith("--"):
            words.pop(0)
        raise UserError(_unknown(name, known))
    spec = known[name]
    if value is None:
        alone = not words or words[0].startswith("--")
        value = "true" if spec.switch and alone else _next(words, f"--{name}", spec.expected)
    return name, _typed(value, spec)


def _next(words: list[str], option: str, expected: str) -> str:
    if not words or words[0].startswith("--"):
        raise UserError(f"{option} has no value; expected {expected}")
    return words.pop(0)


def _typed(text: str, spec: FieldSpec) -> Any:
    """Return simple values as text, which pydantic converts to the field's type; read lists and mappings as YAML."""
    if spec.optional and text.lower() in ("none", "null"):
        return None
    if spec.simple:
        # pydantic does not convert text for a Literal: "3" would not match the option 3.
        return next((choice for choice in spec.choices if str(choice) == text), text)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f'--{spec.name} is "{text}"; expected {spec.expected}, written as YAML') from None


def _unknown(name: str, known: Mapping[str, FieldSpec]) -> str:
    inside = [other for other in known if other.startswith(f"{name}.")]
    if inside:
        return f"--{name} is a section; expected one of its fields, such as --{inside[0]}"
    switches = [switch for switch in PROGRAM_SWITCHES if offered(switch, known)]
    program = nearest(f"--{name}", [*switches, "--config"]) if "." not in name else ""
    return f"unknown option --{name}{suggestion(name, known) or program or '; --help lists every field'}"


def help_text(config_class: type[BaseModel], description: str, width: int | None = None) -> str:
    """Return the help of a program whose configuration is ``config_class``; ``width`` in characters."""
    width = width or max(60, min(shutil.get_terminal_size((110, 24)).columns, 120))
    known = leaves(config_class)
    options = [option for option in _OPTIONS if offered(option[0], known)]
    lines = [description.strip(), "", "Options:"]
    for name, words in options:
        lines += _entry(name, words, width)
    lines += ["", *textwrap.wrap("Fields (default in square brackets; the value none clears a field that may be unset):", width)]
    for title, description_, fields in groups(config_class, known):
        lines += ["", *textwrap.wrap(f"{title}: {description_}" if title else description_, width)]
        for spec in fields:
            # "(text)" would tell the reader nothing.
            takes = "" if spec.types == (str,) else f" ({spec.expected.removeprefix('a ')})"
            lines += _entry(f"--{spec.name} [{spec.shown_default}]", spec.description + takes, width)
    return "\n".join(lines)


def _entry(name: str, words: str, width: int) -> list[str]:
    indent = 44 if width >= 100 else 8
    body = textwrap.wrap(words, width - indent, break_long_words=False) or [""]
    if len(name) + 3 <= indent and width >= 100:
        return [f"  {name:<{indent - 2}}{body[0]}", *(" " * indent + line for line in body[1:])]
    return [f"  {name}", *(" " * indent + line for line in body)]
