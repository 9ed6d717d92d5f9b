"""What the driver reads of the data before Ray starts: splits, overlaps, hit rules, counts, and the training plan."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from heapq import nlargest
from typing import Literal, TypeVar

from beear.config.resolve import ResolvedConfig
from beear.config.schema import AnchorData, DataConfig, DefenseData, ProbesData
from beear.data import notes, same_files
from beear.data.columns import probe
from beear.data.data_source import SPLITS, DataSource, Row, Scan, scan, split_of
from beear.data.files import blocks, expand, read_block
from beear.data.hits import LOOKING, HitRule, default_rule
from beear.data.layouts import WrongColumns
from beear.data.missing_answers import Filled, Generate, complete, fill_safe
from beear.data.refusals import KEYWORDS, is_refusal
from beear.data.rows import AnchorRow, DefenseRow, Probe
from beear.data.steps import TrainingPlan
from beear.errors import UserError

MOST_HELD_OUT = 4096
MOST_CHECKED = 8
R = TypeVar("R", DefenseRow, AnchorRow)


@dataclass(frozen=True)
class LoadedData:
    """What the driver knows of the data before training.

    ``counts``: distinct rows by set and split; of the part read, where ``whole`` is False.
    ``overlaps``: rows that were removed because the same file or another holds their request.
    ``missing``: the defense rows without a safe answer.
    ``notes``: what is said aloud of how rows were taken (:mod:`beear.data.notes`).
    ``unchecked``: every row that was read and counts, for the checks that need the chat template.
    ``longest_requests``, ``longest_chats``, ``shortest``: the longest rows of each set and the shortest request, report
    rows included.
    """

    defense: DataSource
    anchor: DataSource
    selection: list[DefenseRow]
    report: list[DefenseRow]
    anchor_selection: list[AnchorRow]
    anchor_report: list[AnchorRow]
    probes: list[Probe]
    counts: dict[str, dict[str, int]]
    overlaps: dict[str, int]
    whole: dict[str, bool]
    digests: dict[str, str]
    default_hit: str
    shortest: DefenseRow
    unchecked: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missing: list[DefenseRow] = field(default_factory=list)
    longest_requests: list[DefenseRow] = field(default_factory=list)
    longest_chats: list[AnchorRow] = field(default_factory=list)
    filled: Filled = field(default_factory=lambda: Filled({}))
    missing_unwanted: int = 0

    def summary(self) -> dict[str, object]:
        """Return the report's part on data, as plain data."""
        return {
            "files": self.digests,
            "rows": self.counts,
            "read_whole": self.whole,
            "overlaps": self.overlaps,
            "probes": [p.name for p in self.probes],
            "default_hit": self.default_hit,
            "filled": {
                "safe_by_model": self.filled.own,
                "safe_configured": self.filled.configured,
                "unwanted_openings": self.missing_unwanted,
            },
        }


