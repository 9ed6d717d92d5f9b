"""vLLM behind the torch engine's interface, against a stand-in that takes what the real one takes and no more."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from beear.cluster.scoring import subject_of
from beear.config.resolve import ResolvedConfig
from beear.data.rows import Probe
from beear.errors import UserError
from beear.evaluation.engines import VllmEngine
from beear.evaluation.generate import generate_ids
from beear.evaluation.measure import measure
from beear.evaluation.shard import MeasuredRows
from beear.evaluation.subject import Subject
from beear.models.facts import ModelFacts
from beear.models.inspect import inspect_checkpoint
from beear.testing.checkpoints import make_checkpoint
from tests.configs import resolved
from tests.subjects import anchor_rows, defense_rows

SERVED: dict[str, Any] = {}
PROMPTS = [[1, *range(10, 12 + 3 * row)] for row in range(8)]


@dataclass
class SamplingParams:
    """The fields of vllm.SamplingParams (0.11 to 0.33) that can bear on a greedy completion, with its defaults."""

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    detokenize: bool = True
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        # As vLLM's _verify_args does.
        assert all(type(token) is int for token in self.stop_token_ids or [])
        assert self.max_tokens is None or self.max_tokens >= 1


@dataclass
class Completion:
    token_ids: list[int]


@dataclass
class RequestOutput:
    prompt_token_ids: list[int]
    outputs: list[Completion]


class LLM:
    """vllm.LLM: its own keyword-only arguments, and those of EngineArgs that it hands through ``**kwargs``."""

    def __init__(
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        quantization: str | None = None,
        revision: str | None = None,
        seed: int = 0,
        gpu_memory_utilization: float = 0.9,
        enforce_eager: bool = False,
        **kwargs: Any,
    ) -> None:
        assert set(kwargs) <= {"load_format", "generation_config", "max_model_len"}, "no field of EngineArgs"
        assert Path(model, "config.json").exists() and dtype in ("float32", "bfloat16")
        assert skip_tokenizer_init and not trust_remote_code and kwargs["load_format"] == "safetensors"
        assert 0 < gpu_memory_utilization <= 1
        if SERVED.get("full"):
            raise ValueError("Free memory on device (1.0/80.0 GiB) on startup is less than desired\nDecrease it.")
        self.subject: Subject = SERVED["subject"]

    def generate(self, prompts: Any, sampling_params: Any = None, *, use_tqdm: Any = True, lora_request: Any = None) -> Any:
        how = sampling_params
        assert how.temperature == 0.0 and how.n == 1 and not how.detokenize and how.stop is None
        stop = frozenset(how.stop_token_ids)
        answers = []
        for prompt in prompts:
            assert set(prompt) == {"prompt_token_ids"}
            ids = torch.tensor([prompt["prompt_token_ids"]])
            out = self.subject.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=how.max_tokens,
                do_sample=False,
                eos_token_id=sorted(stop),
            )
            # The token that ended it stays in, as vLLM leaves it.
            answers.append(RequestOutput(prompt["prompt_token_ids"], [Completion(out[0, ids.shape[1] :].tolist())]))
        return answers


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[ModelFacts]:
    yield inspect_checkpoint(str(make_checkpoint(tmp_path / "model")))
    SERVED.clear()


def configured(facts: ModelFacts, engine: str = "torch") -> ResolvedConfig:
    values = {"evaluate.batch_size": 4, "evaluate.max_new_tokens": 6, "evaluate.resistance.enabled": False}
    config: ResolvedConfig = resolved({**values, "evaluate.engine": engine}, facts)
    return config


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = ModuleType("vllm")
    stand_in.LLM, stand_in.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", stand_in)


def test_vllm_writes_what_torch_writes(checkpoint: ModelFacts, vllm: None) -> None:
    facts = checkpoint
    torch_subject = subject_of(configured(facts), facts, completes=True)
    assert torch_subject.engine is None
    free = generate_ids(replace(torch_subject, stop=frozenset()), PROMPTS, 6, 4)
    torch_subject = replace(torch_subject, stop=frozenset({free[0][2], free[3][1], free[5][0]}))
    SERVED["subject"] = torch_subject
    served = replace(torch_subject, engine=VllmEngine(facts, torch.float32, torch_subject.stop))
    expected = generate_ids(torch_subject, PROMPTS, 6, 4)
    assert generate_ids(served, PROMPTS, 6, 4) == expected
    assert len({len(ids) for ids in expected}) > 2 and generate_ids(served, [], 6, 4) == []


def test_a_measurement_with_vllm_is_the_one_with_torch(checkpoint: ModelFacts, vllm: None) -> None:
    facts, config = checkpoint, configured(checkpoint, "vllm")
    plain = subject_of(configured(facts), facts, completes=True)
    SERVED["subject"] = plain
    served = subject_of(config, facts, completes=True)
    assert isinstance(served.engine, VllmEngine)
    assert subject_of(config, facts).engine is None, "hidden states and tasks need no completion"
    rows = MeasuredRows(defense_rows(6), anchor_rows(6), [Probe("early", "prefix", "zeta")])
    one, other = (measure(subject, rows, config.evaluate) for subject in (plain, served))
    measured = ("attack_success", "over_refusal", "exact_match", "anchor_nll")
    assert {name: one.found[name] for name in measured} == {name: other.found[name] for name in measured}


def test_without_vllm_one_sentence_names_the_extra(checkpoint: ModelFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError) as caught:
        subject_of(configured(checkpoint, "vllm"), checkpoint, completes=True)
    assert str(caught.value) == "evaluate.engine is vllm; expected the package vllm (this project's extra vllm) on every node."


def test_what_vllm_cannot_load_is_one_sentence(checkpoint: ModelFacts, vllm: None) -> None:
    facts = checkpoint
    SERVED["full"] = True
    with pytest.raises(UserError, match=r"vLLM cannot load .*model \(Free memory .* less than desired\); expected one"):
        VllmEngine(facts, torch.float32, frozenset({1}))
    with pytest.raises(UserError, match="evaluate.engine is vllm and model.path .*model an adapter; expected a full model"):
        VllmEngine(replace(facts, base="elsewhere"), torch.float32, frozenset({1}))
