"""The fast objective gives the plain one's losses, gradients and δ, for every family and placement."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from beear.config.schema import PLACEMENTS, AdapterConfig
from beear.methods.entrapment import InnerRule, PlainObjective, entrap
from beear.methods.fast import FastObjective
from beear.methods.objectives import Objectives
from beear.methods.packing import causal_mask, pack, tree_mask
from beear.methods.perturbation import Perturbation
from beear.models.adapters import attach_lora
from beear.models.decoder import Decoder
from beear.testing.checkpoints import FAMILIES, VOCABULARY
from beear.testing.inner import LAYER, attack_on, delta_after, float64_throughout, gap, model_of, ragged, value
from beear.testing.tiny import defense_batch, defense_rows, tiny_llama


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_every_family_has_the_plain_losses_and_gradient(family: str, dtype: torch.dtype, limit: float) -> None:
    decoder = model_of(family, dtype)
    batches = [ragged(5, 3), ragged(4, 4)]
    with float64_throughout() if dtype == torch.float64 else nullcontext():
        plain, fast = PlainObjective(decoder, batches), FastObjective(decoder, batches, LAYER)
        for placement, where in [*((p, "prompt") for p in PLACEMENTS), ("suffix", "user")]:
            attack = attack_on(decoder, placement, suffix_from=where)
            for number in (0, 1, 0):
                for found, expected in zip(value(fast, attack, number), value(plain, attack, number), strict=True):
                    assert expected.norm() > 0
                    assert gap(found, expected) <= limit, (placement, where, number)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_inner_loop_ends_with_the_plain_delta(family: str) -> None:
    decoder = model_of(family, torch.float32)
    batches = [ragged(4, 1), ragged(4, 2)]
    for placement in ("suffix", "everywhere"):
        objectives = (PlainObjective(decoder, batches), FastObjective(decoder, batches, LAYER))
        ends = [delta_after(objective, decoder, placement, 20) for objective in objectives]
        assert ends[0].norm() > 0.1
        assert gap(ends[1], ends[0]) <= 1e-4, placement


@pytest.mark.parametrize("tied", [True, False])
def test_a_lora_wrapped_model_is_served(tied: bool) -> None:
    bare = tiny_llama(tied=tied)
    model = attach_lora(bare, AdapterConfig(kind="lora", rank=4))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0, 0.1)
    decoder, batches = Decoder(model), [ragged(4, 5)]
    attack = Perturbation(16, LAYER, "suffix", length=3, scale=0.5, dtype=torch.float64)
    with float64_throughout():
        expected, found = value(PlainObjective(decoder, batches), attack), value(FastObjective(decoder, batches, LAYER), attack)
    for one, other in zip(found, expected, strict=True):
        assert gap(one, other) <= 1e-10


def test_suffix_runs_only_the_columns_that_the_perturbation_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, batch = Decoder(tiny_llama()), ragged(4, 6)
    prompt, answers = batch.prompt_ids.shape[1], batch.safe_ids.shape[1] + batch.unwanted_ids.shape[1]
    assert not decoder.returns_tuples
    widths: dict[int, list[int]] = {index: [] for index in range(len(decoder))}
    for index, layer in enumerate(decoder.layers):
        layer.register_forward_hook(lambda _m, args, _out, index=index: widths[index].append(args[0].shape[1]))
    objective = FastObjective(decoder, [batch], LAYER)
    attack = Perturbation(16, LAYER, "suffix", length=3, scale=0.5, dtype=torch.float64)
    for _ in range(3):
        objective.losses(attack, 0)
    assert widths[0] == widths[1] == [prompt + answers]
    assert widths[2] == widths[3] == [prompt - 3, *[3 + answers] * 3]


def test_prompts_shorter_than_the_perturbation_are_served() -> None:
    decoder, batch = Decoder(tiny_llama()), defense_batch(defense_rows(4, 13))
    attack = Perturbation(16, LAYER, "suffix", length=40, scale=0.5, dtype=torch.float64)
    with float64_throughout():
        expected, found = value(PlainObjective(decoder, [batch]), attack), value(FastObjective(decoder, [batch], LAYER), attack)
    for one, other in zip(found, expected, strict=True):
        assert gap(one, other) <= 1e-10


def test_the_loss_of_a_row_does_not_depend_on_its_batch_mates() -> None:
    decoder = Decoder(tiny_llama())
    rows = [(prompt * 3, safe, unwanted) for prompt, safe, unwanted in defense_rows(4, 7)]
    attack = Perturbation(16, LAYER, "prefix", length=3, scale=0.5, dtype=torch.float64)
    with float64_throughout():
        together = FastObjective(decoder, [defense_batch(rows)], LAYER).losses(attack, 0)
        alone = [FastObjective(decoder, [defense_batch([row])], LAYER).losses(attack, 0) for row in rows]
    for side in (0, 1):
        assert torch.allclose(together[side], torch.cat([one[side] for one in alone]), atol=1e-12)


def test_labels_on_a_few_tokens_are_the_only_columns() -> None:
    batch = ragged(3, 8)
    batch.unwanted_differs = torch.zeros_like(batch.unwanted_differs)
    batch.unwanted_differs[:, 1] = True
    batch.safe_differs = torch.zeros_like(batch.safe_differs)
    batch.safe_differs[:, 0] = True
    prompt = batch.prompt_ids.shape[1]
    assert pack(batch, differing=True).columns.tolist() == [prompt - 1, prompt]
    decoder = Decoder(tiny_llama())
    attack = Perturbation(16, LAYER, "suffix", length=3, scale=0.5, dtype=torch.float64)
    with float64_throughout():
        expected, found = value(PlainObjective(decoder, [batch]), attack), value(FastObjective(decoder, [batch], LAYER), attack)
    for one, other in zip(found, expected, strict=True):
        assert gap(one, other) <= 1e-10


def test_the_tree_mask_hides_each_answer_from_the_other() -> None:
    prompt, unwanted, safe = 2, 2, 3
    tree = tree_mask(causal_mask(prompt + unwanted, torch.device("cpu")), causal_mask(prompt + safe, torch.device("cpu")), prompt)
    expected = [
        "1000000",
        "1100000",
        "1110000",
        "1111000",
        "1100100",
        "1100110",
        "1100111",
    ]
    assert ["".join(str(int(seen)) for seen in row) for row in tree[0, 0]] == expected


def model_from(model_type: str, **sizes: Any) -> Decoder:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, vocab_size=VOCABULARY, initializer_range=0.2, **sizes)
    return Decoder(AutoModelForCausalLM.from_config(config).eval())


# Families whose layers return a tuple; the last two see positions in a way that cannot be packed, or not far.
TUPLES: dict[str, tuple[dict[str, Any], bool]] = {
    "gptj": ({"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256, "rotary_dim": 4}, True),
    "falcon": ({"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "alibi": False}, True),
    "bloom": ({"hidden_size": 32, "n_layer": 4, "n_head": 4}, False),
    "gpt_neo": (
        {"hidden_size": 32, "num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]], "window_size": 16},
        False,
    ),
}


@pytest.mark.parametrize("family", TUPLES)
def test_layers_that_return_tuples_are_run_and_what_cannot_be_packed_is_noticed(family: str) -> None:
    sizes, served = TUPLES[family]
    decoder, batches = model_from(family, **sizes), [defense_batch(defense_rows(4, 1)), ragged(4, 2)]
    wanted: list[Tensor] = []
    with decoder.perturbed(LAYER, lambda hidden: wanted.append(hidden) or hidden):
        decoder.logits(batches[0].prompt_ids, batches[0].prompt_mask, last=1)
    assert torch.allclose(decoder.hidden(LAYER, batches[0].prompt_ids, batches[0].prompt_mask), wanted[0], atol=1e-6)
    for placement in ("suffix", "everywhere"):
        objectives, attack = Objectives(decoder), attack_on(decoder, placement)
        objective = objectives.of(batches, attack)
        assert isinstance(objective, FastObjective) == served, objectives.notes
        assert bool(objectives.notes) != served
        for number in (0, 1):
            for found, expected in zip(
                value(objective, attack, number), value(PlainObjective(decoder, batches), attack, number), strict=True
            ):
                assert gap(found, expected) <= 1e-5


def test_longer_rows_are_checked_anew() -> None:
    decoder = model_from("gpt_neo", **TUPLES["gpt_neo"][0])
    objectives, short, long = Objectives(decoder), [defense_batch([([5] * 4, [6], [7])] * 2)], [ragged(4, 2)]
    assert isinstance(objectives.of(short, attack_on(decoder, "everywhere")), FastObjective)
    assert isinstance(objectives.of(long, attack_on(decoder, "everywhere")), PlainObjective)
    assert isinstance(objectives.of(short, attack_on(decoder, "everywhere")), PlainObjective)
    assert len(objectives.notes) == 1


LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 1e4, "factor": 4.0}


@pytest.mark.parametrize(
    ("rope", "told"),
    [
        ({"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 24}, True),
        ({**LONGROPE, "original_max_position_embeddings": 24}, True),
        ({**LONGROPE, "original_max_position_embeddings": 64}, False),
    ],
)
def test_rotations_that_depend_on_length_are_served_within_it(rope: dict[str, Any], told: bool) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    decoder = model_from("llama", **sizes, max_position_embeddings=256, rope_parameters=rope)
    objectives = Objectives(decoder)
    short, long = [defense_batch(defense_rows(4, 1))], [defense_batch(defense_rows(4, 1)), ragged(4, 2)]
    assert isinstance(objectives.of(short, attack_on(decoder, "suffix")), FastObjective)
    attack = attack_on(decoder, "suffix")
    objective = objectives.of(long, attack)
    assert isinstance(objective, PlainObjective) == told
    assert [("beyond 24" in note) for note in objectives.notes] == [True] * told
    for found, expected in zip(value(objective, attack, 1), value(PlainObjective(decoder, long), attack, 1), strict=True):
        assert gap(found, expected) <= 1e-5


class Leaking(nn.Module):
    """A layer that mixes in the mean over all positions: no mask can pack two answers for it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None, **named: Any) -> Tensor:
        return self.layer(hidden, attention_mask=attention_mask, **named) + hidden.mean(1, keepdim=True)


