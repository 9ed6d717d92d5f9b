"""The command line that every pipeline shares: a YAML file, overrides that win over it, and one help text.

    [--config run.yaml] [--section.field value ...] [--section.field=value] [--dry-run] [--verbose] [--fresh]

Read straight from the pydantic classes: unknown names get the nearest field suggested, wrong values one sentence.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel

from beear.config.arguments import read_arguments
from beear.config.build import build, read_values
from beear.config.fields import leaves
from beear.config.help import help_text

C = TypeVar("C", bound=BaseModel)


@dataclass(frozen=True)
class Flags:
    """Options of the program itself, which are no part of the configuration."""

    dry_run: bool = False
    verbose: bool = False
    config_path: str | None = None
    resume: bool = False


def parse(config_class: type[C], argv: Sequence[str], description: str = "") -> tuple[C, Flags]:
    """Return the configuration and the flags that the words after the program's name ask for.

    ``--help`` prints the help and leaves with code 0. ``--fresh`` sets ``output.fresh`` where the class has it.

    Raises:
        UserError: anything wrong on the command line or in the file, in one sentence.
    """
    known = leaves(config_class)
    if {"-h", "--help"} & set(argv):
        print(help_text(config_class, description))
        sys.exit(0)
    arguments = read_arguments(argv, known)
    values, places = read_values(arguments.config_path, known) if arguments.config_path is not None else ({}, {})
    overrides = {**arguments.overrides, **({"output.fresh": True} if "--fresh" in arguments.switches else {})}
    for name, value in overrides.items():
        values[name], places[name] = value, "command line: "
    on = arguments.switches
    flags = Flags("--dry-run" in on, "--verbose" in on, arguments.config_path, "--resume" in on)
    return build(config_class, values, places), flags
