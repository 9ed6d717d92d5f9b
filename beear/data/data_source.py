"""One data set: its blocks, its rows, their splits, and the part of it that the driver reads before training."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from beear.config.schema import AnchorColumns, DefenseColumns
from beear.data import storage
from beear.data.columns import anchor_row, defense_row
from beear.data.files import read_block
from beear.data.locations import Block, Where, joined
from beear.data.notes import SYSTEM
from beear.data.rows import AnchorRow, DefenseRow, Message
from beear.data.suffixes import packing_of
from beear.errors import UserError

Row = DefenseRow | AnchorRow
Split = Literal["train", "selection", "report"]
SPLITS: tuple[Split, ...] = ("train", "selection", "report")
# The driver reads files up to 64 MB (all files of a set together) whole, and the first 8 MB of a larger one.
WHOLE_BYTES = 64 << 20
HEAD_BYTES = 8 << 20


@dataclass(frozen=True)
class DataSource:
    """One data set: its blocks, how to read a record, and how rows are split.

    ``excluded`` holds keys (``row.keys``) of rows that other files hold; such rows belong to no split here.
    ``separate_report``: the report rows come from a file of their own. ``system`` goes before every row without a system prompt.
    """

    kind: Literal["defense", "anchor"]
    blocks: tuple[Block, ...]
    columns: DefenseColumns | AnchorColumns
    hit: str | None
    holdout: float
    seed: int
    separate_report: bool = False
    excluded: frozenset[str] = field(default_factory=frozenset)
    system: str | None = None

    def row(self, record: dict[str, object], where: Where) -> Row:
        """Return the row in ``record``.

        Raises:
            UserError: the record is not one.
        """
        row: Row
        if isinstance(self.columns, DefenseColumns):
            row = defense_row(record, where, self.columns, self.hit)
        else:
            row = replace(anchor_row(record, where, self.columns), hit=self.hit)
        if self.system is None or row.messages[0].role == "system":
            return row
        return replace(row, messages=(Message("system", self.system), *row.messages), noted=(*row.noted, SYSTEM))

    def rows(self, blocks: Iterable[Block]) -> Iterator[Row]:
        """Yield every row of ``blocks``, whatever its split.

        Raises:
            UserError: a file cannot be read or a row is bad.
        """
        for block in joined(blocks):
            for where, record in read_block(block):
                yield self.row(record, where)

    def elsewhere(self, row: Row) -> bool:
        """Say whether another file holds the row's request."""
        return not row.keys.isdisjoint(self.excluded)

    def split(self, row: Row) -> Split | None:
        """Return the row's split; None where another file holds its request."""
        return None if self.elsewhere(row) else split_of(row.group, self.holdout, self.seed, self.separate_report)

    def train_rows(self, blocks: Iterable[Block]) -> list[Row]:
        """Return the training rows of ``blocks``; raises as :meth:`rows` does."""
        return [row for row in self.rows(blocks) if self.split(row) == "train"]


def split_of(digest: str, holdout: float, seed: int, separate_report: bool = False) -> Split:
    """Return the split of a row by the digest of its group, so that equal requests share a split in any file.

    ``holdout`` is the share kept from training: half reports, half selects. With ``separate_report`` the half that would
    report trains instead.
    """
    share = int(hashlib.sha256(f"split/{seed}/{digest}".encode()).hexdigest()[:13], 16) / 16**13
    if share < holdout / 2:
        return "train" if separate_report else "report"
    return "selection" if share < holdout else "train"


@dataclass
class Scan:
    """The rows that the driver saw of one data set.

    ``rows`` is keyed by digest, in file order; a repeated request counts once, and ``duplicates`` counts the rest. ``own``
    holds the repeated ones too.
    ``shared`` counts rows whose request another file holds too. ``seen`` counts all of them, and ``noted`` those that carry a
    note (:mod:`beear.data.notes`). ``whole`` is False where a file was too large to be read to its end.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    own: list[Row] = field(default_factory=list)
    seen: int = 0
    duplicates: int = 0
    shared: int = 0
    noted: Counter[str] = field(default_factory=Counter)
    whole: bool = True


def scan(source: DataSource) -> Scan:
    """Read the part of the data set that the driver reads, and check every row in it.

    Raises:
        UserError: a file cannot be read, a row is bad, or there is none.
    """
    blocks, whole = visible(source.blocks)
    found = Scan(whole=whole)
    for row in source.rows(blocks):
        found.seen += 1
        found.noted.update(row.noted)
        if source.elsewhere(row):
            found.shared += 1
            continue
        found.own.append(row)
        if (digest := row.digest) in found.rows:
            found.duplicates += 1
        else:
            found.rows[digest] = row
    if not found.seen:
        paths = ", ".join(sorted({block.path for block in source.blocks}))
        raise UserError(f"{paths} holds no row; expected at least one.")
    return found


def visible(blocks: tuple[Block, ...]) -> tuple[list[Block], bool]:
    """Return the blocks that the driver reads, and whether these are all."""
    chosen: list[Block] = []
    by_path: dict[str, list[Block]] = {}
    for block in blocks:
        by_path.setdefault(block.path, []).append(block)
    budget, whole = WHOLE_BYTES, True
    for path, own in by_path.items():
        total = sum(block.size for block in own) if packing_of(path) else storage.size(path)
        limit = budget if total <= budget else min(HEAD_BYTES, budget)
        taken: list[Block] = []
        used = 0
        for block in own:
            if used >= limit and (chosen or taken):
                whole = False
                break
            taken.append(block)
            used += block.size
        chosen += taken
        budget = max(budget - used, 0)
    return chosen, whole