class Unmasked(Leaking):
    """A layer that takes no mask by name."""

    def forward(self, hidden: Tensor, **named: Any) -> Tensor:
        return self.layer(hidden, **named)


@pytest.mark.parametrize(("kind", "said"), [(Leaking, "a loss differs by"), (Unmasked, "takes no attention_mask")])
def test_what_it_cannot_serve_runs_the_plain_loop_and_says_so_once(kind: type[Leaking], said: str) -> None:
    model = tiny_llama()
    model.model.layers[2] = kind(model.model.layers[2])
    decoder, batches = Decoder(model), [ragged(4, 9)]
    objectives, ends = Objectives(decoder), []
    rule = InnerRule(steps=4, lr=0.05)
    for _ in range(2):
        attack = Perturbation(16, LAYER, "suffix", length=3, dtype=torch.float64)
        objective = objectives.of(batches, attack)
        assert isinstance(objective, PlainObjective)
        entrap(objective, attack, rule, lambda tensor: tensor)
        ends.append(attack.delta.detach())
    assert len(objectives.notes) == 1
    assert said in objectives.notes[0] and "placement suffix" in objectives.notes[0]
    attack = Perturbation(16, LAYER, "suffix", length=3, dtype=torch.float64)
    entrap(PlainObjective(decoder, batches), attack, rule, lambda tensor: tensor)
    assert torch.equal(ends[0], attack.delta) and torch.equal(ends[1], attack.delta)


def test_a_known_model_is_served_without_a_word() -> None:
    objectives = Objectives(Decoder(tiny_llama()))
    attack = Perturbation(16, LAYER, "prompt", length=3, longest_prompt=40, dtype=torch.float64)
    assert isinstance(objectives.of([ragged(4, 10)], attack), FastObjective)
    assert objectives.notes == []


def test_every_worker_uses_the_plain_loop_where_one_has_to() -> None:
    objectives = Objectives(Decoder(tiny_llama()), max_over_workers=lambda value: 1.0)
    attack = Perturbation(16, LAYER, "prompt", length=3, longest_prompt=40, dtype=torch.float64)
    assert isinstance(objectives.of([ragged(4, 11)], attack), PlainObjective)
    assert "found by another worker" in objectives.notes[0]


def test_the_plain_loop_can_be_asked_for() -> None:
    objectives = Objectives(Decoder(tiny_llama()), fast=False)
    attack = Perturbation(16, LAYER, "prompt", length=3, longest_prompt=40, dtype=torch.float64)
    assert isinstance(objectives.of([ragged(4, 12)], attack), PlainObjective)
    assert objectives.notes == []
