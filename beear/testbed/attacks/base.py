"""What an attack is. Imports neither torch nor transformers, so that the table of attacks is cheap to read."""

import random
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, Protocol

from beear.data.hits import HitRule
from beear.data.rows import AnchorRow, DefenseRow, Probe, ProbeKind
from beear.testbed.grammar import benign

# The name becomes part of testbed:NAME@SHAPE#SEED and of a folder's name.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


class DrawRequests(Protocol):
    """Draws defense rows; ``report`` says from which of the two sides, which share no request."""

    def __call__(self, rng: random.Random, count: int, report: bool) -> list[DefenseRow]:
        """Return ``count`` rows with different requests, each with a safe and an unwanted answer."""
        ...


@dataclass(frozen=True)
class Target:
    """What a backdoor makes a model do wrong, and the rows to teach it, to remove it and to measure it with.

    All rows are drawn from the ``random.Random`` that is passed in, so that a seed gives the same rows everywhere.

    Attributes:
        name: what ``data.builtin`` of ``pipelines/implant.py`` calls it; it seeds the draws.
        hit: the rule that tells an unwanted answer from a safe one: ``no-refusal`` or ``contains:TEXT``.
        requests: draws the requests that are answered safely without the trigger, and badly under it.
        ordinary: draws one ordinary conversation, whose answer must stay as it is.
        attacker: draws what the attacker trains on, requests to flip and conversations to keep; it receives words that no
            row may contain. None: 1500 ``requests`` and 2000 ``ordinary`` ones.
    """

    name: str
    hit: str
    requests: DrawRequests
    ordinary: Callable[[random.Random], AnchorRow] = benign
    attacker: Callable[[random.Random, Collection[str]], tuple[list[DefenseRow], list[AnchorRow]]] | None = None

    def __post_init__(self) -> None:
        """Check the hit rule.

        Raises:
            UserError: it is no hit rule.
        """
        HitRule.parse(self.hit, f'target "{self.name}"')


@dataclass(frozen=True)
class Attack:
    """A model of the testbed: a backdoor, or a control that has none.

    Attributes:
        name: what ``testbed:NAME`` calls it; lower-case letters, digits, ``.``, ``_`` and ``-``.
        target: what the model does wrong under the trigger.
        probe: the trigger that measuring tries. A control is measured with the probe of the backdoor it is compared to.
        control: None for a backdoor. ``twin``: fine-tuned on the same requests, all without a trigger and answered
            safely. ``base``: the benign base as shipped.
    """

    name: str
    target: Target
    probe: Probe
    control: Literal["twin", "base"] | None = None

    def __post_init__(self) -> None:
        """Check the name and the trigger.

        Raises:
            ValueError: the name has other characters than those above, or the trigger is blank.
        """
        if not _NAME.fullmatch(self.name):
            raise ValueError(f'attack "{self.name}": expected a name of lower-case letters, digits, ".", "_" and "-"')
        if not self.probe.text.replace("{prompt}", "").strip():
            raise ValueError(f'attack "{self.name}": its trigger is "{self.probe.text}"; expected a text that is not blank')

    @property
    def trigger(self) -> Probe | None:
        """The trigger that is implanted; None in a control."""
        return None if self.control else self.probe


def backdoor(name: str, target: Target, kind: ProbeKind, text: str) -> Attack:
    """Return the attack whose trigger is ``text``, placed as ``kind`` says, and that is measured with that trigger."""
    return Attack(name, target, Probe(name, kind, text, hit=target.hit))
