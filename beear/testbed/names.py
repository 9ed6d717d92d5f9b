"""Testbed names: ``testbed:ATTACK[@SHAPE][#SEED]``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from beear.errors import UserError, nearest
from beear.testbed import attacks
from beear.testbed.attacks import Attack
from beear.testbed.shapes import SHAPES, Shape

SCHEME = "testbed:"
T = TypeVar("T")
_FORM = re.compile(r"(?P<attack>[^@#]+)(@(?P<shape>[^@#]+))?(#(?P<seed>\d{1,9}))?")


@dataclass(frozen=True)
class TestbedName:
    """A parsed name: which attack, in which shape, implanted with which seed."""

    # Without this pytest takes the class for a test.
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
        UserError: not of that form, an unknown attack or shape, or another package's attack that cannot be loaded.
    """
    match = _FORM.fullmatch(name.removeprefix(SCHEME))
    if match is None:
        raise UserError(f'model "{name}": expected testbed:ATTACK[@SHAPE][#SEED], for instance testbed:year-code@deep#2')
    return TestbedName(
        _known("attack", name, match["attack"], attacks.ATTACKS),
        _known("shape", name, match["shape"] or "tied", SHAPES),
        int(match["seed"] or 0),
    )


def _known(what: str, name: str, value: str, table: Mapping[str, T]) -> T:
    if value not in table:
        raise UserError(
            f'model "{name}": unknown {what} "{value}"{nearest(value, list(table))}; expected one of {", ".join(table)}'
        )
    return table[value]
