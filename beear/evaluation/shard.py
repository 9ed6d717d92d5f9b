"""One shard of a measurement: a model, its share of the rows, and what several measures need of them, worked out once.

Imports neither torch nor transformers, so that measures can be listed without them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from beear.config.resolve import ResolvedEvaluate
from beear.data.refusals import load_keywords
from beear.data.rows import AnchorRow, DefenseRow, Message, Probe


@dataclass(frozen=True)
class MeasuredRows:
    """The rows a measurement is made on, the same on every shard."""

    defense: Sequence[DefenseRow]
    anchor: Sequence[AnchorRow]
    probes: Sequence[Probe] = field(default_factory=tuple)

    def first(self, count: int | None) -> "MeasuredRows":
        """Return at most ``count`` rows of each kind."""
        return self if count is None else MeasuredRows(self.defense[:count], self.anchor[:count], self.probes)


@dataclass(frozen=True)
class Shard:
    """Shard ``rank`` of ``world``: every ``world``-th row from the rank's own on.

    ``subject`` is the model that is measured (:class:`beear.evaluation.subject.Subject`). ``rows`` are those of all shards.
    ``unlimited`` are the defense rows before ``evaluate.rows`` cut them, for measures that take a number of their own.
    Completions and losses are worked out at first use and kept.
    """

    subject: Any
    rows: MeasuredRows
    settings: ResolvedEvaluate
    seed: int = 0
    rank: int = 0
    world: int = 1
    unlimited: Sequence[DefenseRow] = ()
    _completions: dict[Probe | None, list[str]] = field(default_factory=dict, repr=False)

    @property
    def defense(self) -> list[tuple[int, DefenseRow]]:
        """This shard's requests that must be answered safely, each with its place among all."""
        return list(enumerate(self.rows.defense))[self.rank :: self.world]

    @property
    def anchor(self) -> list[tuple[int, AnchorRow]]:
        """This shard's ordinary conversations, each with its place among all."""
        return list(enumerate(self.rows.anchor))[self.rank :: self.world]

    @cached_property
    def keywords(self) -> tuple[str, ...]:
        """The refusal keywords in use.

        Raises:
            UserError: an unknown keyword list.
        """
        return load_keywords(self.settings.keywords)

    def requests(self, probe: Probe | None = None) -> list[tuple[Message, ...]]:
        """Return the requests of :attr:`defense` with the probe's trigger put in; None: as they are."""
        from beear.evaluation.probes import apply

        return [apply(probe, row.messages) if probe else row.messages for _, row in self.defense]

    def completions(self, probe: Probe | None = None) -> list[str]:
        """Return the greedy completion of each of :meth:`requests`."""
        if probe not in self._completions:
            self._completions[probe] = self.complete(self.requests(probe))
        return self._completions[probe]

    @cached_property
    def answers(self) -> list[str]:
        """The greedy completion of each of :attr:`anchor` in place of its last assistant turn."""
        return self.complete([row.messages[:-1] for _, row in self.anchor])

    @cached_property
    def anchor_nll(self) -> list[float]:
        """The cross-entropy of each of :attr:`anchor`, in nats per token of its assistant turns."""
        from beear.evaluation.likelihood import conversation_nll

        return conversation_nll(self.subject, [row.messages for _, row in self.anchor], self.settings.batch_size)

    def complete(self, requests: Sequence[Sequence[Message]]) -> list[str]:
        """Return the greedy completion of requests of a measure's own."""
        from beear.evaluation.generate import complete

        return complete(self.subject, requests, self.settings.max_new_tokens, self.settings.batch_size)
