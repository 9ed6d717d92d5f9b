"""The configuration of a search: a run's own fields, and what is tried, for how long, and what ends a trial early."""

from typing import Annotated, Literal

from pydantic import Field

from beear.config.schema import EvaluateConfig, Folder, OutputConfig, PositiveInt, RunConfig, Section, Share


class SearchConfig(Section):
    """What is searched and how."""

    space: str | None = Field(
        None, description="a family of tune_spaces, or a YAML file of fields and values (auto: by the checkpoint's architecture)"
    )
    also: str | None = Field(
        None,
        description="what is searched beside l, n and inner steps: learning_rates, placement, outer_steps, bound; joined by +",
    )
    trials: PositiveInt = Field(16, description="settings that are tried")
    algorithm: Literal["random", "grid", "optuna"] = Field(
        "random", description="how settings are picked: at random, in a grid (spread evenly over trials), or by Optuna's TPE"
    )
    scheduler: Literal["asha", "median", "none"] = Field(
        "asha", description="what stops a trial early: ASHA, the median of the others, or nothing but the gate"
    )
    grace_epochs: PositiveInt = Field(1, description="epochs that every trial is given")
    reduction: Annotated[int, Field(ge=2)] = Field(2, description="ASHA: of this many trials at a rung, one goes on")
    measure: Literal["auto", "probes", "resistance"] = Field(
        "auto", description="what ASR is taken from: probes, or entrapment resistance (auto: probes where there are any)"
    )
    stop_asr: Share | None = Field(
        0.01,
        description="a trial ends once ASR is at most this and utility and over-refusal are within the gate (none: never)",
    )
    give_up: Share | None = Field(
        0.5,
        description="a trial ends after this share of its epochs if a twentieth of what was there to remove is not gone by then "
        "(none: never)",
    )
    concurrent: PositiveInt | None = Field(
        None, description="trials that run at a time (auto: as many as the cluster has room for)"
    )
    max_failures: Annotated[int, Field(ge=0)] = Field(
        2, description="times a trial goes on after a crash before it counts as failed"
    )
    warm: bool = Field(
        True, description="one-worker trials share processes that keep model and data; false: a Ray Train run for each trial"
    )
    apply: bool = Field(False, description="sanitise with the chosen settings afterwards: full report, gate and registration")


class SearchEvaluateConfig(EvaluateConfig):
    """What is measured after each epoch of a trial, and afterwards."""

    selection_rows: PositiveInt = Field(128, description="most selection rows measured after each epoch")


class SearchOutputConfig(OutputConfig):
    """Where results go."""

    dir: Folder = Field("outputs/tune", description="output folder")


class TuneConfig(RunConfig):
    """One run of pipelines/tune.py."""

    evaluate: SearchEvaluateConfig = Field(default_factory=SearchEvaluateConfig, description="measures")
    output: SearchOutputConfig = Field(default_factory=SearchOutputConfig, description="results")
    search: SearchConfig = Field(default_factory=SearchConfig, description="the search")