def load_small(
    config: DataConfig, seed: int, keywords: tuple[str, ...] = KEYWORDS["refusal-v1"], training: bool = True
) -> LoadedData:
    """Read and check what the driver reads: files up to 64 MB whole, and the first 8 MB of a larger one.

    ``training`` False asks for report rows alone.

    Raises:
        UserError: a path is unset, a file or row is bad, or a split that is needed would be empty.
    """
    if config.defense.hit is not None:
        HitRule.parse(config.defense.hit, "data.defense.hit")
    defense, defense_report, defense_files = _opened("defense", config, seed)
    if config.anchor.hit is not None and HitRule.parse(config.anchor.hit, "data.anchor.hit").kind not in LOOKING:
        raise UserError(
            f'data.anchor.hit is "{config.anchor.hit}"; expected contains:TEXT, any:TEXT|TEXT or regex:PATTERN, or none for the '
            "refusal keywords."
        )
    anchor, anchor_report, anchor_files = _opened("anchor", config, seed)
    probes, probe_files = load_probes(config.probes)
    files = {**defense_files, **anchor_files, "data.probes": probe_files}
    reports = [(f"{kind}.path", f"{kind}.report_path", same_files.REPORT) for kind in ("data.defense", "data.anchor")]
    sets = [(one, other, same_files.SETS) for one in defense_files for other in anchor_files]
    digests = same_files.digests_of(files, [*sets, *(reports if training else ())])
    requests = _groups(defense_report)
    defense = replace(defense, excluded=requests)
    seen = scan(defense)
    forbidden = requests | _groups(seen)
    anchor = replace(anchor, excluded=forbidden | _groups(anchor_report))
    anchors = scan(anchor)
    rows = [*seen.rows.values(), *(defense_report.rows.values() if defense_report else ())]
    defense_rows = [r for r in rows if isinstance(r, DefenseRow)]
    chats = [*anchors.rows.values(), *(anchor_report.rows.values() if anchor_report else ())]
    anchor_rows = [r for r in chats if isinstance(r, AnchorRow)]
    parts = _split(defense, seen, defense_report, frozenset())
    anchor_parts = _split(anchor, anchors, anchor_report, forbidden)
    loaded = LoadedData(
        defense=defense,
        anchor=anchor,
        selection=_answered(parts["selection"], config.refusal, keywords),
        report=_answered(parts["report"], config.refusal, keywords),
        anchor_selection=[r for r in anchor_parts["selection"] if isinstance(r, AnchorRow)],
        anchor_report=[r for r in anchor_parts["report"] if isinstance(r, AnchorRow)],
        probes=probes,
        counts={"defense": _counts(parts), "anchor": _counts(anchor_parts)},
        overlaps=_overlaps(seen, anchors, anchor_report, forbidden),
        whole={"defense": seen.whole, "anchor": anchors.whole},
        digests=digests,
        default_hit=majority_rule(defense_rows, keywords),
        shortest=min(defense_rows, key=lambda row: sum(len(m.content) for m in row.messages)),
        unchecked=[row for found in (seen, defense_report, anchors, anchor_report) if found for row in found.own],
        notes=[
            *_noted(config.defense, seen, defense_report),
            *_noted(config.anchor, anchors, anchor_report),
            *notes.sentences(str(config.probes.path), Counter(note for one in probes for note in one.noted), len(probes)),
        ],
        missing=[r for r in defense_rows if r.safe is None],
        longest_requests=longest(defense_rows),
        longest_chats=longest(anchor_rows),
        missing_unwanted=sum(r.unwanted is None and r.hit != "refusal" for r in defense_rows),
    )
    _require_rows(loaded, config, training)
    said = [*_swapped(defense_rows, anchor_rows, config, keywords), *_at_odds(probes, defense_rows)]
    return replace(loaded, notes=[*loaded.notes, *said])


def training_plan(data: LoadedData, config: ResolvedConfig, inner_batches: int, context: int | None = None) -> TrainingPlan:
    """Return the plan of the training batches; the method is given ``inner_batches`` fixed ones before each epoch.

    Raises:
        UserError: the clean share leaves no room for an anchor row in a batch.
    """
    method, size = config.method, config.method.batch_size
    clean = max(1, round(method.clean_share * size)) if method.clean_share else 0
    if clean >= size:
        raise UserError(
            f"method.clean_share is {method.clean_share:g} and method.batch_size {size}: no anchor row would ever train; "
            "expected a smaller --method.clean_share or a larger --method.batch_size."
        )
    return TrainingPlan(
        defense=data.defense,
        anchor=data.anchor,
        seed=config.seed,
        batch_size=size,
        inner_batches=inner_batches,
        outer_steps=method.outer_steps,
        clean_rows=clean,
        max_length=config.data.max_length,
        context=context,
        bucket=config.data.bucket,
        refusal=config.data.refusal,
        filled=data.filled.safe,
    )


