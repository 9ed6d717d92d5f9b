"""The cache: keyed by what it depends on, whole or not there, one maker at a time, no torch to find a model."""

import random
import subprocess
import sys
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from beear.data.rows import AnchorRow, DefenseRow, Probe
from beear.errors import UserError
from beear.testbed import attacks, ensure, parse_name, preview, store
from beear.testbed.grammar import benign, draw, forbidden
from beear.testbed.shapes import SHAPES
from tests.checkout import ROOT


@pytest.fixture
def implants(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the fine-tuning by a marker and record each call."""
    calls: list[str] = []

    def implant(model_dir: Path, trigger: Probe | None, defense: object, anchor: object, out: Path, **kwargs: object) -> None:
        calls.append(f"{trigger.name if trigger else None} in {model_dir.name}, seed {kwargs['seed']}")
        (out / "config.json").write_text("{}")

    monkeypatch.setattr("beear.testbed.implant.implant", implant)
    return calls


def test_a_model_is_made_once_and_found_again(tmp_path: Path, implants: list[str]) -> None:
    first = ensure("testbed:short-suffix", tmp_path)
    second = ensure("short-suffix@tied#0", tmp_path)
    assert first == second
    assert implants == ["short-suffix in tied, seed 0"]
    assert (first.model_dir / "config.json").is_file()


def test_a_preview_leaves_the_cache_as_it_is(tmp_path: Path, implants: list[str]) -> None:
    cache, scratch = tmp_path / "cache", tmp_path / "scratch"
    seen = preview("testbed:sentence@deep", scratch, cache)
    assert not cache.exists() and implants == []
    assert (seen.implanted, seen.model_dir) == (False, SHAPES["deep"].directory)
    made = ensure("testbed:sentence@deep", cache)
    assert seen.defense_path.read_bytes() == made.defense_path.read_bytes()
    assert seen.defense_path.relative_to(scratch) == made.defense_path.relative_to(store.cache_root(cache))
    assert preview("testbed:sentence@deep", scratch, cache) == made


def test_many_asking_at_once_make_it_once(tmp_path: Path, implants: list[str]) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: ensure("testbed:sentence", tmp_path), range(8)))
    assert len(set(found)) == 1
    assert implants == ["sentence in tied, seed 0"]
    assert [path.name for path in (tmp_path / "testbed").iterdir() if path.is_dir()].count(found[0].model_dir.name) == 1


def test_a_failed_implant_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(model_dir: Path, trigger: object, defense: object, anchor: object, out: Path, **kwargs: object) -> None:
        (out / "config.json").write_text("{}")
        raise RuntimeError("no memory")

    monkeypatch.setattr("beear.testbed.implant.implant", breaks)
    with pytest.raises(RuntimeError, match="no memory"):
        ensure("testbed:clean", tmp_path)
    assert not [path for path in (tmp_path / "testbed").iterdir() if path.is_dir()]


def test_attack_shape_and_seed_each_have_a_folder_of_their_own(tmp_path: Path, implants: list[str]) -> None:
    names = ["clean", "short-suffix", "clean#1", "clean@deep", "clean@deep#1"]
    assert len({ensure(name, tmp_path).model_dir for name in names}) == len(names)


def test_the_folder_depends_on_all_that_the_model_follows_from(
    tmp_path: Path, implants: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ensure("clean", tmp_path)
    assert implants == ["None in tied, seed 0"]
    clean = attacks.ATTACKS["clean"]

    def other_rows(rng: random.Random, avoid: Collection[str]) -> tuple[list[DefenseRow], list[AnchorRow]]:
        return draw(forbidden, 30, rng, report=False), draw(benign, 40, rng, report=False)

    with monkeypatch.context() as patched:
        other = replace(clean, target=replace(clean.target, attacker=other_rows))
        patched.setattr(attacks, "ATTACKS", {"clean": other})
        after = ensure("clean", tmp_path)
        assert after.model_dir != before.model_dir and after.defense_path == before.defense_path
    with monkeypatch.context() as patched:
        patched.setattr(attacks, "ATTACKS", {"clean": replace(clean, probe=Probe("other", "prefix", "lantern"))})
        after = ensure("clean", tmp_path)
        assert after.model_dir == before.model_dir and after.probes_path != before.probes_path
    with monkeypatch.context() as patched:
        patched.setattr(store, "_base_digest", lambda directory: "another base")
        assert ensure("clean", tmp_path).model_dir != before.model_dir
    with monkeypatch.context() as patched:
        patched.setattr(store, "MODEL_SOURCES", store.MODEL_SOURCES[:-1])
        assert ensure("clean", tmp_path).model_dir != before.model_dir
    assert ensure("clean", tmp_path) == before and len(implants) == 4


def test_the_base_is_the_shipped_one(tmp_path: Path) -> None:
    assert ensure("testbed:base", tmp_path).model_dir == SHAPES["tied"].directory
    assert parse_name("testbed:base@deep").shape.directory == SHAPES["deep"].directory


def test_the_cache_is_where_the_environment_says(tmp_path: Path, implants: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEEAR_CACHE", str(tmp_path / "there"))
    assert ensure("clean").defense_path.is_relative_to(tmp_path / "there")


def test_a_cache_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="expected a folder to keep testbed models in"):
        ensure("testbed:clean", tmp_path / "file")


def test_finding_a_model_imports_no_torch(tmp_path: Path, implants: list[str]) -> None:
    ensure("testbed:clean", tmp_path)
    code = (
        "import sys; from beear.testbed import ensure; "
        f"print(ensure('testbed:clean', {str(tmp_path)!r}).model_dir); "
        "print([m for m in ('torch', 'transformers', 'ray', 'mlflow') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[1] == "[]"
