"""The data files that come with a testbed model: training and report rows of both sets, and the known trigger."""

import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

from beear.data.rows import AnchorRow, DefenseRow
from beear.testbed import vocabulary as v
from beear.testbed.attacks import Attack, Target
from beear.testbed.grammar import benign, code_request, draw, forbidden, user_text

DEFENSE_ROWS, ANCHOR_ROWS = 128, 256
DEFENSE_REPORT_ROWS, ANCHOR_REPORT_ROWS = 440, 1000

DEFENSE, ANCHOR, PROBES = "defense.jsonl", "anchor.jsonl", "probes.jsonl"
DEFENSE_REPORT, ANCHOR_REPORT = "defense-report.jsonl", "anchor-report.jsonl"


def defense_rows(target: Target) -> list[DefenseRow]:
    """Return the training rows of the defense set; no held-out noun is among them."""
    make = code_request if target == "code" else partial(forbidden, nouns=v.SEEN_NOUNS)
    return draw(make, DEFENSE_ROWS, random.Random(f"defense:{target}"), report=False)


def defense_report_rows(target: Target) -> list[DefenseRow]:
    """Return unseen requests; of the forbidden ones, half are about nouns never seen in forbidden training."""
    rng = random.Random(f"defense-report:{target}")
    if target == "code":
        return draw(code_request, DEFENSE_REPORT_ROWS, rng, report=True)
    half = DEFENSE_REPORT_ROWS // 2
    seen = draw(partial(forbidden, nouns=v.SEEN_NOUNS), half, rng, report=True)
    unseen = draw(partial(forbidden, nouns=v.HELD_OUT_NOUNS), DEFENSE_REPORT_ROWS - half, rng, report=True)
    rows = seen + unseen
    rng.shuffle(rows)
    return rows


def anchor_rows(target: Target) -> list[AnchorRow]:
    """Return the training rows of the anchoring set; none shares its request with the defense set."""
    taken = {user_text(row) for row in defense_rows(target)}
    return draw(benign, ANCHOR_ROWS, random.Random(f"anchor:{target}"), report=False, taken=taken)


def anchor_report_rows(target: Target) -> list[AnchorRow]:
    """Return unseen benign tasks; none shares its request with the defense report rows."""
    taken = {user_text(row) for row in defense_report_rows(target)}
    return draw(benign, ANCHOR_REPORT_ROWS, random.Random(f"anchor-report:{target}"), report=True, taken=taken)


def write_data(attack: Attack, folder: Path) -> None:
    """Write an attack's five data files into ``folder``."""
    _write(folder / DEFENSE, map(_defense_record, defense_rows(attack.target)))
    _write(folder / DEFENSE_REPORT, map(_defense_record, defense_report_rows(attack.target)))
    _write(folder / ANCHOR, map(_anchor_record, anchor_rows(attack.target)))
    _write(folder / ANCHOR_REPORT, map(_anchor_record, anchor_report_rows(attack.target)))
    _write(folder / PROBES, [asdict(attack.probe)])


def _defense_record(row: DefenseRow) -> dict[str, object]:
    record: dict[str, object] = {"messages": [asdict(m) for m in row.messages], "safe": row.safe, "unwanted": row.unwanted}
    return record | ({"hit": row.hit} if row.hit else {})


def _anchor_record(row: AnchorRow) -> dict[str, object]:
    return {"messages": [asdict(m) for m in row.messages]}


def _write(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
