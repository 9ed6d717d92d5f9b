"""A model's sizes from config.json alone: transformers builds it and runs two layers of it on tensors that hold nothing.

What a layer keeps for its backward pass is counted in that run, so that one way serves every family.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, PreTrainedModel

from beear.config.schema import AdapterConfig
from beear.config.shape import SMALL, ActivationBytes, ModelShape, SavedActivations
from beear.errors import UserError
from beear.models.adapters import attach_lora
from beear.models.decoder import Decoder
from beear.models.loading import attention, load_config, quiet

# Counts at three lengths tell apart what grows with the tokens, what grows with their square, and what does not grow.
LENGTHS = (16, 32, 64)
# Bytes a token for each of D, in float32, of a family that cannot be counted. Others keep less (OLMoE 181, Llama 75 to 130).
GUESS = 200.0


class _Enough(Exception):
    """Ends a pass once the layers that are counted have run."""


def model_shape(folder: str, adapter: AdapterConfig) -> ModelShape:
    """Return the sizes of the model that ``folder``'s config.json describes, with the LoRA that ``adapter`` asks for.

    Raises:
        UserError: the library cannot build it, or the LoRA does not fit it.
    """
    config = load_config(folder)
    try:
        return shape_of(attach_lora(weightless(config), adapter))
    except UserError:
        raise
    # Each family's class checks its settings in its own way.
    except Exception as error:
        raise UserError(f"{folder}/config.json: no model could be built of it ({error}), expected valid settings") from error


def weightless(config: Any) -> PreTrainedModel:
    """Return the model of a library configuration on the meta device, in evaluation mode."""
    with torch.device("meta"), quiet():
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention(config), trust_remote_code=False)
    return model.eval()


def shape_of(model: nn.Module) -> ModelShape:
    """Return the sizes of a model on the meta device, bare or with a LoRA."""
    decoder = Decoder(model)
    config: Any = decoder.model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    layers = tuple(sum(p.numel() for p in layer.parameters()) for layer in decoder.layers)
    trained = [p.numel() for p in model.parameters() if p.requires_grad]
    heads = int(config.num_attention_heads)
    outer, inner = model.get_output_embeddings(), model.get_input_embeddings()  # type: ignore[operator]
    return ModelShape(
        hidden_size=int(config.hidden_size),
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        vocabulary=int(outer.weight.shape[0]),
        tied=outer.weight is inner.weight,
        layer_parameters=layers,
        outside=sum(p.numel() for p in model.parameters()) - sum(layers),
        head=outer.weight.numel(),
        trained=sum(trained),
        largest=max(trained),
        small=sum(p.numel() for p in model.parameters() if p.numel() <= SMALL),
        activations=_kept(decoder, int(config.hidden_size)),
    )


def _kept(decoder: Decoder, hidden_size: int) -> SavedActivations:
    try:
        return _counted(decoder)
    # A family whose layers look at values (which expert, which length) cannot run on tensors that have none.
    except Exception:
        most, half = ActivationBytes(GUESS * hidden_size, 4.0), ActivationBytes(GUESS / 2 * hidden_size, 2.0)
        return SavedActivations(most, half, most, half)


def _counted(decoder: Decoder) -> SavedActivations:
    # Fused experts multiply in half precision alone on tensors that hold nothing; in float32 all is twice as large.
    fused = any(p.dim() == 3 for p in decoder.layers.parameters())
    with FakeTensorMode(allow_non_fake_inputs=True):
        _fill(decoder.model, torch.bfloat16 if fused else torch.float32)
        full, frozen = _saved(decoder, torch.float32)
        if fused:
            return SavedActivations(_twice(full), full, _twice(frozen), frozen)
        half, frozen_half = _saved(decoder, torch.bfloat16)
    return SavedActivations(full, half, frozen, frozen_half)


def _twice(saved: ActivationBytes) -> ActivationBytes:
    return ActivationBytes(2 * saved.token, 2 * saved.square)


def _fill(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace weights and tables by fake ones on the CPU, whose kernels differ from the meta device's; tied ones stay tied."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, old in held.items():
                if old is not None and id(old) not in made:
                    new = torch.empty(old.shape, dtype=dtype if old.is_floating_point() else old.dtype, device="cpu")
                    made[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
                if old is not None:
                    held[name] = made[id(old)]  # type: ignore[assignment]


def _saved(decoder: Decoder, compute: torch.dtype) -> tuple[ActivationBytes, ActivationBytes]:
    """Return what a layer keeps: while weights are trained, and while they are frozen."""
    trained = [p for p in decoder.model.parameters() if p.requires_grad]
    full = _curve(decoder, compute)
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        return full, _curve(decoder, compute)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _curve(decoder: Decoder, compute: torch.dtype) -> ActivationBytes:
    first, second, third = (_bytes_kept(decoder, compute, tokens) for tokens in LENGTHS)
    # Each length doubles the one before, and what does not grow (copies of weights) falls out of the differences.
    start = LENGTHS[0]
    square = ((third - second) - 2 * (second - first)) / (6 * start * start)
    return ActivationBytes((second - first) / start - 3 * start * square, square)


def _bytes_kept(decoder: Decoder, compute: torch.dtype, tokens: int) -> int:
    """Return the bytes that the second layer keeps of one row and the first one does not keep already, such as rotations."""
    sizes: dict[int, int] = {}
    held: list[Tensor] = []
    shared = {p.untyped_storage()._cdata for p in decoder.model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in shared:
            held.append(tensor)
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    def enter(_layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0].detach().requires_grad_(), *args[1:])

    def begin(*_: object) -> None:
        shared.update(sizes)
        sizes.clear()

    def enough(*_: object) -> None:
        raise _Enough

    first, second = decoder.layers[:2]
    handles = [first.register_forward_pre_hook(enter), second.register_forward_pre_hook(begin)]
    handles.append(second.register_forward_hook(enough))
    ids = torch.ones(1, tokens, dtype=torch.long)
    try:
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=compute == torch.bfloat16),
        ):
            decoder.model(input_ids=ids, attention_mask=ids, position_ids=ids.cumsum(-1) - 1, use_cache=False, logits_to_keep=1)
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return sum(sizes.values())
