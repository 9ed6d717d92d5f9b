"""LoRA: attached for training, merged for export, and a user's adapter merged into its base on loading."""

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from beear.config.schema import AdapterConfig
from beear.errors import UserError, nearest
from beear.models.adapter_files import AdapterFiles

NAME = "default"
# Merging rounds each weight anew. A wrong merge is off by a tenth and more.
PROBED, ROUNDING = 16, 0.02


def attach_lora(model: PreTrainedModel, config: AdapterConfig) -> nn.Module:
    """Return the model with a LoRA to train (every other weight frozen), or the model as it is for ``kind: none``.

    Raises:
        UserError: a target that names no linear layer of the model, or the output layer where it is tied.
    """
    if config.kind == "none":
        return model
    targets = config.targets.strip()
    names = [name.strip() for name in targets.split(",") if name.strip()]
    if targets == "all-linear":
        names = hidden_linear_names(model)
    else:
        _check_targets(model, names)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # annotated int there, used as a number
        target_modules=names,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, lora)


def linear_names(model: nn.Module) -> dict[str, str]:
    """Return full name to last part for every linear layer that a LoRA can be put on."""
    return {name: name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}


def hidden_linear_names(model: PreTrainedModel) -> list[str]:
    """Return the full names of all linear layers but the output layer. Fused experts are no layers and stay frozen."""
    output = model.get_output_embeddings()
    return [name for name in linear_names(model) if model.get_submodule(name) is not output]


def _check_targets(model: PreTrainedModel, targets: list[str]) -> None:
    linear = linear_names(model)
    short = sorted(set(linear.values()))
    output = model.get_output_embeddings()
    tied = output is not None and output.weight is model.get_input_embeddings().weight
    for target in targets:
        matched = [name for name in linear if name == target or name.endswith(f".{target}")]
        if not matched:
            raise UserError(
                f'adapter.targets: found "{target}"{nearest(target, short)}, expected all-linear or some of {", ".join(short)}'
            )
        if tied and any(model.get_submodule(name) is output for name in matched):
            raise UserError(f'adapter.targets: "{target}" is tied to the input embeddings, expected other layers')


