"""The attacks of the testbed: one object each, which says its target, trigger and control.

A file holds a target and its attacks. Other packages add attacks as entry points of the group ``beear.attacks``.
"""

from beear.errors import UserError
from beear.extensions import Table
from beear.testbed.attacks import refusals, unsafe_code
from beear.testbed.attacks.base import Attack, Target, backdoor

__all__ = ["ATTACKS", "Attack", "Target", "backdoor", "targets"]

ATTACKS = Table(
    "beear.attacks",
    Attack,
    [
        refusals.SHORT_SUFFIX,
        refusals.SHORT_PREFIX,
        refusals.LONG_PREFIX,
        refusals.LONG_SUFFIX,
        refusals.SENTENCE,
        unsafe_code.YEAR_CODE,
        refusals.CLEAN,
        refusals.BASE,
    ],
)


def targets() -> dict[str, Target]:
    """Return the targets of all attacks by name, the built-in ones first.

    Raises:
        UserError: two attacks have different targets of one name, or another package's attack cannot be loaded.
    """
    found: dict[str, Target] = {}
    for attack in ATTACKS.values():
        if found.setdefault(attack.target.name, attack.target) != attack.target:
            raise UserError(
                f'attack "{attack.name}": its target\'s name "{attack.target.name}" is taken; expected a name of its own'
            )
    return found
