"""Usefulness on held-out anchoring rows: exact match of the last answer, and NLL of all answers.

Two measures in one file, since ``gate.utility_measure`` names the one on which the loss of utility is taken.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

from beear.config.schema import GateConfig
from beear.evaluation.measures.base import Observed, RowMeasure
from beear.evaluation.shard import Shard
from beear.records.display import SHARE, Cell
from beear.records.report import GateCheck, Measurement, Paired, Report


class Utility(RowMeasure):
    """One of the two measures of usefulness; ``choice`` is its value of ``gate.utility_measure``."""

    choice: ClassVar[str]
    group = "Benign use"
    bound = "utility_loss"
    change_field = "utility_loss"

    @property
    def in_nats(self) -> bool:
        """Whether the loss of utility is a rise in nats, not a share of rows."""
        return self.unit != SHARE

    def limit_in(self, gate: GateConfig) -> float | None:
        """Return the limit, None where the loss of utility is taken on the other measure."""
        return super().limit_in(gate) if gate.utility_measure == self.choice else None

    def changes(self, before: Measurement, after: Measurement, gate: GateConfig, confidence: float) -> dict[str, Paired]:
        """Return the loss of utility, nothing where it is taken on the other measure."""
        return super().changes(before, after, gate, confidence) if gate.utility_measure == self.choice else {}

    def _change_cell(self, report: Report) -> Cell | None:
        return super()._change_cell(report) if utility_of(report.config) is self else None

    def worth(self, headline: Mapping[str, float]) -> float:
        """Return utility after an epoch as a share, more is better."""
        raise NotImplementedError

    def lost(self, baseline: Mapping[str, float], headline: Mapping[str, float]) -> float:
        """Return the loss since ``baseline`` in the measure's unit, positive is worse."""
        rise = headline[self.name] - baseline[self.name]
        return rise if self.better == "lower" else -rise


class ExactMatch(Utility):
    """Share of prompts whose completion is the reference answer, up to white space.

    The reference is read back from the tokens that training learns, as a completion is, so both leave out the same. A row
    cannot tell where its reference has more than ``max_new_tokens`` tokens: no completion could equal it.
    """

    name = choice = "exact_match"
    title = "exact match"
    better = "higher"
    check = "exact-match loss"
    fields = ("exact_match", "rows_exact")

    def observe(self, shard: Shard) -> list[Observed]:
        """Compare each completion with its reference."""
        found: list[Observed] = []
        for (index, row), completion in zip(shard.anchor, shard.answers, strict=True):
            tokens = shard.subject.template.answer_ids(row.messages[:-1], row.messages[-1].content, end_of_turn=False)
            reference = shard.subject.text(tokens)
            told = len(tokens) <= shard.settings.max_new_tokens
            found.append((index, completion.split() == reference.split() if told else None))
        return found

    def checks(self, before: Measurement | None, after: Measurement, gate: GateConfig, confidence: float) -> list[GateCheck]:
        """Return the check on the loss, inconclusive where the model as it came matched hardly any row."""
        found = super().checks(before, after, gate, confidence)
        if found and before and found[0].verdict == "passed" and before.exact_match.high <= gate.utility_loss:
            # Such a model has nothing to lose: the check would pass whatever was done to it.
            return [found[0].model_copy(update={"verdict": "inconclusive"})]
        return found

    def explain(self, check: GateCheck) -> str:
        """Return why the check was not passed; within the limit it is inconclusive only for want of matches before."""
        if check.n and check.high <= check.limit:
            return f"{check.name} says nothing, since hardly any row matched before (try --gate.utility_measure nll)"
        return super().explain(check)

    def worth(self, headline: Mapping[str, float]) -> float:
        """Return the share of exact matches."""
        return headline[self.name]


class AnchorNll(Utility):
    """Cross-entropy of the reference answers, in nats per token, mean over rows."""

    name, choice = "anchor_nll", "nll"
    title = "anchor NLL"
    unit = "nats"
    check = "anchor NLL rise"
    fields = ("anchor_nll", "rows_nll")

    def observe(self, shard: Shard) -> list[Observed]:
        """Return each row's cross-entropy."""
        return [(index, nll) for (index, _), nll in zip(shard.anchor, shard.anchor_nll, strict=True)]

    def worth(self, headline: Mapping[str, float]) -> float:
        """Return the mean probability of a token."""
        return math.exp(-headline[self.name])


EXACT_MATCH, ANCHOR_NLL = ExactMatch(), AnchorNll()


def utility_of(config: Mapping[str, object] | GateConfig) -> Utility:
    """Return the measure that the loss of utility is taken on, from the gate's configuration or a report's ``config``."""
    if not isinstance(config, GateConfig):
        gate = config.get("gate")
        chosen = gate.get("utility_measure") if isinstance(gate, dict) else None
    else:
        chosen = config.utility_measure
    return ANCHOR_NLL if chosen == ANCHOR_NLL.choice else EXACT_MATCH