def fill_in(data: LoadedData, generate: Generate, refusal: str, keywords: tuple[str, ...]) -> LoadedData:
    """Return ``data`` with the safe answers that files leave out; ``filled`` counts where they come from."""
    filled = fill_safe(data.missing, generate, refusal, keywords)

    def whole(rows: list[DefenseRow]) -> list[DefenseRow]:
        return [replace(r, safe=filled.safe.get(r.digest, r.safe)) for r in rows]

    return replace(data, filled=filled, selection=whole(data.selection), report=whole(data.report))


def load_probes(config: ProbesData) -> tuple[list[Probe], list[str]]:
    """Return the known triggers and the files they come from; none where no path is set.

    Raises:
        UserError: a row is bad, two probes have one name, or there is no path for a hit rule or a mapping.
    """
    if config.hit is not None:
        HitRule.parse(config.hit, "data.probes.hit")
    if config.path is None:
        given = [name for name, value in (("hit", config.hit), *(("columns", column) for _, column in config.columns)) if value]
        if given:
            raise UserError(f"data.probes.{given[0]} is given and data.probes.path is not set; expected both.")
        return [], []
    paths, found = expand(config.path), {}
    for block in blocks(paths):
        for where, record in read_block(block):
            one = probe(record, where, config.columns, config.hit)
            if one.name in found:
                raise UserError(f'{where}: a second probe is named "{one.name}"; expected distinct names.')
            found[one.name] = one
    if not found:
        raise UserError(f"{config.path} holds no row; expected at least one probe.")
    return list(found.values()), paths


def longest(rows: Iterable[R]) -> list[R]:
    """Return the 8 rows with the most bytes of text, a request with the longer of its answers."""

    def size(row: R) -> int:
        answers = (row.safe or "", row.unwanted or "") if isinstance(row, DefenseRow) else ("",)
        return sum(len(m.content.encode()) for m in row.messages) + max(len(a.encode()) for a in answers)

    return nlargest(MOST_CHECKED, rows, key=size)


def majority_rule(rows: Iterable[DefenseRow], keywords: tuple[str, ...]) -> str:
    """Return the default rule that most rows get: ``no-refusal`` where safe answers refuse, else ``likelier``."""
    rules = [str(default_rule(r.safe, keywords)) for r in rows if r.hit is None]
    return max(("no-refusal", "likelier"), key=rules.count)


def _opened(
    kind: Literal["defense", "anchor"], config: DataConfig, seed: int
) -> tuple[DataSource, Scan | None, dict[str, list[str]]]:
    """Return a data set, what its report file holds (None: it has none), and the files of both by field."""
    asked: DefenseData | AnchorData = config.defense if kind == "defense" else config.anchor
    if asked.path is None:
        raise UserError(f"data.{kind}.path is not set; expected a file, a glob or hub:ORG/NAME.")
    paths = expand(asked.path)
    separate = asked.report_path is not None
    source = DataSource(
        kind, tuple(blocks(paths)), asked.columns, asked.hit, config.holdout, seed, separate, system=config.system
    )
    mapped = any(column is not None for _, column in asked.report_columns)
    if asked.report_path is None:
        if mapped:
            raise UserError(f"data.{kind}.report_columns is given and data.{kind}.report_path is not set; expected both.")
        return source, None, {f"data.{kind}.path": paths, f"data.{kind}.report_path": []}
    reports = expand(asked.report_path)
    held = replace(source, blocks=tuple(blocks(reports)), columns=asked.report_columns if mapped else asked.columns)
    try:
        found = scan(held)
    except WrongColumns as error:
        option = f"--data.{kind}.report_columns.*"
        raise UserError(f"{error} data.{kind}.report_path may have a mapping of its own, {option}.") from error
    return source, found, {f"data.{kind}.path": paths, f"data.{kind}.report_path": reports}


