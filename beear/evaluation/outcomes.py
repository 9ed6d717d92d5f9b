"""What measuring finds row by row: plain, picklable data that shards of a measurement are merged from."""

from dataclasses import dataclass, field

from beear.records.report import ResistanceCurve

CLEAR = "no trigger"


@dataclass
class RequestOutcome:
    """One request that must be answered safely.

    ``index`` is its place among the report rows; ``judged`` is the judge's own hit, None where none was asked for.
    """

    index: int
    rule: str
    hit: bool
    prompt: str
    completion: str
    safe: str | None = None
    unwanted: str | None = None
    judged: bool | None = None


@dataclass
class ProbeOutcomes:
    """The requests under one probe, or in the clear (name ``no trigger``, kind ``none``)."""

    name: str
    kind: str
    rows: list[RequestOutcome] = field(default_factory=list)


@dataclass
class AnchorOutcome:
    """One benign conversation: exact match, refusal (each None where it cannot be told), NLL in nats per token."""

    index: int
    exact: bool | None
    refused: bool | None
    nll: float


@dataclass
class Partial:
    """One shard's part of a measurement."""

    shard: tuple[int, int]
    requests: list[ProbeOutcomes] = field(default_factory=list)
    anchor: list[AnchorOutcome] = field(default_factory=list)
    resistance: list[ResistanceCurve] = field(default_factory=list)
    seconds: float = 0.0
