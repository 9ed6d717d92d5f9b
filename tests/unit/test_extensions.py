"""Tables: built-in members first, then what installed packages offer; a bad package is one sentence."""

from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest

from beear import extensions
from beear.errors import UserError
from beear.extensions import Table


@dataclass(frozen=True)
class Member:
    name: str


OWN, OTHER, TAKEN, FIELD, NO_MEMBER = Member("own"), Member("other"), Member("own"), Member("field"), "text"


def offered(monkeypatch: pytest.MonkeyPatch, *names: str) -> Table[Member]:
    """Return a table to which an installed package offers these names of this module."""
    points = [EntryPoint(name.lower(), f"{__name__}:{name}", "beear.things") for name in names]
    monkeypatch.setattr(extensions, "entry_points", lambda group: [p for p in points if p.group == group])
    return Table("beear.things", Member, [OWN], taken=["field"])


def test_members_of_other_packages_follow_the_built_in_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    table = offered(monkeypatch, "OTHER")
    assert list(table) == ["own", "other"]
    assert table["other"] is OTHER and table.added == (OTHER,)
    assert list(offered(monkeypatch)) == ["own"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("TAKEN", r'"own" is taken in beear.things; expected a name of its own'),
        ("FIELD", r'"field" is taken in beear.things; expected a name of its own'),
        ("NO_MEMBER", r"found str, expected Member"),
        ("ABSENT", r"cannot be loaded \(AttributeError"),
    ],
)
def test_a_bad_package_is_one_sentence(name: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = offered(monkeypatch, name)
    with pytest.raises(UserError, match=f'^entry point "{name.lower()}" .* of an installed package: .*{sentence}'):
        list(table)
