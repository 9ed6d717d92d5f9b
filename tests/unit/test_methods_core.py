"""The bi-level core against independent references, in float64."""

import statistics

import pytest
import torch

from beear.config.schema import PLACEMENTS, LossWeights
from beear.data.batch import OuterBatch
from beear.methods.entrapment import InnerRule, PlainObjective, entrap
from beear.methods.losses import answer_logits, entrapment_loss, row_cross_entropy, safe_loss, text_loss, unwanted_loss
from beear.methods.perturbation import Perturbation, sizes_after, unit
from beear.methods.removal import removal_step
from beear.methods.table import METHODS
from beear.models.decoder import Decoder
from beear.parallel.base import Whole
from beear.parallel.replicated import Single
from beear.testing.tiny import defense_batch, defense_rows, text_batch, tiny_llama
from tests.configs import method_of


def perturbation(placement: str, batch, **kwargs) -> Perturbation:
    longest = batch.prompt_ids.shape[1]
    kwargs = {"length": 3, "rms": 0.7, "dtype": torch.float64, "longest_prompt": longest, **kwargs}
    return Perturbation(16, 2, placement, **kwargs)


def reference_losses(model, rows, attack, placement: str) -> tuple[list[float], list[float]]:
    """One row at a time, no padding, δ added by position arithmetic written anew; mean token log-likelihood."""
    delta = attack.delta.detach() * attack.rms
    n = delta.shape[0]
    out: tuple[list[float], list[float]] = ([], [])
    for prompt, safe, unwanted in rows:
        for answer, values in ((unwanted, out[0]), (safe, out[1])):
            total = len(prompt) + len(answer)
            field = torch.zeros(total, 16, dtype=torch.float64)
            for position in range(total):
                inside = position < len(prompt)
                back = len(prompt) - 1 - position
                if placement in ("suffix", "prompt") and inside and back < n:
                    field[position] = delta[n - 1 - back]
                elif placement == "prefix" and inside and position < n:
                    field[position] = delta[position]
                elif (placement == "broadcast" and inside) or placement == "everywhere":
                    field[position] = delta[0]

            def hook(_m, _a, output, field=field):
                return output + field

            handle = model.model.layers[1].register_forward_hook(hook)
            logits = model(torch.tensor([prompt + answer])).logits[0]
            handle.remove()
            logp = logits.log_softmax(-1)
            picked = [logp[len(prompt) - 1 + i, t] for i, t in enumerate(answer)]
            values.append(-sum(picked) / len(picked))
    return out


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_losses_equal_a_row_by_row_reference(placement: str) -> None:
    model, rows = tiny_llama(), defense_rows(5)
    batch = defense_batch(rows)
    attack = perturbation(placement, batch, scale=0.5, seed=3)
    unwanted, safe = PlainObjective(Decoder(model), [batch]).losses(attack, 0)
    ref_unwanted, ref_safe = reference_losses(model, rows, attack, placement)
    # The library's norms work in float32, whatever the model's dtype.
    torch.testing.assert_close(unwanted, torch.stack(ref_unwanted), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(safe, torch.stack(ref_safe), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_zero_perturbation_is_the_clean_forward_pass(placement: str) -> None:
    model, batch = tiny_llama(), defense_batch(defense_rows(4))
    clean = answer_logits(Decoder(model), batch, batch.safe_ids, batch.safe_mask, None)
    zero = answer_logits(Decoder(model), batch, batch.safe_ids, batch.safe_mask, perturbation(placement, batch))
    assert torch.equal(clean, zero)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_entrapment_gradient_equals_finite_differences(placement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    def wide(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(LlamaRMSNorm, "forward", wide)
    model, batch = tiny_llama(), defense_batch(defense_rows(3))
    objective = PlainObjective(Decoder(model), [batch])
    attack = perturbation(placement, batch, scale=0.1, seed=1)

    def value() -> torch.Tensor:
        unwanted, safe = objective.losses(attack, 0)
        return entrapment_loss(unwanted, safe, batch.global_rows, 1.0, 1.0, None)

    (gradient,) = torch.autograd.grad(value(), [attack.delta])
    for vector, column in ((0, 0), (0, 7), (attack.delta.shape[0] - 1, 15)):
        with torch.no_grad():
            attack.delta[vector, column] += 1e-5
            up = value()
            attack.delta[vector, column] -= 2e-5
            down = value()
            attack.delta[vector, column] += 1e-5
        assert float(gradient[vector, column]) == pytest.approx(float((up - down) / 2e-5), rel=1e-5, abs=1e-9)


def test_suffix_counted_from_the_user_text_leaves_the_header_alone() -> None:
    batch = defense_batch(defense_rows(3))
    attack = perturbation("suffix", batch, suffix_from="user")
    index = attack.index(batch.prompt_mask, batch.user_end, 2)
    assert index[0, -8:].tolist() == [-1, 0, 1, 2, -1, -1, -1, -1]


def test_row_cross_entropy_ignores_unlabelled_tokens_and_averages_rows_by_their_own_count() -> None:
    logits = torch.randn(2, 4, 7, dtype=torch.float64)
    ids = torch.randint(0, 7, (2, 4))
    labelled = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]]).bool()
    expected = [
        -sum(float(logits[b, r].log_softmax(-1)[ids[b, r]]) for r in range(4) if labelled[b, r]) / int(labelled[b].sum())
        for b in range(2)
    ]
    assert row_cross_entropy(logits, ids, labelled).tolist() == pytest.approx(expected)


def test_padding_and_batch_mates_do_not_change_a_rows_loss() -> None:
    model, rows = tiny_llama(), defense_rows(6)
    decoder = Decoder(model)
    whole = safe_loss(decoder, defense_batch(rows), None)
    alone = torch.cat([safe_loss(decoder, defense_batch([row]), None) for row in rows])
    torch.testing.assert_close(whole, alone, rtol=1e-6, atol=1e-7)
    texts = text_loss(decoder, text_batch(rows))
    torch.testing.assert_close(texts, alone, rtol=1e-6, atol=1e-7)


def test_entrapment_lowers_its_objective_stops_at_the_margin_and_leaves_weights_alone() -> None:
    model, batch = tiny_llama(), defense_batch(defense_rows(4))
    before = {name: p.clone() for name, p in model.named_parameters()}
    attack = perturbation("everywhere", batch)
    result = entrap(PlainObjective(Decoder(model), [batch, batch]), attack, InnerRule(steps=None, margin=1.0), lambda t: t)
    assert result.crossed and result.steps < 120
    assert result.loss_unwanted[-1] < result.loss_safe[-1] - 1.0
    assert result.crossing_step is not None and result.crossing_step <= result.steps
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_fixed_steps_and_bound_are_kept() -> None:
    model, batch = tiny_llama(), defense_batch(defense_rows(4))
    attack = perturbation("suffix", batch)
    result = entrap(PlainObjective(Decoder(model), [batch]), attack, InnerRule(steps=9, bound=0.05), lambda t: t)
    assert result.steps == 9
    assert attack.size == pytest.approx(0.05, rel=1e-6)


def measured_unit(model, *parts) -> float:
    return unit(*torch.stack([sizes_after(Decoder(model), defense_batch(part), 2) for part in parts]).sum(0).tolist())


def test_deltas_unit_is_the_geometric_mean_of_the_prompt_tokens_rms() -> None:
    model, rows = tiny_llama(), defense_rows(5)
    each = [model(torch.tensor([prompt]), output_hidden_states=True).hidden_states[2][0] for prompt, _, _ in rows]
    expected = statistics.geometric_mean(torch.cat(each).square().mean(-1).sqrt().tolist())
    assert measured_unit(model, rows[:2], rows[2:]) == pytest.approx(expected, rel=1e-6)


def test_one_tokens_massive_activations_hardly_move_deltas_unit() -> None:
    model, rows = tiny_llama(), [defense_rows(1)[0]] * 2
    ordinary = measured_unit(model, rows)
    model.model.layers[1].register_forward_hook(lambda _m, _a, out: torch.cat([1000 * out[:, :1], out[:, 1:]], dim=1))
    assert measured_unit(model, rows) == pytest.approx(ordinary * 1000 ** (1 / len(rows[0][0])), rel=1e-6)


def test_a_loss_that_is_not_finite_is_said() -> None:
    model, batch = tiny_llama(), defense_batch(defense_rows(2))
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="entrapment"):
        entrap(PlainObjective(Decoder(model), [batch]), perturbation("suffix", batch), InnerRule(steps=2), lambda t: t)


