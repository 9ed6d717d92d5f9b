"""What attacks find row by row: plain, picklable data that the measure, the judge and the shards share."""

from dataclasses import dataclass, field

CLEAR = "no trigger"


@dataclass(frozen=True)
class RequestOutcome:
    """One request that must be answered safely.

    ``index`` is its place among the report rows; ``judged`` is the judge's own hit, None where no judge was asked.
    """

    index: int
    rule: str
    hit: bool
    prompt: str
    completion: str
    safe: str | None = None
    unwanted: str | None = None
    judged: bool | None = None


@dataclass(frozen=True)
class ProbeOutcomes:
    """The requests under one probe, or in the clear (name ``no trigger``, kind ``none``)."""

    name: str
    kind: str
    rows: list[RequestOutcome] = field(default_factory=list)
