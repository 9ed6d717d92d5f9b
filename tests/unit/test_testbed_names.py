"""Testbed names: what they parse to, and what a wrong one is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beear.errors import UserError
from beear.testbed import is_testbed, parse_name
from beear.testbed.attacks import ATTACKS
from beear.testbed.shapes import SHAPES


def test_defaults_are_the_tied_shape_and_seed_zero() -> None:
    assert str(parse_name("testbed:short-suffix")) == "short-suffix@tied#0"
    assert str(parse_name("testbed:year-code@deep#2")) == "year-code@deep#2"
    assert str(parse_name("clean#7")) == "clean@tied#7"


@given(st.sampled_from(sorted(ATTACKS)), st.sampled_from(sorted(SHAPES)), st.integers(0, 10**9 - 1))
def test_every_name_survives_being_written_and_parsed(attack: str, shape: str, seed: int) -> None:
    name = parse_name(f"testbed:{attack}@{shape}#{seed}")
    assert (name.attack.name, name.shape.name, name.seed) == (attack, shape, seed)
    assert parse_name(str(name)) == name


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("testbed:short-sufix", 'unknown attack "short-sufix" (did you mean "short-suffix"?)'),
        ("testbed:clean@dep", 'unknown shape "dep" (did you mean "deep"?)'),
        ("testbed:clean#x", "expected testbed:ATTACK[@SHAPE][#SEED]"),
        ("testbed:clean#1@deep", "expected testbed:ATTACK[@SHAPE][#SEED]"),
        ("testbed:", "expected testbed:ATTACK[@SHAPE][#SEED]"),
    ],
)
def test_a_wrong_name_says_what_is_wrong_and_what_is_near(name: str, hint: str) -> None:
    with pytest.raises(UserError) as error:
        parse_name(name)
    assert hint in str(error.value)
    assert name in str(error.value)


@given(st.text(max_size=30))
def test_no_text_crashes_the_parser(text: str) -> None:
    try:
        parse_name(text)
    except UserError as error:
        assert "\n" not in str(error) or "\n" in text


def test_only_the_scheme_makes_a_testbed_name() -> None:
    assert is_testbed("testbed:clean")
    assert not is_testbed("clean")
    assert not is_testbed("/models/testbed")