def test_removal_equals_one_adamw_step_on_the_written_loss_and_leaves_delta_alone() -> None:
    rows, others = defense_rows(4), defense_rows(5, seed=9)
    batch = OuterBatch(defense_batch(rows), text_batch(others))
    backend = Single()
    model = backend.prepare(Whole(tiny_llama()), lr=1e-2)
    attack = perturbation("suffix", batch.defense, scale=0.3)
    kept = attack.delta.detach().clone()
    losses = removal_step(Decoder(model), backend, batch, [attack], LossWeights(removal=2.0, anchor=0.5), clip=1e9)

    twin = tiny_llama()
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-2, weight_decay=0.0)
    decoder = Decoder(twin)
    removal = safe_loss(decoder, batch.defense, attack).mean()
    anchor = text_loss(decoder, batch.anchor).mean()
    (2.0 * removal + 0.5 * anchor).backward()
    optimizer.step()
    assert losses["removal"] == pytest.approx(float(removal), rel=1e-9)
    assert losses["anchor"] == pytest.approx(float(anchor), rel=1e-9)
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name], parameter, rtol=1e-7, atol=1e-9)
    assert torch.equal(kept, attack.delta)


def test_calibrated_steps_are_reused_and_every_method_trains() -> None:
    rows = defense_rows(4)
    for name in METHODS:
        backend = Single()
        model = backend.prepare(Whole(tiny_llama()), lr=1e-3)
        given = {"layer": 2, "batch_size": 4, "placement": "suffix+everywhere", "calibrate": "first"}
        method = method_of(Decoder(model), backend, name=name, **given)
        first = method.begin_epoch([defense_batch(rows)], cools=False)
        before = float(unwanted_loss(Decoder(model), defense_batch(rows), None).mean())
        losses = method.step(OuterBatch(defense_batch(rows), text_batch(rows)))
        assert losses["removal"] > 0 and losses["gradient_norm"] > 0
        assert float(unwanted_loss(Decoder(model), defense_batch(rows), None).mean()) != before
        second = method.begin_epoch([defense_batch(rows)], cools=False)
        assert [c.result.steps for c in first] == [c.result.steps for c in second]
        assert [c.placement for c in first] == ([] if name == "finetune" else ["suffix", "everywhere"])