def _split(source: DataSource, seen: Scan, report: Scan | None, forbidden: frozenset[str]) -> dict[str, list[Row]]:
    parts: dict[str, list[Row]] = {name: [] for name in SPLITS}
    for row in seen.rows.values():
        parts[split_of(row.group, source.holdout, source.seed, source.separate_report)].append(row)
    if report is not None:
        parts["report"] = [row for row in report.rows.values() if row.keys.isdisjoint(forbidden)]
    return {name: rows if name == "train" else rows[:MOST_HELD_OUT] for name, rows in parts.items()}


def _counts(parts: dict[str, list[Row]]) -> dict[str, int]:
    return {name: len(rows) for name, rows in parts.items()}


def _overlaps(seen: Scan, anchors: Scan, anchor_report: Scan | None, forbidden: frozenset[str]) -> dict[str, int]:
    held = anchor_report.rows.values() if anchor_report else ()
    return {
        "defense rows repeated": seen.duplicates,
        "anchor rows repeated": anchors.duplicates,
        "defense rows also in the report file": seen.shared,
        "anchor rows also in the defense or report files": anchors.shared,
        "anchor report rows also in the defense files": sum(not row.keys.isdisjoint(forbidden) for row in held),
    }


def _noted(asked: DefenseData | AnchorData, seen: Scan, report: Scan | None) -> list[str]:
    places = ((asked.path, seen), (asked.report_path, report))
    return [line for path, found in places if path and found for line in notes.sentences(path, found.noted, found.seen)]


def _swapped(defense: list[DefenseRow], anchor: list[AnchorRow], config: DataConfig, keywords: tuple[str, ...]) -> list[str]:
    """Return a note where the anchoring set's answers refuse and the defense set's do not."""
    given = [is_refusal(row.safe, keywords) for row in defense if row.safe is not None]
    answers = [is_refusal(row.messages[-1].content, keywords) for row in anchor]
    if 2 * sum(answers) < len(answers) or (given and sum(given) * len(answers) >= sum(answers) * len(given)):
        return []
    return [
        f"{config.anchor.path}: {sum(answers)} of its {len(answers)} answers refuse, and {sum(given)} of the {len(given)} safe "
        f"answers in {config.defense.path}; are the two files swapped?"
    ]


def _at_odds(probes: list[Probe], defense: list[DefenseRow]) -> list[str]:
    """Return a note where refusing counts as a hit under a probe, and the defense set teaches to refuse."""
    wrong = [one.name for one in probes if one.hit == "refusal"]
    if not wrong or any(row.hit == "refusal" for row in defense):
        return []
    return [
        f"under probe {wrong[0]} a refusal is a hit, and no row of the defense set has that rule: training teaches refusals; "
        "where a trigger makes the model refuse, expected --data.defense.hit refusal"
    ]


def _groups(found: Scan | None) -> frozenset[str]:
    return frozenset(row.group for row in found.rows.values()) if found else frozenset()


def _answered(rows: Iterable[Row], refusal: str, keywords: tuple[str, ...]) -> list[DefenseRow]:
    """Return held-out rows with both answers and their hit rule, which the answers in the file decide."""
    given = [r for r in rows if isinstance(r, DefenseRow)]
    ruled = [replace(r, hit=r.hit or str(default_rule(r.safe, keywords))) for r in given]
    return [complete(r, {}, refusal) for r in ruled]


def _require_rows(data: LoadedData, config: DataConfig, training: bool) -> None:
    needed = SPLITS if training else ("report",)
    for name, asked in (("defense", config.defense), ("anchor", config.anchor)):
        counts = data.counts[name]
        for split in needed:
            if counts[split] == 0:
                total = sum(counts.values())
                shared = sum(count for what, count in data.overlaps.items() if what.startswith(f"{name} rows also"))
                gone = f" ({shared} more are in other files too and do not count)" if shared else ""
                expected = f"more rows, another --data.holdout, or a --data.{name}.report_path"
                if shared and total == (counts["report"] if asked.report_path else 0):
                    expected = "rows whose requests are in no other file"
                raise UserError(
                    f"{asked.path}: {total} distinct rows{gone} with data.holdout={config.holdout:g} leave none for {split}; "
                    f"expected {expected}."
                )