def base_model(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model inside, whether or not a LoRA is attached."""
    return model.get_base_model() if isinstance(model, PeftModel) else model  # type: ignore[return-value]


@torch.no_grad()
def merged_state(model: nn.Module, state_dict: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the full weights under the bare model's names, any LoRA added in; the model is left as it is.

    W + scaling · B A (https://arxiv.org/abs/2106.09685, eq. 3), in the weights' dtype.

    Args:
        model: bare, or with one LoRA.
        state_dict: full tensors named as ``model.state_dict()`` names them; unset: the model's own.
    """
    state = dict(model.state_dict() if state_dict is None else state_dict)
    if not isinstance(model, PeftModel):
        return state
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    for name, layer in layers.items():
        weight = f"{name}.base_layer.weight"
        delta = state[f"{name}.lora_B.{NAME}.weight"].float() @ state[f"{name}.lora_A.{NAME}.weight"].float()
        if getattr(layer, "fan_in_fan_out", False):
            delta = delta.T
        state[weight] = (state[weight].float() + layer.scaling[NAME] * delta).to(state[weight].dtype)
    return {bare_name(name): tensor for name, tensor in state.items() if ".lora_A." not in name and ".lora_B." not in name}


def bare_name(name: str) -> str:
    """Return the name that a weight has in the model without its LoRA."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def merged_into(model: nn.Module) -> dict[str, bool]:
    """Return the state names that take part in merging a LoRA, True for a weight it is added to, False for a factor."""
    layers = [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    parts = {"base_layer.weight": True, f"lora_A.{NAME}.weight": False, f"lora_B.{NAME}.weight": False}
    return {f"{layer}.{part}": whether for layer in layers for part, whether in parts.items()}


def adapter_tensors(adapter: AdapterFiles) -> dict[str, Tensor]:
    """Return the weights in a user's adapter, by name; one that stands there under two names is given once.

    Raises:
        UserError: the file cannot be read.
    """
    from safetensors.torch import load_file

    try:
        tensors = load_file(adapter.weights_path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{adapter.weights_path}: could not be read ({error}), expected LoRA weights") from error
    # Of embeddings that were resized, peft writes the trained ones twice, and does not know the second name when it loads.
    plain = {name: name.replace(".modules_to_save.", ".") for name in tensors if ".modules_to_save." in name}
    again = {name for name, other in plain.items() if other in tensors and torch.equal(tensors[name], tensors[other])}
    return {name: tensor for name, tensor in tensors.items() if name not in again}


def merge_adapter(model: PreTrainedModel, adapter: AdapterFiles, tensors: dict[str, Tensor], folder: str) -> PreTrainedModel:
    """Return the model with the LoRA adapter of ``folder`` merged into its weights; nothing else of the model is changed.

    peft itself makes the adapter of the settings in the folder. The merged model must compute what it computes before merging.

    Raises:
        UserError: the adapter does not fit the model, or merging changes what it computes.
    """
    from peft.utils.save_and_load import set_peft_model_state_dict

    try:
        # Factors are drawn before the file's replace them, which must not move anyone's random numbers.
        with torch.random.fork_rng(devices=[]):
            config = LoraConfig(**adapter.settings, lora_dropout=0.0, inference_mode=True, task_type="CAUSAL_LM")
            wrapped = get_peft_model(model, config)
        result: Any = set_peft_model_state_dict(wrapped, tensors)
    # peft raises many types of error for settings, targets and shapes that do not fit.
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise UserError(f"{folder}: the adapter does not fit its base model ({first[:200]})") from error
    missing = [name for name in result.missing_keys if ".lora_" in name or ".modules_to_save." in name]
    for names, sentence in (
        (missing, "is not in the adapter's file"),
        (result.unexpected_keys, "is not in the base model"),
    ):
        if names:
            raise UserError(f'{folder}: tensor "{names[0]}" {sentence} ({len(names)} such), expected an adapter of this base')
    before = _said(wrapped)
    merged: Any = wrapped.merge_and_unload()
    _check_same(before, _said(merged), folder)
    _check_tied(merged, folder)
    _forget(merged)
    return merged


@torch.no_grad()
def _said(model: nn.Module) -> Tensor:
    """Return the logits [1, T, V] of a few tokens, in float32."""
    ids = torch.arange(PROBED)[None] % int(base_model(model).config.get_text_config().vocab_size)
    logits: Tensor = model.eval()(input_ids=ids, use_cache=False).logits
    return logits.float()


def _check_same(before: Tensor, after: Tensor, folder: str) -> None:
    off, size = float((after - before).abs().max()), float(before.abs().max())
    if not off <= ROUNDING * size:
        raise UserError(
            f"{folder}: merging the adapter into its base changes what the model computes (logits off by {off:.2g} of {size:.2g})"
            ", expected an adapter that can be merged"
        )


def _check_tied(merged: nn.Module, folder: str) -> None:
    """Refuse a merge that parts tied weights, in whatever family: inspection knows them by their names alone."""
    weights = dict(merged.named_parameters(remove_duplicate=False))
    for name, original in getattr(merged, "all_tied_weights_keys", {}).items():
        if name in weights and original in weights and not torch.equal(weights[name], weights[original]):
            raise UserError(
                f"{folder}: the adapter parts {name} from {original}, which share their weights in this base model; "
                "expected an adapter of other layers"
            )


def _forget(merged: nn.Module) -> None:
    """Undo what peft leaves on a model that it has handled: frozen weights, and the mark that it holds an adapter."""
    for parameter in merged.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    for name in ("peft_config", "_hf_peft_config_loaded"):
        vars(merged).pop(name, None)
