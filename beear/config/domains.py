"""The values that a search tries for a field: a list, a range of numbers, or layers given as shares of the depth.

Imports neither torch nor ray.
"""

import math
import random
from dataclasses import dataclass, replace
from typing import Any

from beear.config.build import shown


@dataclass(frozen=True, init=False)
class OneOf:
    """One of these values: ``OneOf(3, 5, 8)``. None leaves the field unset."""

    options: tuple[Any, ...]

    def __init__(self, *options: Any) -> None:
        """Keep the values in their order.

        Raises:
            ValueError: there is no value, or one is given twice. The caller puts the field's name before the message.
        """
        if not options:
            raise ValueError("has no value to try; expected at least one")
        for number, option in enumerate(options):
            if option in options[:number]:
                raise ValueError(f"names {shown(option)} twice; expected each value once")
        object.__setattr__(self, "options", options)

    def sample(self, draw: random.Random) -> Any:
        """Return one of the values, all equally likely."""
        return draw.choice(self.options)

    def values(self) -> tuple[Any, ...]:
        """Return every value."""
        return self.options

    def at_most(self, most: float) -> "OneOf | None":
        """Return the values up to ``most``, or None if there are none; all values must be numbers."""
        left = [option for option in self.options if option <= most]
        return OneOf(*left) if left else None

    def ends(self) -> tuple[Any, ...]:
        """Return the values to check so that no other can be out of bounds: all of them."""
        return self.options


@dataclass(frozen=True)
class Between:
    """A number from ``low`` to ``high``, both included.

    ``log`` draws evenly in the logarithm instead of the number; ``whole`` allows whole numbers only.

    Raises:
        ValueError: the range is not valid. The caller puts the field's name before the message.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        """Check the range."""
        if not self.low < self.high:
            raise ValueError(f"runs from low {self.low:g} to high {self.high:g}; expected low below high")
        if self.log and self.low <= 0:
            raise ValueError(f"has low {self.low:g} on a log scale; expected low above 0")
        if self.whole and (self.low % 1 or self.high % 1):
            raise ValueError(f"runs over whole numbers from {self.low:g} to {self.high:g}; expected whole ends")

    def sample(self, draw: random.Random) -> float:
        """Return a number in the range; an int if ``whole``."""
        # Rounding would draw the first and the last whole number half as often as the others, so the range is widened by a half.
        edge = 0.5 if self.whole else 0.0
        low, high = self.low - edge, self.high + edge
        value = math.exp(draw.uniform(math.log(low), math.log(high))) if self.log else draw.uniform(low, high)
        value = min(max(value, self.low), self.high)
        return round(value) if self.whole else value

    def values(self) -> tuple[int, ...] | None:
        """Return every number in the range, or None if they are not whole and cannot be listed."""
        return tuple(range(int(self.low), int(self.high) + 1)) if self.whole else None

    def at_most(self, most: float) -> "OneOf | Between | None":
        """Return the part of the range up to ``most``, or None if it is empty."""
        if self.high <= most:
            return self
        if self.low >= most:
            return OneOf(int(self.low) if self.whole else self.low) if self.low == most else None
        return replace(self, high=most)

    def ends(self) -> tuple[Any, ...]:
        """Return the values to check so that no other can be out of bounds: the lowest and the highest."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)


@dataclass(frozen=True, init=False)
class Depth:
    """Layers as shares of the depth L: ``Depth(0.15, 0.28, 0.4)``. One space then serves models of any depth."""

    fractions: tuple[float, ...]

    def __init__(self, *fractions: float) -> None:
        """Keep the shares.

        Raises:
            ValueError: there is no share, or one is not between 0 and 1. The caller puts the field's name before the message.
        """
        if not fractions:
            raise ValueError("has no depth to try; expected at least one")
        for fraction in fractions:
            if not 0 < fraction < 1:
                raise ValueError(f"has depth {fraction:g}; expected shares of the depth, above 0 and below 1")
        object.__setattr__(self, "fractions", fractions)

    def one_of(self, layers: int) -> OneOf:
        """Return the distinct layers round(f L) of a model of L ``layers``, kept within 1..L-1, in ascending order."""
        return OneOf(*sorted({max(1, min(round(fraction * layers), layers - 1)) for fraction in self.fractions}))


Domain = Depth | OneOf | Between
