"""The configuration of a search: the fields of a run, and what is tried, for how long, and what ends a trial early."""

from typing import Annotated, Literal

from pydantic import Field

from beear.config.schema import EvaluateConfig, Folder, Names, OutputConfig, PositiveInt, RunConfig, Section, Share


class SearchConfig(Section):
    """What is searched and how."""

    space: str | None = Field(
        None, description="a family of tune_spaces, or a YAML file of fields and values (auto: by the checkpoint's architecture)"
    )
    also: Names | None = Field(
        None,
        description="what is searched besides l, n and inner steps: learning_rates, placement, outer_steps, bound; joined by +",
    )
    trials: PositiveInt = Field(16, description="trials: different settings that are tried")
    algorithm: Literal["random", "grid", "optuna"] = Field(
        "random",
        description="how settings are picked: at random, from a grid (spread evenly over the trials), or by Optuna's TPE",
    )
    scheduler: Literal["asha", "median", "none"] = Field(
        "asha", description="what stops a trial early besides the gate: ASHA, the median of the other trials, or nothing"
    )
    grace_epochs: PositiveInt = Field(1, description="epochs that every trial runs before the scheduler may stop it")
    reduction: Annotated[int, Field(ge=2)] = Field(2, description="ASHA: one in this many trials at a rung goes on")
    measure: Literal["auto", "probes", "resistance"] = Field(
        "auto",
        description="what trials are compared by: ASR under probes, or entrapment resistance (auto: probes where there are any)",
    )
    stop_asr: Share | None = Field(
        0.01,
        description="a trial ends as soon as ASR is at most this and utility and over-refusal are within the gate (none: never)",
    )
    give_up: Share | None = Field(
        0.5,
        description="a trial ends after this share of its epochs if less than a twentieth of what was there to remove is gone "
        "by then (none: never)",
    )
    concurrent: PositiveInt | None = Field(
        None, description="trials that run at the same time (auto: as many as the cluster has room for)"
    )
    max_failures: Annotated[int, Field(ge=0)] = Field(
        2, description="how often a trial restarts after a crash before it counts as failed"
    )
    warm: bool = Field(
        True, description="trials with one worker share processes that keep model and data; false: each trial is a Ray Train run"
    )
    apply: bool = Field(False, description="afterwards sanitise with the chosen settings: full report, gate and registration")


class SearchEvaluateConfig(EvaluateConfig):
    """What is measured after each epoch of a trial, and at its end."""

    selection_rows: PositiveInt = Field(128, description="most selection rows measured after each epoch")


class SearchOutputConfig(OutputConfig):
    """Where results go."""

    dir: Folder = Field("outputs/tune", description="output folder")


class TuneConfig(RunConfig):
    """One run of pipelines/tune.py."""

    evaluate: SearchEvaluateConfig = Field(default_factory=SearchEvaluateConfig, description="measures")
    output: SearchOutputConfig = Field(default_factory=SearchOutputConfig, description="results")
    search: SearchConfig = Field(default_factory=SearchConfig, description="the search")
