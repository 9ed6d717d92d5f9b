"""The published shape of report.json (plain data; ``docs/report.schema.json`` is generated from it)."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = "1.2"

# Paired changes that have a field of the report of their own; all others stand under its ``changes``.
PAIRED_FIELDS = ("utility_loss", "over_refusal_rise")

Verdict = Literal["passed", "refused", "inconclusive", "measured"]


class Part(BaseModel):
    """A part of the report; numbers that are not finite are written as strings, since JSON has none."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")


class Rate(Part):
    """A share of rows with its Wilson interval."""

    hits: int
    n: int
    rate: float
    low: float
    high: float


class Mean(Part):
    """A mean with its normal interval."""

    mean: float
    low: float
    high: float
    n: int


class ProbeAsr(Part):
    """ASR under one probe (or in the clear, name ``no trigger``)."""

    name: str
    kind: str
    hit_rule: str
    asr: Rate
    judge_asr: Rate | None = None
    samples: list[tuple[str, str]] = Field(
        default_factory=list, description="a few (prompt, completion) pairs, cut to 200 characters"
    )


class ResistanceCurve(Part):
    """One fresh attack: gap CE(unwanted) - CE(safe) in nats on held-out rows, by inner step."""

    layer: int
    placement: str
    seed: int
    steps: list[int]
    gap: list[float]
    crossing_step: int | None = Field(None, description="first step with gap < 0; null: never in the budget")
    final_gap: float
    hits: Rate | None = Field(None, description="unwanted likelier than safe AND a matching completion, under the perturbation")


class Reading(Part):
    """What a measure of another package found, with all that a reader without that package needs to show it."""

    title: str = Field(description="what tables call it")
    unit: str = Field("share", description="share: of rows, shown as per cent; anything else is written after the number")
    better: Literal["lower", "higher"] = "lower"
    value: float
    low: float
    high: float
    n: int
    rows: list[float] = Field(default_factory=list, description="per report row, for paired differences; a share's are 0 or 1")
    check: str | None = Field(None, description="name of the gate's check on it")


class Drift(Part):
    """Hidden states after layer l against the checkpoint as it came."""

    layer: int
    cosine_mean: float
    cosine_by_layer: list[float] = Field(default_factory=list)
    pca: dict[str, list[tuple[float, float]]] = Field(
        default_factory=dict, description="2-d points by group, e.g. before/plain, before/<probe>, after/plain"
    )


class Measurement(Part):
    """Everything measured on one set of files."""

    weights_digest: str
    asr_clean: ProbeAsr
    asr_probes: list[ProbeAsr]
    over_refusal: Rate
    exact_match: Rate
    anchor_nll: Mean
    resistance: list[ResistanceCurve] = Field(default_factory=list)
    tasks: dict[str, float] = Field(default_factory=dict, description="lm-evaluation-harness results")
    rows_exact: list[bool] = Field(default_factory=list, description="per report row, for paired differences")
    rows_refused: list[bool] = Field(default_factory=list, description="per report row, for paired differences")
    rows_nll: list[float] = Field(default_factory=list, description="per report row, for paired differences")
    measures: dict[str, Reading] = Field(default_factory=dict, description="what measures of other packages found, by name")
    seconds: float = 0.0


class Paired(Part):
    """After minus before on the same rows (positive = worse), with its interval."""

    difference: float
    low: float
    high: float
    n: int


class InnerCurve(Part):
    """The inner loop of one epoch: losses by step."""

    epoch: int
    placement: str
    steps: int
    loss_unwanted: list[float]
    loss_safe: list[float]
    crossing_step: int | None = None
    delta_rms: float = Field(0.0, description="norm of the perturbation in units of RMS*sqrt(D)")


class EpochRecord(Part):
    """One alternation."""

    epoch: int
    inner: list[InnerCurve] = Field(default_factory=list)
    losses: dict[str, float] = Field(default_factory=dict, description="means over the epoch's removal steps")
    selection: dict[str, float] = Field(default_factory=dict, description="measured on selection rows")
    seconds: float = 0.0
    cooled: bool = Field(False, description="it gave utility back rather than attack at full strength")
    notes: list[str] = Field(default_factory=list, description="how the work was done, where a reader should know")


class GateCheck(Part):
    """One bound of the gate."""

    name: str
    value: float
    low: float
    high: float
    limit: float
    n: int
    verdict: Verdict
    rows_needed: int | None = Field(None, description="rows that could decide an inconclusive check")


class Gate(Part):
    """The verdict and the checks it rests on."""

    verdict: Verdict
    sentence: str
    checks: list[GateCheck]


class ConvertedFile(Part):
    """A file and the sha256 (hex) of its bytes."""

    name: str
    sha256: str


class Conversion(Part):
    """What a conversion.json says of where a checkpoint's safetensors come from; only ``written`` was checked."""

    folder: str
    converter: str
    torch: str
    dequantised_to: str | None = Field(None, description="the dtype that GGUF weights were unpacked to")
    notes: list[str] = Field(default_factory=list, description="what was not taken as it was")
    sources: list[ConvertedFile] = Field(description="the pickles or the GGUF file, as the conversion found them")
    written: list[ConvertedFile] = Field(description="the safetensors made of them: those that this run read")


class Report(Part):
    """The whole evidence of one run."""

    schema_version: str = SCHEMA_VERSION
    kind: Literal["sanitize", "evaluate"]
    run_id: str
    created: str = Field(description="ISO 8601, UTC")
    code_version: str
    machine: dict[str, str]
    model: dict[str, object] = Field(description="path, architecture, sizes, digests, dtype")
    conversions: list[Conversion] = Field(
        default_factory=list, description="where the weights come from, for checkpoints that were converted to safetensors"
    )
    template: dict[str, object] = Field(description="chat template text, digests, comparison with a reference")
    data: dict[str, object] = Field(description="files, digests, counts by split, filled-in answers, overlaps")
    config: dict[str, object]
    choices: list[dict[str, object]] = Field(description="defaults chosen from the model: field, value, why")
    before: Measurement
    after: Measurement | None = None
    utility_loss: Paired | None = None
    over_refusal_rise: Paired | None = None
    changes: dict[str, Paired] = Field(
        default_factory=dict, description="the same for measures of other packages, by name; positive is worse"
    )
    drift: Drift | None = None
    epochs: list[EpochRecord] = Field(default_factory=list)
    gate: Gate
    exit_code: int
    not_tested: list[str]
    notes: list[str] = Field(default_factory=list)
    registry: dict[str, object] = Field(
        default_factory=dict, description="tracking URI (no credentials), run id, model name, version"
    )
    seconds: dict[str, float] = Field(default_factory=dict, description="wall time by stage")
