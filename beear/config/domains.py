"""What a searched field may be: one of some values, a number in a range, or layers as shares of the depth. No torch, no ray."""

import math
import random
from dataclasses import dataclass, replace
from typing import Any

from beear.config.problems import shown


@dataclass(frozen=True, init=False)
class Choice:
    """One of these values: ``Choice(3, 5, 8)``. None is a field left unset."""

    options: tuple[Any, ...]

    def __init__(self, *options: Any) -> None:
        """Keep the values in their order.

        Raises:
            ValueError: there is none, or one twice; the message goes on from the field's name.
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

    def at_most(self, most: float) -> "Choice | None":
        """Return the values, numbers all, that are not above ``most``; None where there is none."""
        left = [option for option in self.options if option <= most]
        return Choice(*left) if left else None

    def ends(self) -> tuple[Any, ...]:
        """Return the values that every other lies between: all of them."""
        return self.options


@dataclass(frozen=True)
class Between:
    """A number from ``low`` to ``high``, both included: evenly, or evenly in its logarithm; ``whole`` numbers only.

    Raises:
        ValueError: no such range; the message goes on from the field's name.
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
        """Return a number of the range: an int where only whole numbers are meant."""
        # Half a step more at both ends, or rounding would leave the first and the last number half their share.
        edge = 0.5 if self.whole else 0.0
        low, high = self.low - edge, self.high + edge
        value = math.exp(draw.uniform(math.log(low), math.log(high))) if self.log else draw.uniform(low, high)
        value = min(max(value, self.low), self.high)
        return round(value) if self.whole else value

    def values(self) -> tuple[int, ...] | None:
        """Return every number of the range; None where there is no end of them."""
        return tuple(range(int(self.low), int(self.high) + 1)) if self.whole else None

    def at_most(self, most: float) -> "Choice | Between | None":
        """Return the part that is not above ``most``; None where there is none."""
        if self.high <= most:
            return self
        if self.low >= most:
            return Choice(int(self.low) if self.whole else self.low) if self.low == most else None
        return replace(self, high=most)

    def ends(self) -> tuple[Any, ...]:
        """Return the lowest and the highest number."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)


@dataclass(frozen=True, init=False)
class Depth:
    """Layers as shares of the depth L, so that one space serves models of any depth: ``Depth(0.15, 0.28, 0.4)``."""

    fractions: tuple[float, ...]

    def __init__(self, *fractions: float) -> None:
        """Keep the shares.

        Raises:
            ValueError: there is none, or one that is not between 0 and 1; the message goes on from the field's name.
        """
        if not fractions:
            raise ValueError("has no depth to try; expected at least one")
        for fraction in fractions:
            if not 0 < fraction < 1:
                raise ValueError(f"has depth {fraction:g}; expected shares of the depth, above 0 and below 1")
        object.__setattr__(self, "fractions", fractions)

    def choice(self, layers: int) -> Choice:
        """Return the distinct layers round(f L) of a model of L ``layers``, kept within 1..L-1, in ascending order."""
        return Choice(*sorted({max(1, min(round(fraction * layers), layers - 1)) for fraction in self.fractions}))


Domain = Depth | Choice | Between
