"""The command line's words: options of the program, and ``--section.field value`` overrides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from beear.config.fields import FieldSpec, suggestion
from beear.errors import UserError, nearest

PROGRAM_SWITCHES = ("--dry-run", "--verbose", "--help", "--fresh", "--resume")
# Switches that only programs with such a field have.
ONLY_WITH = {"--fresh": "output.fresh", "--resume": "search.trials"}


@dataclass
class Arguments:
    """What was asked for; ``overrides`` are values by dotted field name, the last one given standing."""

    config_path: str | None = None
    switches: set[str] = field(default_factory=set)
    overrides: dict[str, Any] = field(default_factory=dict)


def read_arguments(argv: Sequence[str], known: Mapping[str, FieldSpec]) -> Arguments:
    """Read the words after the program's name.

    Raises:
        UserError: an unknown option, a word that belongs to none, or a value missing.
    """
    found = Arguments()
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "-h":
            word = "--help"
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
    return found


def offered(switch: str, known: Mapping[str, FieldSpec]) -> bool:
    """Say whether a program whose fields are ``known`` has the switch."""
    return switch not in ONLY_WITH or ONLY_WITH[switch] in known


def _override(name: str, value: str | None, words: list[str], known: Mapping[str, FieldSpec]) -> tuple[str, Any]:
    if name not in known:
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
    """Give simple values to pydantic as text, which it reads by type; lists and mappings are YAML."""
    if spec.optional and text.lower() in ("none", "null"):
        return None
    if spec.simple:
        # A choice among numbers is read by value, not by type.
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
