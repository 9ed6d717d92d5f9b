"""The light measure after each epoch, on selection rows, shared over the training workers."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from beear.config.resolve import ResolvedConfig
from beear.data.rows import AnchorRow, DefenseRow, Probe
from beear.evaluation import resistance_scale
from beear.evaluation.lockstep import in_step
from beear.evaluation.measure import headline, observe
from beear.evaluation.measures.table import MEASURES
from beear.evaluation.resistance import measure_resistance
from beear.evaluation.shard import MeasuredRows, Shard
from beear.evaluation.subject import Subject
from beear.parallel.base import Backend


class SelectionMeasure:
    """Measures selection rows after an epoch when called; every worker gets the same numbers.

    Without ``probes`` no trigger informs the run; a caller that passes them must say so in the report.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        defense: Sequence[DefenseRow],
        anchor: Sequence[AnchorRow],
        config: ResolvedConfig,
        hit: str | None,
        backend: Backend,
        probes: Sequence[Probe] = (),
        compute: torch.dtype | None = None,
        resists: bool = False,
    ) -> None:
        """Keep the rows; every worker is given all of them and measures its own share.

        ``hit`` is the rule of rows that have neither one of their own nor a safe answer to tell it by. ``resists``: measure
        entrapment resistance too (the number ``resistance``), by the budget of the shipped scale.

        Raises:
            UserError: the scale cannot be used.
        """
        self.subject = Subject.of(model, tokenizer, compute=compute, place=backend.device)
        ruled = [replace(row, hit=row.hit or (hit if row.safe is None else None)) for row in defense]
        self.rows = MeasuredRows(ruled, anchor, probes).first(config.evaluate.selection_rows)
        self.config, self.backend, self.seed = config.evaluate, backend, config.seed
        self.scale = resistance_scale.load() if resists else None

    def __call__(self) -> dict[str, float]:
        """Measure the model as it is now."""
        share = Shard(self.subject, self.rows, self.config, self.seed, self.backend.rank, self.backend.world, self.rows.defense)
        with self.backend.gathered(), in_step(self.subject, self.backend):
            mine = observe(share, (one for one in MEASURES.values() if one.each_epoch))
        return headline(self.backend.gather(mine)) | self._resistance()

    def _resistance(self) -> dict[str, float]:
        """Make the same attacks on every worker: sharded weights need all workers in each pass, and all find the same."""
        if self.scale is None:
            return {}
        with self.backend.gathered():
            curves = measure_resistance(self.subject, self.rows.defense, resistance_scale.budgeted(self.config), self.seed)
        return {"resistance": self.scale.strength(curves)}
