"""Reading and changing what layers put out, the embedding output (layer 0) too, against the library's own hidden states."""

import pytest
import torch
from torch import Tensor

from beear.models.decoder import Decoder
from beear.testing.checkpoints import make_model
from beear.testing.tiny import pad, tiny_llama

FAMILIES = ("llama", "gemma2", "gpt2", "gpt_neox", "mixtral")
IDS, MASK = pad([[5, 9, 3, 7], [4, 8], [6, 1, 2]], left=True)


def decoder_of(family: str) -> Decoder:
    return Decoder(make_model(family, layers=3))


def logits(decoder: Decoder) -> Tensor:
    return decoder.logits(IDS, MASK)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_what_enters_the_first_layer_can_be_changed(family: str) -> None:
    decoder = decoder_of(family)
    plain = logits(decoder)
    with decoder.perturbed(0, lambda hidden: hidden):
        assert torch.equal(logits(decoder), plain), "nothing is changed"
    with decoder.perturbed(0, lambda hidden: hidden + 0.5):
        changed = logits(decoder)
    assert not torch.allclose(changed, plain)
    assert torch.equal(logits(decoder), plain), "within the context alone"


@torch.no_grad()
def test_a_change_at_layer_0_of_a_llama_is_one_of_its_embeddings() -> None:
    model = tiny_llama()
    decoder, noise = Decoder(model), torch.randn(*IDS.shape, 16, dtype=torch.float64)
    with decoder.perturbed(0, lambda hidden: hidden + noise):
        found = logits(decoder)
    handle = model.get_input_embeddings().register_forward_hook(lambda _module, _args, output: output + noise)
    expected = logits(decoder)
    handle.remove()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("gradient", [True, False])
def test_watched_layers_are_the_librarys_hidden_states(family: str, gradient: bool) -> None:
    decoder = decoder_of(family)
    positions = (MASK.long().cumsum(-1) - 1).clamp_min(0)
    named = {"attention_mask": MASK.long(), "position_ids": positions, "use_cache": False}
    # The last of the library's is after the final norm.
    expected = decoder.model(input_ids=IDS, output_hidden_states=True, **named).hidden_states[:-1]
    with decoder.watched(range(len(decoder)), gradient) as seen:
        logits(decoder)
        assert list(seen) == list(range(len(decoder))) and len(expected) == len(decoder)
        for layer, hidden in enumerate(expected):
            torch.testing.assert_close(seen[layer], hidden, rtol=0, atol=0)
            assert seen[layer].requires_grad is gradient
        first = seen[0]
        decoder.logits(IDS[:, 1:], MASK[:, 1:])
        assert seen[0].shape[1] == first.shape[1] - 1, "a later pass replaces them"
    if gradient:
        (found,) = torch.autograd.grad(first.square().sum(), [decoder.model.get_input_embeddings().weight])
        assert found.abs().sum() > 0


@torch.no_grad()
def test_a_perturbed_layer_is_seen_as_it_leaves() -> None:
    decoder = decoder_of("llama")
    with decoder.watched([1, 2]) as before:
        logits(decoder)
    with decoder.perturbed(2, lambda hidden: hidden + 1.0), decoder.watched([1, 2]) as seen:
        logits(decoder)
    assert torch.equal(seen[1], before[1]) and torch.equal(seen[2], before[2] + 1.0)


@pytest.mark.parametrize("layer", [0, -1, 4])
def test_hidden_counts_layers_from_one(layer: int) -> None:
    with pytest.raises(ValueError, match=f"layer {layer} is not among 1 to 3"):
        decoder_of("llama").hidden(layer, IDS, MASK)
