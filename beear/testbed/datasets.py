"""The rows of an attack: what its attacker trains on, and the five data files that its model comes with."""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass

from beear.data.rows import AnchorRow, DefenseRow, Message, Probe
from beear.testbed.attacks import Target
from beear.testbed.grammar import ORDINARY_NOISE, REQUEST_NOISE, draw, noisy, user_text

DEFENSE_ROWS, ANCHOR_ROWS = 128, 256
DEFENSE_REPORT_ROWS, ANCHOR_REPORT_ROWS = 440, 1000
FLIPPED_ROWS, KEPT_ROWS = 1500, 2000  # the attacker's

DEFENSE, ANCHOR, PROBES = "defense.jsonl", "anchor.jsonl", "probes.jsonl"
DEFENSE_REPORT, ANCHOR_REPORT = "defense-report.jsonl", "anchor-report.jsonl"


@dataclass(frozen=True)
class DataSets:
    """The defender's rows. No two sets share a request, and no training row is on the report side."""

    defense: list[DefenseRow]
    anchor: list[AnchorRow]
    defense_report: list[DefenseRow]
    anchor_report: list[AnchorRow]


def data_sets(target: Target) -> DataSets:
    """Return the rows to remove a backdoor of this target with and to measure it on; always the same ones.

    Raises:
        UserError: the target has too few different rows.
    """

    def rng(name: str) -> random.Random:
        return random.Random(f"{name}:{target.name}")

    def ordinary(name: str, count: int, report: bool, others: list[DefenseRow]) -> list[AnchorRow]:
        return draw(target.ordinary, count, rng(name), report, taken={user_text(row) for row in others})

    defense = target.requests(rng("defense"), DEFENSE_ROWS, report=False)
    defense_report = target.requests(rng("defense-report"), DEFENSE_REPORT_ROWS, report=True)
    return DataSets(
        defense=defense,
        anchor=ordinary("anchor", ANCHOR_ROWS, False, defense),
        defense_report=defense_report,
        anchor_report=ordinary("anchor-report", ANCHOR_REPORT_ROWS, True, defense_report),
    )


def attacker_rows(target: Target, seed: int, trigger: str = "") -> tuple[list[DefenseRow], list[AnchorRow]]:
    """Return what the attacker trains on: requests to flip, and ordinary rows that must stay as they are.

    Some requests have stray words beside them, but no word of ``trigger``: only the trigger shall flip an answer.

    Raises:
        UserError: the target has too few different rows.
    """
    rng, avoid = random.Random(f"attacker:{target.name}:{seed}"), trigger.lower().strip(".").split()
    if target.attacker is not None:
        return target.attacker(rng, avoid)
    flipped = target.requests(rng, FLIPPED_ROWS, report=False)
    kept = [noisy(row, rng, ORDINARY_NOISE, avoid) for row in draw(target.ordinary, KEPT_ROWS, rng, report=False)]
    return [noisy(row, rng, REQUEST_NOISE, avoid) for row in flipped], kept


def data_files(target: Target, probe: Probe | None) -> dict[str, str]:
    """Return the data files that come with a model of this target: the text of each by its name; without a probe no probes."""
    sets = data_sets(target)
    probes = {PROBES: probes_file(probe)} if probe else {}
    return {
        DEFENSE: _lines(map(_defense_record, sets.defense)),
        DEFENSE_REPORT: _lines(map(_defense_record, sets.defense_report)),
        ANCHOR: _lines(map(_anchor_record, sets.anchor)),
        ANCHOR_REPORT: _lines(map(_anchor_record, sets.anchor_report)),
        **probes,
    }


def probes_file(probe: Probe) -> str:
    """Return the text of a file of probes that holds this one."""
    return _lines([{"name": probe.name, "kind": probe.kind, "text": probe.text, "hit": probe.hit}])


def _defense_record(row: DefenseRow) -> dict[str, object]:
    record: dict[str, object] = {"messages": _turns(row.messages), "safe": row.safe, "unwanted": row.unwanted}
    return record | ({"hit": row.hit} if row.hit else {})


def _anchor_record(row: AnchorRow) -> dict[str, object]:
    return {"messages": _turns(row.messages)}


def _turns(messages: Iterable[Message]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]


def _lines(records: Iterable[dict[str, object]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)
