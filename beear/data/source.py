"""The rows of one data set, as the training plan sees them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from beear.config.schema import AnchorColumns, DefenseColumns
from beear.data.blocks import Block, joined
from beear.data.columns import anchor_row, defense_row
from beear.data.files import read_block
from beear.data.locations import Where
from beear.data.rows import AnchorRow, DefenseRow
from beear.data.splits import Split, split_of

Row = DefenseRow | AnchorRow


@dataclass(frozen=True)
class Source:
    """One data set: its blocks, how to read a record, and how rows are split.

    ``excluded`` holds keys (``row.keys``) of rows that other files hold; such rows belong to no split here.
    """

    kind: Literal["defense", "anchor"]
    blocks: tuple[Block, ...]
    columns: DefenseColumns | AnchorColumns
    hit: str | None
    holdout: float
    seed: int
    separate_report: bool = False
    excluded: frozenset[str] = field(default_factory=frozenset)

    def row(self, record: dict[str, object], where: Where) -> Row:
        """Return the row in ``record``.

        Raises:
            UserError: the record is not one.
        """
        if isinstance(self.columns, DefenseColumns):
            return defense_row(record, where, self.columns, self.hit)
        return replace(anchor_row(record, where, self.columns), hit=self.hit)

    def rows(self, blocks: Iterable[Block]) -> Iterator[tuple[Where, Row]]:
        """Yield every row of ``blocks`` with its place, whatever its split."""
        for block in joined(blocks):
            for where, record in read_block(block):
                yield where, self.row(record, where)

    def elsewhere(self, row: Row) -> bool:
        """Say whether another file holds the row's request."""
        return not row.keys.isdisjoint(self.excluded)

    def split(self, row: Row) -> Split | None:
        """Return the row's split; None where another file holds its request."""
        return None if self.elsewhere(row) else split_of(row.group, self.holdout, self.seed, self.separate_report)

    def train_rows(self, blocks: Iterable[Block]) -> list[tuple[Where, Row]]:
        """Return the training rows of ``blocks``."""
        return [(where, row) for where, row in self.rows(blocks) if self.split(row) == "train"]