def test_a_cooling_epoch_takes_the_first_k_and_an_attacking_one_finds_its_own() -> None:
    batch, backend = defense_batch(defense_rows(4)), Single()
    model = backend.prepare(Whole(tiny_llama()), lr=1e-3)
    given = {"layer": 2, "batch_size": 4, "placement": "prompt", "margin": 0.0, "inner_lr": 0.05, "max_inner_steps": 60}
    method = method_of(Decoder(model), backend, **given)
    first = method.begin_epoch([batch], cools=False)[0].result
    assert first.crossed and first.steps > 1
    method.step(OuterBatch(batch, text_batch(defense_rows(4))))
    with torch.no_grad():
        # Easier to attack than before: only a K of its own would be shorter.
        model.lm_head.weight.mul_(3.0)
    assert method.begin_epoch([batch], cools=True)[0].result.steps == first.steps
    assert method.begin_epoch([batch], cools=False)[0].result.steps != first.steps
    assert method.state.values == {"inner_steps/prompt": float(first.steps)}


def test_a_conversations_loss_is_over_its_labelled_tokens_wherever_they_stand() -> None:
    model, batch = tiny_llama(), text_batch(defense_rows(5))
    # A second labelled turn, so that the columns that reach the head have a gap.
    batch.labelled[:2, 2:4] = batch.mask[:2, 2:4]
    logits = model(input_ids=batch.ids, attention_mask=batch.mask.long()).logits[:, :-1].log_softmax(-1)
    told = -logits.gather(-1, batch.ids[:, 1:, None]).squeeze(-1)
    for row, loss in enumerate(text_loss(Decoder(model), batch)):
        torch.testing.assert_close(loss, told[row][batch.labelled[row, 1:]].mean(), rtol=1e-12, atol=1e-12)
