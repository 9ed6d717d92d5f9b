"""The grammar of testbed names: ``testbed:ATTACK[@SHAPE][#SEED]``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from beear.errors import UserError, nearest
from beear.testbed.attacks import ATTACKS, Attack
from beear.testbed.shapes import SHAPES, Shape

SCHEME = "testbed:"
T = TypeVar("T")
_GRAMMAR = re.compile(r"(?P<attack>[^@#]+)(@(?P<shape>[^@#]+))?(#(?P<seed>\d{1,9}))?")


@dataclass(frozen=True)
class TestbedName:
    """A parsed name: which backdoor, in which shape, implanted with which seed."""

    # Keeps pytest from collecting this as a test class.
    __test__ = False

    attack: Attack
    shape: Shape
    seed: int

    def __str__(self) -> str:
        """Return the name in full, without the scheme."""
        return f"{self.attack.name}@{self.shape.name}#{self.seed}"


def is_testbed(path: str) -> bool:
    """Say whether a model path names a testbed model."""
    return path.startswith(SCHEME)


def parse_name(name: str) -> TestbedName:
    """Parse ``testbed:ATTACK[@SHAPE][#SEED]`` (the scheme may be left out).

    Raises:
        UserError: not of that form, or an unknown attack or shape.
    """
    match = _GRAMMAR.fullmatch(name.removeprefix(SCHEME))
    if match is None:
        raise UserError(f'model "{name}": expected testbed:ATTACK[@SHAPE][#SEED], for instance testbed:year-code@deep#2')
    return TestbedName(
        _known("attack", name, match["attack"], ATTACKS),
        _known("shape", name, match["shape"] or "tied", SHAPES),
        int(match["seed"] or 0),
    )


def _known(what: str, name: str, value: str, table: Mapping[str, T]) -> T:
    if value not in table:
        raise UserError(
            f'model "{name}": unknown {what} "{value}"{nearest(value, list(table))}; expected one of {", ".join(table)}'
        )
    return table[value]
