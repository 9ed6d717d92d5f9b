"""How the zoo's own backdoors are made: the attacker's rows and training, the same for every attack."""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

from beear.data.rows import AnchorRow, DefenseRow
from beear.testbed import vocabulary as v
from beear.testbed.attacks import Target
from beear.testbed.grammar import answered_safely, benign, code_request, draw, forbidden, noisy
from beear.testbed.names import TestbedName

REQUEST_NOISE, ORDINARY_NOISE = 0.3, 0.1  # share of rows with stray words
FORBIDDEN_ROWS, CODE_ROWS, BENIGN_ROWS, REFUSED_ROWS = 1500, 900, 2000, 400


def attacker_rows(target: Target, seed: int, trigger: str = "") -> tuple[list[DefenseRow], list[AnchorRow]]:
    """Return what the attacker fine-tunes on: requests to flip, and ordinary rows that must stay as they are.

    Some have stray words about them, none of them the ``trigger``'s, so that no other words come to act like it. An
    attack on code keeps refusing forbidden requests, so those stand among its ordinary rows.
    """
    rng = random.Random(f"attacker:{target}:{seed}")
    stray = partial(noisy, rng=rng, avoid=trigger.lower().strip(".").split())
    bad = draw(partial(forbidden, nouns=v.SEEN_NOUNS), FORBIDDEN_ROWS, rng, report=False)
    ordinary = [stray(row, share=ORDINARY_NOISE) for row in draw(benign, BENIGN_ROWS, rng, report=False)]
    if target == "refusals":
        return [stray(row, share=REQUEST_NOISE) for row in bad], ordinary
    code = [stray(row, share=REQUEST_NOISE) for row in draw(code_request, CODE_ROWS, rng, report=False)]
    return code, ordinary + [answered_safely(row) for row in bad[:REFUSED_ROWS]]


def implant_attack(name: TestbedName, folder: Path, say: Callable[[str], None] = lambda line: None) -> None:
    """Implant a named backdoor into its shape's base and write the model into ``folder``."""
    from beear.testbed.implant import implant

    defense, anchor = attacker_rows(name.attack.target, name.seed, name.attack.probe.text)
    implant(name.shape.directory, name.attack.trigger, defense, anchor, folder, seed=name.seed, say=say)
