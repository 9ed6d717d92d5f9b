"""What a search found, as plain data: every trial with its epochs, what was chosen, and why."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SEARCH_VERSION = 1
Status = Literal["waiting", "running", "finished", "stopped early", "met the gate", "failed"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class TrialEpoch(_Record):
    """One trial's numbers on selection rows after one epoch.

    ``asr`` and its upper bound ``asr_high`` are keyword ASR under the probes, the worst of them, or what entrapment
    resistance says ASR is at most. Losses against the model as it came; positive is worse. ``cooled``: the
    epoch gave utility back rather than attack at full strength. ``seconds`` of the epoch.
    """

    epoch: int
    asr: float
    asr_high: float
    utility: float
    utility_loss: float
    over_refusal_rise: float
    composite: float
    within_limits: bool
    cooled: bool = False
    seconds: float
    selection: dict[str, float] = Field(default_factory=dict)


class Trial(_Record):
    """One trial. ``best_epoch`` is the one it is judged by, None where no epoch is within the limits.

    ``reason`` says why it failed or was stopped; ``mistake``: that is the user's to mend. ``start_up`` seconds passed before
    its first epoch began. ``started`` (the last time that it was) and ``ended`` are seconds since 1970.
    """

    id: str
    number: int
    settings: dict[str, Any]
    status: Status
    reason: str = ""
    mistake: bool = False
    epochs: list[TrialEpoch] = Field(default_factory=list)
    best_epoch: int | None = None
    planned_epochs: int
    start_up: float | None = None
    started: float | None = None
    ended: float | None = None
    seconds: float = 0.0
    restarts: int = 0


class Calibration(_Record):
    """How entrapment resistance was turned into "ASR at most": from ``points`` checkpoints of known ASR.

    ``error`` is the share of checkpoints of other backdoors whose measured ASR was above what it said of them.
    """

    points: int
    checkpoints: str
    error: float
    sentence: str


class SearchReport(_Record):
    """A finished search.

    ``measure`` says what ``asr`` of the trials is. ``baseline``: the model as it came, on the same selection rows, with its
    ``asr`` and ``asr_high``. ``limits``, by an epoch's field: the gate's on utility loss and over-refusal rise, which a chosen
    trial keeps, and the ASR at which a trial ends.
    ``chosen`` and ``runners_up`` are trial ids, best first; ``chosen`` is None where no trial stayed within the limits.
    """

    version: Literal[1] = 1
    kind: Literal["search"] = "search"
    run_id: str
    created: str
    code_version: str
    machine: dict[str, str]
    model: dict[str, Any]
    family: str
    space: dict[str, str]
    measure: Literal["keyword ASR under probes", "entrapment resistance"]
    calibration: Calibration | None = None
    scheduler: str
    algorithm: str
    seed: int
    concurrent: int
    rows: dict[str, int]
    baseline: dict[str, float]
    limits: dict[str, float]
    trials: list[Trial]
    chosen: str | None
    why: str
    runners_up: list[str] = Field(default_factory=list)
    epochs_run: int
    epochs_planned: int
    seconds: float
    config: dict[str, Any]
    notes: list[str] = Field(default_factory=list)
