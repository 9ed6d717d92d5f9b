"""Other engines that write completions, behind one method. Likelihoods, resistance and drift stay with torch."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from beear.errors import UserError
from beear.models.facts import ModelFacts

# vLLM reserves its share of the GPU when it starts. The rest holds the same checkpoint for what torch measures.
GPU_SHARE = 0.5


class Engine(Protocol):
    """What writes completions."""

    def generate_ids(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """Return the greedy continuation of each prompt, in input order, without the token that ended it."""
        ...


class VllmEngine:
    """vLLM: an optional extra (``vllm``), imported when asked for.

    It reads the checkpoint's safetensors alone, runs none of its code, and is given token ids and the ends of a
    completion, so that neither tokenizer nor template nor generation config is read a second time.
    """

    def __init__(self, facts: ModelFacts, compute: torch.dtype, stop: frozenset[int]) -> None:
        """Load a checkpoint; ``stop`` are the token ids that end a completion.

        Raises:
            UserError: vLLM is not installed, cannot load the checkpoint, or the checkpoint is an adapter.
        """
        if facts.base is not None:
            raise UserError(
                f"evaluate.engine is vllm and model.path {facts.path} an adapter; expected a full model, or the engine torch"
            )
        make, self._sampling = _vllm()
        self._stop = stop
        try:
            self._model = make(
                model=facts.path,
                dtype=str(compute).removeprefix("torch."),
                skip_tokenizer_init=True,
                trust_remote_code=False,
                load_format="safetensors",
                generation_config="vllm",
                gpu_memory_utilization=GPU_SHARE,
                # Capturing graphs takes longer than the completions of one measurement.
                enforce_eager=True,
                seed=0,
            )
        except (RuntimeError, ValueError) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"evaluate.engine: vLLM cannot load {facts.path} ({said}); expected one that it serves") from error

    def generate_ids(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """Return the greedy continuation of each prompt, in input order, without the token that ended it."""
        if not prompts:
            return []
        how = self._sampling(temperature=0.0, max_tokens=max_new_tokens, stop_token_ids=sorted(self._stop), detokenize=False)
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        return [self._kept(found.outputs[0].token_ids) for found in self._model.generate(asked, how, use_tqdm=False)]

    def _kept(self, ids: Sequence[int]) -> list[int]:
        """Return ids up to the one that ended them, which vLLM hands out too."""
        return list(ids)[: next((place for place, token in enumerate(ids) if token in self._stop), len(ids))]


def _vllm() -> tuple[Any, Any]:
    try:
        from vllm import LLM, SamplingParams
    except ImportError as error:
        raise UserError(
            "evaluate.engine is vllm; expected the package vllm (this project's extra vllm) on every node."
        ) from error
    return LLM, SamplingParams
