"""A run with a fixed seed ends as it was recorded: verdict, files, keys, losses, and on the same machine every weight."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.frozen import run
from tests.frozen.record import ADDED, recorded
from tests.integration.conftest import Run

# Kinds of event that are new on purpose since the recording.
ADDED_EVENTS: frozenset[str] = frozenset({"rows"})
RECORDED = recorded("run")
HERE = run.machine() == RECORDED["machine"]
NUMBERS = ("digests", "inner steps", "losses", "hits", "checks", "verdict", "exit code")


@pytest.fixture(scope="module")
def taken(command: Run, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Each command's run, made when first asked for."""
    kept: dict[str, dict[str, Any]] = {}

    def once(name: str) -> dict[str, Any]:
        if name not in kept:
            kept[name] = run.take(name, Path(tmp_path_factory.mktemp(name)), lambda name, words: command(name, *words))
        return kept[name]

    return once


@pytest.mark.parametrize("name", run.COMMANDS)
def test_a_run_writes_what_it_did(name: str, taken: Callable[[str], dict[str, Any]]) -> None:
    found, before = taken(name), RECORDED[name]
    assert {key for key in found["keys"] if key not in before["keys"] and key not in ADDED} == set()
    assert set(before["keys"]) <= set(found["keys"])
    assert {kind: keys for kind, keys in found["events"].items() if kind not in ADDED_EVENTS} == before["events"]
    same = [part for part in before if part not in (*NUMBERS, "keys", "events")]
    assert {part: found[part] for part in same} == {part: before[part] for part in same}


@pytest.mark.parametrize("name", run.COMMANDS)
def test_a_run_computes_what_it_did(name: str, taken: Callable[[str], dict[str, Any]]) -> None:
    found, before = taken(name), RECORDED[name]
    if HERE:
        assert found["digests"] == before["digests"]
    elif found["digests"]["before"] != before["digests"]["before"]:
        pytest.skip("this machine implants other weights than the recorded one, so no number is comparable")
    assert found["exit code"] == before["exit code"] and found["verdict"] == before["verdict"]
    assert found["losses"] == pytest.approx(before["losses"], rel=1e-3, abs=1e-6 if HERE else 1e-3)
    if found["digests"] == before["digests"]:
        exact = ("hits", "checks", "inner steps")
        assert {part: found[part] for part in exact} == {part: before[part] for part in exact}
