"""LoRA: attached to the layers asked for, trained alone, and merged on export."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from beear.config.schema import AdapterConfig
from beear.errors import UserError
from beear.models.adapters import attach_lora, merged_state
from beear.models.export import export_model
from beear.models.inspect import inspect_checkpoint
from beear.models.loading import load_model
from beear.testing.checkpoints import make_checkpoint, make_model

IDS = torch.tensor([[1, 4, 77, 78, 79, 5]])


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(0, 0.3)
    return model.eval()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "mixtral"])
@pytest.mark.parametrize("tied", [False, True])
def test_merged_state_equals_peft_s_merge_and_leaves_the_model(family, tied):
    model = randomised(attach_lora(make_model(family, tied=tied), AdapterConfig(kind="lora", rank=3, alpha=7)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = merged_state(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    expected = model.merge_and_unload().state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.allclose(state[name], expected[name], atol=1e-6) for name in expected)


@pytest.mark.parametrize("tied", [False, True])
def test_a_trained_lora_is_exported_merged(tmp_path, tied):
    facts = inspect_checkpoint(str(make_checkpoint(tmp_path / "source", tied=tied)))
    model = randomised(attach_lora(load_model(facts, torch.float32), AdapterConfig(kind="lora", rank=2)))
    with torch.no_grad():
        expected = model(IDS).logits
    gathered = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for index, state in enumerate((None, gathered)):
        out = export_model(model, facts, tmp_path / str(index), state_dict=state)
        loaded = AutoModelForCausalLM.from_pretrained(out)
        with torch.no_grad():
            assert torch.allclose(loaded(IDS).logits, expected, atol=1e-4)
        assert inspect_checkpoint(str(out)).parameters == facts.parameters


def test_only_the_lora_trains():
    model = attach_lora(make_model(), AdapterConfig(kind="lora", rank=2, targets="q_proj, v_proj"))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 3 * 2 * 2 and all(".lora_" in name and ("q_proj" in name or "v_proj" in name) for name in trained)
    plain = make_model()
    assert attach_lora(plain, AdapterConfig()) is plain


@pytest.mark.parametrize("targets,tied,said", [
    ("q_prok", False, 'found "q_prok" (did you mean "q_proj"?)'),
    ("input_layernorm", False, 'found "input_layernorm"'),
    ("lm_head", True, '"lm_head" is tied to the input embeddings'),
])  # fmt: skip
def test_unknown_targets_are_refused(targets, tied, said):
    with pytest.raises(UserError) as caught:
        attach_lora(make_model(tied=tied), AdapterConfig(kind="lora", targets=targets))
    assert said in str(caught.value)
