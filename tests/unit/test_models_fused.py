"""Norms by the library's kernel are the same function, for every family that has such norms, and others stay as they are."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from beear.models.compute import products_in
from beear.models.decoder import Decoder
from beear.models.fused import added_to_weight, fuse
from beear.testing.checkpoints import FAMILIES, make_model
from beear.testing.inner import gap

# Families whose norms subtract the mean.
CENTRED = {"bloom", "falcon", "gpt2", "gpt_neo", "gpt_neox", "gptj", "opt"}


def logits_and_gradients(decoder: Decoder) -> list[torch.Tensor]:
    ids = torch.arange(3, 27).view(2, 12)
    logits = decoder.logits(ids, torch.ones_like(ids))
    logits.float().log_softmax(-1)[..., 5].sum().backward()
    found = [logits.detach(), *(p.grad for p in decoder.model.parameters() if p.grad is not None)]
    decoder.model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fused_model_computes_and_learns_the_same(family: str) -> None:
    model = make_model(family)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    decoder = Decoder(model)
    expected = logits_and_gradients(decoder)
    with products_in(torch.bfloat16, torch.device("cpu")):
        rounded = logits_and_gradients(decoder)
    norms = sum(type(module).__name__.endswith("RMSNorm") for module in model.modules())
    assert (norms == 0) == (family in CENTRED)
    assert fuse(model) == norms
    assert fuse(model) == 0
    for new, old in zip(logits_and_gradients(decoder), expected, strict=True):
        assert gap(new, old) <= 1e-5
    with products_in(torch.bfloat16, torch.device("cpu")):
        for new, old, exact in zip(logits_and_gradients(decoder), rounded, expected, strict=True):
            # No further from float32 than the spelled-out norm, but for chance.
            assert gap(new, exact) <= 1.5 * gap(old, exact) + 1e-2


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in CENTRED])
def test_norms_with_bfloat16_weights_keep_them(family: str) -> None:
    """As FSDP and DeepSpeed hold them: 1 + w for a small w is no bfloat16 number."""
    model = make_model(family).to(torch.bfloat16)
    norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
    with torch.no_grad():
        for norm in norms:
            norm.weight.add_(0.003)
    x = [torch.randn(6, norm.weight.numel(), generator=torch.Generator().manual_seed(1)) for norm in norms]
    expected = [norm(row) for norm, row in zip(norms, x, strict=True)]
    fuse(model)
    with products_in(torch.bfloat16, torch.device("cpu")):
        found = [norm(row) for norm, row in zip(norms, x, strict=True)]
    for new, old in zip(found, expected, strict=True):
        new, old = new.detach().double(), old.detach().double()
        gain = float((new * old).sum() / old.square().sum())
        assert gain == pytest.approx(1, abs=5e-4)


def test_rotations_that_are_one_complex_tensor_stay_so() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64}
    small = {"kv_lora_rank": 8, "q_lora_rank": None, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
    experts = {"first_k_dense_replace": 2, "num_key_value_heads": 2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("deepseek_v2", **sizes, **small, **experts))
    decoder, ids = Decoder(model, torch.bfloat16), torch.arange(3, 11)[None]
    expected = decoder.logits(ids, torch.ones_like(ids))
    assert fuse(model) > 0
    assert gap(decoder.logits(ids, torch.ones_like(ids)).float(), expected.float()) <= 3e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_the_residual_stream_stays_in_float32(family: str) -> None:
    model, seen = make_model(family), []
    fuse(model)
    decoder = Decoder(model, torch.bfloat16)
    for layer in decoder.layers:
        layer.register_forward_hook(lambda _module, _args, out: seen.append((out[0] if isinstance(out, tuple) else out).dtype))
    decoder.logits(torch.ones(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.long))
    assert seen == [torch.float32] * len(decoder)


def test_a_norm_hands_products_their_own_dtype() -> None:
    model = make_model("llama")
    fuse(model)
    seen: list[torch.dtype] = []
    model.model.layers[0].self_attn.q_proj.register_forward_pre_hook(lambda _module, args: seen.append(args[0].dtype))
    decoder = Decoder(model, torch.bfloat16)
    decoder.logits(torch.ones(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.long))
    assert seen == [torch.bfloat16]


class HalvedRMSNorm(nn.Module):
    """Another function under a telling name."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(4)), 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


def test_a_norm_that_is_another_function_is_left_alone() -> None:
    norm = HalvedRMSNorm()
    assert added_to_weight(norm) is None
    assert fuse(nn.Sequential(norm)) == 0
