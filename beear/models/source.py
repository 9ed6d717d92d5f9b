"""Gives a backend a checkpoint's weights: the whole model, or an empty one whose rows are read when they are asked for."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping

from beear.config.schema import AdapterConfig
from beear.errors import UserError
from beear.models.adapters import attach_lora, bare_name
from beear.models.facts import ModelFacts
from beear.models.loading import attention, check_allocation, check_finite, load_config, load_model, quiet, reason
from beear.models.weights import WeightFiles, find_weights


@dataclass(frozen=True)
class CheckpointSource:
    """The checkpoint ``facts``, with the LoRA of ``adapter`` drawn from ``seed`` where one is asked for."""

    facts: ModelFacts
    adapter: AdapterConfig
    seed: int

    def whole(self) -> nn.Module:
        """Return the model to train with all its weights, in float32 on the CPU, in evaluation mode.

        Raises:
            UserError: see :func:`beear.models.loading.load_model` and :func:`beear.models.adapters.attach_lora`.
        """
        model = load_model(self.facts, torch.float32, "cpu")
        torch.manual_seed(self.seed)
        return attach_lora(model, self.adapter)

    def empty(self) -> nn.Module | None:
        """Return the same model with the files' weights on the meta device; buffers and a LoRA are there, with their values.

        None where the files' tensors are not the model's weights one by one: an adapter has to be merged in first, or
        transformers fuses or renames what it reads.

        Raises:
            UserError: the files hold less than config.json describes, or the LoRA does not fit.
        """
        if self.facts.base is not None:
            return None
        config = load_config(self.facts.weights_folder)
        check_allocation(config, self.facts)
        model = _without_weights(config, self.facts.weights_folder)
        if not _one_to_one(model, self._files):
            return None
        with _stand_ins(model):
            torch.manual_seed(self.seed)
            return attach_lora(model, self.adapter).eval()

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return rows ``start`` to ``stop`` of the weight ``name`` of ``empty()``, in float32; nothing else is read.

        Raises:
            UserError: they cannot be read, or are not finite.
        """
        stored = bare_name(name)
        path = self._files.places[stored]
        try:
            with safe_open(path, framework="pt") as file:
                found: Tensor = file.get_slice(stored)[start:stop].to(torch.float32)
        except (OSError, SafetensorError) as error:
            raise UserError(f'{path}: tensor "{stored}" could not be read ({reason(error)})') from error
        check_finite([(stored, found)], self.facts.path)
        return found

    @cached_property
    def _files(self) -> WeightFiles:
        return find_weights(Path(self.facts.weights_folder))


def _without_weights(config: Any, folder: str) -> PreTrainedModel:
    with _weights_on_meta(), quiet():
        try:
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation=attention(config), trust_remote_code=False
            )
            # Loading does this too: the generation settings say which tokens end an answer.
            model.adjust_generation_fn(  # type: ignore[operator]
                None, False, None, folder, None, False, None, local_files_only=True, token=None, revision="main",
                subfolder="", trust_remote_code=False,
            )  # fmt: skip
        # transformers raises many types of error for files that it cannot use.
        except Exception as error:
            raise UserError(f"{folder}: no model could be made of its configuration ({reason(error)})") from error
    return model


def _one_to_one(model: PreTrainedModel, files: WeightFiles) -> bool:
    """Say whether each weight is one tensor of the files, of that name and shape, and there is no other."""
    if get_model_conversion_mapping(model, add_legacy=False):
        return False
    patterns = model._keys_to_ignore_on_load_unexpected or ()
    ignored = re.compile("|".join(patterns) if patterns else r"(?!)")
    weights = {name: tuple(p.shape) for name, p in model.named_parameters()}
    stored = {name: entry.shape for name, entry in files.weights.items() if name in weights or not ignored.search(name)}
    kept = {name for name, _ in model.named_buffers()} & set(model.state_dict())
    return not kept and stored == weights


@contextmanager
def _weights_on_meta() -> Iterator[None]:
    """Within the context a module's weights go to the meta device as they are made; buffers stay, with their values."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None and not parameter.is_meta:
            empty = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
            module._parameters[name] = empty

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


@contextmanager
def _stand_ins(model: nn.Module) -> Iterator[None]:
    """Within the context weights on the meta device are one real zero each, spread over their shape.

    peft puts a LoRA on the device of the weight that it belongs to, and its values have to be drawn on a real one.
    """
    weights = {id(p): p for p in model.parameters()}
    stands = {key: nn.Parameter(torch.zeros(()).expand(p.shape), requires_grad=p.requires_grad) for key, p in weights.items()}
    back = {id(stand): weights[key] for key, stand in stands.items()}
    _exchange(model, stands)
    try:
        yield
    finally:
        for key, stand in stands.items():
            weights[key].requires_grad_(stand.requires_grad)
        _exchange(model, back)


def _exchange(model: nn.Module, by_id: dict[int, nn.Parameter]) -> None:
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in by_id:
                module._parameters[name] = by_id[id(parameter)]
