"""The backends' benchmark runs, and its table says what was measured."""

from pathlib import Path

from benchmarks.backends import Load, gains, markdown, measure


def test_it_times_every_way_in_turns_and_weighs_it(tmp_path: Path) -> None:
    result = measure(tmp_path, Load(layers=3, hidden=128, vocabulary=2048, rows=4, prompt=8, answer=4, rounds=1), ("fsdp",))
    found = result["backends"]["fsdp"]
    assert all(seconds > 0 for way in ("plain", "one", "two") for seconds in found[way])
    # Two that share the weights hold less each than one that holds them all.
    assert 0 < found["peaks"]["two"] < found["peaks"]["one"]
    assert gains(found, "two") == [found["plain"][0] / found["two"][0]]
    assert "| fsdp |" in markdown(result)
