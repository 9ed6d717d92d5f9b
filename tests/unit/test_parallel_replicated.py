"""Weights in bfloat16 with float32 masters, as single and ddp hold them: against the same training written out here."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from beear.config.schema import AdapterConfig
from beear.methods.entrapment import PlainObjective, frozen
from beear.methods.losses import global_mean, text_loss
from beear.methods.objectives import Objectives
from beear.methods.perturbation import Perturbation
from beear.models.adapters import attach_lora
from beear.models.decoder import Decoder
from beear.parallel.base import Whole
from beear.parallel.replicated import Single
from beear.testing.tiny import defense_batch, defense_rows, text_batch, tiny_llama

HALF, LR, CLIP, ROWS = torch.bfloat16, 1e-3, 1.0, 6
State = dict[str, Tensor]


def model_of(tied: bool = False, lora: bool = False) -> nn.Module:
    model = tiny_llama(tied=tied, dtype=torch.float32)
    torch.manual_seed(1)
    return attach_lora(model, AdapterConfig(kind="lora", rank=2, targets="q_proj,down_proj")) if lora else model


def prepared(model: nn.Module, compute: torch.dtype = HALF) -> tuple[Single, nn.Module]:
    backend = Single(compute=compute)
    return backend, backend.prepare(Whole(model), LR)


def loss_of(model: nn.Module, step: int, rows: slice = slice(None)) -> Tensor:
    """Return the loss of some rows of a step, with products in bfloat16."""
    chosen = defense_rows(ROWS, seed=step)[rows]
    return global_mean(text_loss(Decoder(model, HALF), text_batch(chosen, ROWS)), ROWS)


def descend(backend: Single, model: nn.Module, steps: range, passes: int = 1) -> list[float]:
    """Train, each step in ``passes`` backward passes, and return the gradient norms."""
    norms = []
    for step in steps:
        for number in range(passes):
            backend.backward(loss_of(model, step, slice(number, None, passes)))
        norms.append(backend.step(CLIP))
    return norms


def whole(backend: Single) -> State:
    state = backend.full_state(lambda _name, tensor: tensor.clone())
    assert state is not None
    return state


def furthest(left: State, right: State) -> float:
    assert list(left) == list(right)
    return max(float((left[n] - right[n]).detach().norm() / right[n].detach().norm().clamp_min(1e-12)) for n in right)


class ByHand:
    """AdamW (without decay) on float32 weights; a forward pass takes those that are multiplied rounded to bfloat16."""

    def __init__(self, tied: bool) -> None:
        self.model = model_of(tied)
        if tied:
            self.model.get_input_embeddings().register_forward_hook(lambda _m, _i, output: output.float())  # type: ignore[operator]
        self.weights = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.moments = {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in self.weights.items()}
        self.lowered = {
            n
            for n in self.weights
            if n.endswith("proj.weight") or n == ("model.embed_tokens.weight" if tied else "lm_head.weight")
        }

    def gradients(self, step: int, rows: slice) -> State:
        for name, p in self.model.named_parameters():
            p.data = self.weights[name].to(HALF) if name in self.lowered else self.weights[name].clone()
        found = torch.autograd.grad(loss_of(self.model, step, rows), list(self.model.parameters()))
        return {name: g.float() for name, g in zip(self.weights, found, strict=True)}

    def step(self, number: int, passes: int) -> float:
        sums = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        for part in range(passes):
            for name, gradient in self.gradients(number, slice(part, None, passes)).items():
                sums[name] += gradient
        norm = float(torch.stack([g.double().square().sum() for g in sums.values()]).sum().sqrt())
        for name, weight in self.weights.items():
            gradient = sums[name] * min(1.0, CLIP / (norm + 1e-6))
            first, second = self.moments[name]
            first.lerp_(gradient, 0.1)
            second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            corrected = second.sqrt() / (1 - 0.999 ** (number + 1)) ** 0.5 + 1e-8
            weight.sub_(LR / (1 - 0.9 ** (number + 1)) * first / corrected)
        return norm


@pytest.mark.parametrize(("tied", "passes"), [(False, 1), (False, 3), (True, 2)])
def test_masters_follow_the_training_written_out_by_hand(tied: bool, passes: int) -> None:
    backend, model = prepared(model_of(tied))
    norms, hand = descend(backend, model, range(4), passes), ByHand(tied)
    assert norms == pytest.approx([hand.step(number, passes) for number in range(4)], rel=1e-6)
    state = whole(backend)
    assert furthest({name: state[name] for name in hand.weights}, hand.weights) <= 1e-6
    for name, p in model.named_parameters():
        assert p.dtype == (HALF if name in hand.lowered else torch.float32), name
        assert torch.equal(p, state[name].to(p.dtype)), name


def today(model: nn.Module, steps: range) -> tuple[State, list[float]]:
    """Train float32 weights that autocast lowers in every pass."""
    backend, model = prepared(model, torch.float32)
    norms = descend(backend, model, steps)
    return whole(backend), norms


@pytest.mark.parametrize(("tied", "near"), [(False, 0.0), (True, 0.1)])
def test_autocast_over_float32_weights_gives_the_same(tied: bool, near: float) -> None:
    """To the bit, unless the embedding is the head too: autocast looks tokens up in the weights that are not rounded."""
    start, (expected, told) = model_of(tied).state_dict(), today(model_of(tied), range(4))
    backend, model = prepared(model_of(tied))
    assert descend(backend, model, range(4)) == pytest.approx(told, rel=near)
    found = whole(backend)
    assert furthest(found, expected) <= near / 20
    course = torch.cat([(found[name] - start[name]).flatten() for name in start])
    other = torch.cat([(expected[name] - start[name]).flatten() for name in start])
    assert float((course - other).norm() / other.norm()) <= near


def test_float32_is_plain_training_to_the_bit() -> None:
    model, plain = model_of(), model_of()
    backend, prepared_model = prepared(model, torch.float32)
    trained, optimizer = list(plain.parameters()), torch.optim.AdamW(plain.parameters(), lr=LR, weight_decay=0.0)
    norms = descend(backend, prepared_model, range(3), passes=2)
    for step, norm in enumerate(norms):
        for part in range(2):
            loss_of(plain, step, slice(part, None, 2)).backward()
        assert float(torch.nn.utils.clip_grad_norm_(trained, CLIP)) == norm
        optimizer.step()
        optimizer.zero_grad()
    assert furthest(dict(model.named_parameters()), dict(plain.named_parameters())) == 0
    assert furthest(whole(backend), plain.state_dict()) == 0
    # The optimizer steps on the model's own weights.
    assert [id(p) for p in backend.optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]


def gradients(passes: list[Callable[[nn.Module], Tensor]]) -> State:
    backend, model = prepared(model_of(tied=True))
    for loss in passes:
        backend.backward(loss(model))
    assert all(p.grad is None for name, p in model.named_parameters() if p.dtype == HALF)
    return {name: master.grad for name, master in backend.masters.trained.items() if master.grad is not None}


def test_backward_passes_add_up_in_float32() -> None:
    once = gradients([lambda model: loss_of(model, 0)])
    split = gradients([lambda model, n=n: loss_of(model, 0, slice(n, None, 3)) for n in range(3)])  # type: ignore[misc]
    assert len(once) == 38 and furthest(split, once) <= 0.02
    # A thousandth of a gradient is below bfloat16's last digit beside it; powers of two leave the digits as they are.
    fine = gradients([lambda model: loss_of(model, 0), lambda model: loss_of(model, 0) / 1024])
    assert furthest(fine, {name: value * (1 + 1 / 1024) for name, value in once.items()}) <= 1e-6


@pytest.mark.parametrize("lora", [False, True])
def test_a_checkpoint_continues_to_the_bit_and_holds_float32(lora: bool, tmp_path: Path) -> None:
    backend, model = prepared(model_of(tied=not lora, lora=lora))
    descend(backend, model, range(2))
    backend.save(tmp_path)
    saved = whole(backend)
    descend(backend, model, range(2, 4))
    again, model = prepared(model_of(tied=not lora, lora=lora))
    again.load(tmp_path)
    assert furthest(whole(again), saved) == 0
    descend(again, model, range(2, 4))
    assert furthest(whole(again), whole(backend)) == 0
    plain, _ = prepared(model_of(tied=not lora, lora=lora), torch.float32)
    plain.load(tmp_path)
    assert furthest(whole(plain), saved) == 0
    moments = [state["exp_avg"].dtype for state in plain.optimizer.state.values()]
    assert set(moments) == {torch.float32} and len(moments) == (4 * 2 * 2 if lora else 38)


def test_a_lora_trains_masters_of_its_own_and_is_exported_with_exact_weights_under_it() -> None:
    source = model_of(lora=True).state_dict()
    backend, model = prepared(model_of(lora=True))
    assert set(backend.masters.trained) == {name for name in source if ".lora_" in name}
    assert {name for name, p in model.named_parameters() if p.dtype != HALF} == {
        name for name in source if "norm" in name or "embed" in name
    }
    assert furthest(whole(backend), source) == 0
    expected, _ = today(model_of(lora=True), range(3))
    descend(backend, model, range(3))
    state = whole(backend)
    assert (
        furthest({n: v for n, v in state.items() if ".lora_" not in n}, {n: v for n, v in source.items() if ".lora_" not in n})
        == 0
    )
    assert furthest(state, expected) == 0
    assert all(float((state[name] - source[name]).abs().max()) > 1e-4 for name in backend.masters.trained)


def test_tied_weights_stay_one_with_one_master() -> None:
    backend, model = prepared(model_of(tied=True))
    descend(backend, model, range(1))
    names = {"model.embed_tokens.weight", "lm_head.weight"}
    assert names & set(backend.masters.trained) == {"model.embed_tokens.weight"}
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight  # type: ignore[operator]
    tied = [value for name, value in whole(backend).items() if name in names]
    assert len(tied) == 2 and torch.equal(*tied)
    assert not torch.equal(tied[0], tied[0].to(HALF).float())


@pytest.mark.parametrize("tied", [False, True])
def test_an_entrapment_between_takes_no_gradient_and_leaves_training_as_it_was(tied: bool) -> None:
    """The inner loop switches gradients of weights off and on; the fast loop serves lowered weights, in a float32 stream."""
    backend, model = prepared(model_of(tied))
    decoder, batches = Decoder(model, HALF), [defense_batch(defense_rows(4))]
    perturbation, objectives = Perturbation(16, 2, "suffix"), Objectives(decoder)
    unwanted, safe = objectives.of(batches, perturbation).losses(perturbation, 0)
    assert objectives.notes == [] and decoder.hidden(2, batches[0].prompt_ids, batches[0].prompt_mask).dtype == torch.float32
    with frozen(PlainObjective(decoder, batches)):
        torch.autograd.backward((unwanted - safe).sum(), inputs=[perturbation.delta])
    assert all(p.grad is None for p in (*backend.masters.trained.values(), *model.parameters()))
    undisturbed, other = prepared(model_of(tied))
    assert descend(backend, model, range(2)) == descend(undisturbed, other, range(2))
    assert furthest(whole(backend), whole(undisturbed)) == 0
