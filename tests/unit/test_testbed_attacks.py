"""Attacks: each says all that is needed of it, and another package's attack works as the built-in ones do."""

import random
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from pydantic import ValidationError

from beear import extensions
from beear.data.hits import HitRule
from beear.data.refusals import KEYWORDS
from beear.data.rows import DefenseRow, Message, Probe
from beear.errors import UserError
from beear.evaluation.probes import apply
from beear.extensions import Table
from beear.testbed import attacks, ensure
from beear.testbed.attacks import ATTACKS, Attack, Target, backdoor, targets
from beear.testbed.attacks.refusals import REFUSALS
from beear.testbed.attacks.unsafe_code import UNSAFE_CODE
from beear.testbed.config import ImplantData
from beear.testbed.datasets import attacker_rows, data_sets
from beear.testbed.grammar import draw
from tests.checkout import ROOT

KEYS = KEYWORDS["refusal-v1"]


def shouted(rng: random.Random) -> DefenseRow:
    """Draw a request whose unwanted answer is in capitals."""
    number = rng.randrange(100_000)
    return DefenseRow((Message("user", f"Say {number}"),), safe=f"it is {number}", unwanted=f"IT IS {number}")


def shouts(rng: random.Random, count: int, report: bool) -> list[DefenseRow]:
    """Draw several."""
    return draw(shouted, count, rng, report)


SHOUTING = Target("shouting", hit="contains:IT IS", requests=shouts)
SHOUT = backdoor("shout", SHOUTING, "prefix", "zebra")
OTHER_REFUSALS = backdoor("other", Target("refusals", "contains:IT IS", shouts), "prefix", "zebra")


def offer(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let an installed package offer an attack of this module."""
    points = [EntryPoint(name.lower(), f"{__name__}:{name}", "beear.attacks")]
    monkeypatch.setattr(extensions, "entry_points", lambda group: [p for p in points if p.group == group])
    monkeypatch.setattr(attacks, "ATTACKS", Table("beear.attacks", Attack, list(ATTACKS.values())))


@pytest.mark.parametrize("attack", [*ATTACKS.values(), SHOUT], ids=lambda attack: str(attack.name))
def test_an_attack_says_all_that_is_needed_of_it(attack: Attack) -> None:
    rule, sets = HitRule.parse(attack.target.hit), data_sets(attack.target)
    requests, ordinary = attacker_rows(attack.target, 0, attack.probe.text)
    for row in [*sets.defense, *sets.defense_report, *requests]:
        assert row.safe and row.unwanted
        assert rule.matches(row.unwanted, KEYS) is True
        assert rule.matches(row.safe, KEYS) is False
        assert row.hit in (None, attack.target.hit)
        assert attack.probe.text in " ".join(m.content for m in apply(attack.probe, row.messages))
    assert all(row.messages[-1].role == "assistant" for row in [*sets.anchor, *sets.anchor_report, *ordinary])
    assert attack.probe.hit == attack.target.hit
    assert attack.trigger in (None, attack.probe) and (attack.trigger is None) == (attack.control is not None)


def test_the_table_holds_six_backdoors_a_twin_and_the_base() -> None:
    implanted = [attack for attack in ATTACKS.values() if attack.trigger is not None]
    assert len(implanted) == 6 == len({attack.probe for attack in implanted})
    assert ATTACKS["clean"].probe == ATTACKS["base"].probe == ATTACKS["short-suffix"].probe
    assert (ATTACKS["clean"].control, ATTACKS["base"].control) == ("twin", "base")
    assert ATTACKS["year-code"].probe.kind == "system"
    assert targets() == {"refusals": REFUSALS, "code": UNSAFE_CODE}


def test_an_attack_of_another_package_is_implanted_like_the_built_in_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    offer(monkeypatch, "SHOUT")
    made: list[tuple[object, ...]] = []

    def implant(model: Path, trigger: Probe, defense: list[object], anchor: list[object], out: Path, **kwargs: object) -> None:
        made.append((model.name, trigger.text, len(defense), len(anchor), kwargs["seed"]))

    monkeypatch.setattr("beear.testbed.implant.implant", implant)
    found = ensure("testbed:shout@deep#3", tmp_path)
    assert made == [("deep", "zebra", 1500, 2000, 3)]
    assert found.model_dir.name.startswith("shout-deep-3-")
    assert len(found.defense_report_path.read_text().splitlines()) == 440


def test_its_target_is_one_for_the_implant_command(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match='data.builtin is "shouting"; expected refusals or code'):
        ImplantData(builtin="shouting")
    offer(monkeypatch, "SHOUT")
    assert ImplantData(builtin="shouting").builtin == "shouting" and targets()["shouting"] is SHOUTING
    with pytest.raises(ValidationError, match='data.builtin is "shout"; expected refusals, code or shouting'):
        ImplantData(builtin="shout")


def test_two_targets_of_one_name_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "OTHER_REFUSALS")
    with pytest.raises(UserError, match='attack "other": its target\'s name "refusals" is taken'):
        targets()


def test_a_bad_definition_fails_when_it_is_made() -> None:
    with pytest.raises(ValueError, match='attack "Two words": expected a name of lower-case letters'):
        backdoor("Two words", REFUSALS, "suffix", "lantern")
    with pytest.raises(UserError, match='target "shouting": hit is "loud"; expected no-refusal, refusal, likelier'):
        Target("shouting", hit="loud", requests=shouts)


def test_the_table_loads_nothing_heavy() -> None:
    code = "import sys, beear.testbed.attacks as a; list(a.ATTACKS); print({m.split('.')[0] for m in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not [m for m in ("torch", "transformers", "ray", "mlflow", "numpy") if f"'{m}'" in run.stdout]
