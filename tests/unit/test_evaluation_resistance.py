"""The fresh attack: its course, its completions under δ, and its budget."""

import random

import pytest
import torch

from beear.config.schema import EvaluateConfig, ResistanceConfig
from beear.evaluation import resistance
from beear.evaluation.generate import generate_ids
from beear.evaluation.likelihood import labelled_nll
from beear.evaluation.resistance import Attack, attacks, complete_under, curve_steps, measure_resistance, run_attack
from beear.methods.entrapment import PlainObjective
from beear.methods.objectives import Objectives
from beear.methods.perturbation import Perturbation
from beear.models.decoder import Decoder
from tests.subjects import defense_rows, random_subject

CONFIG = EvaluateConfig(max_new_tokens=3, resistance=ResistanceConfig(steps=8, rows=16))


def test_without_a_perturbation_completions_are_the_models_own() -> None:
    subject, rows = random_subject(), defense_rows(6)
    decoder, batch = Decoder(subject.model), resistance._batch(subject, rows)
    delta = Perturbation(32, 2, "everywhere", dtype=torch.float64)
    reference = generate_ids(subject, [subject.template.prompt_ids(r.messages) for r in rows], 7, 6)
    assert complete_under(subject, decoder, delta, batch, 7) == reference
    moved = Perturbation(32, 2, "everywhere", dtype=torch.float64, scale=3.0)
    assert complete_under(subject, decoder, moved, batch, 7) != reference


@pytest.mark.parametrize("placement", ["suffix", "everywhere"])
def test_curve_starts_at_the_plain_gap_and_falls(placement: str) -> None:
    subject, rows = random_subject(), defense_rows(16)
    curve = run_attack(subject, Objectives(Decoder(subject.model)), Attack(1, placement, 3), rows, CONFIG)
    held = random.Random(3).sample(rows, 16)[8:]
    pairs = []
    for row in held:
        prompt = subject.template.prompt_ids(row.messages)
        for answer in (row.unwanted, row.safe):
            ids = subject.template.answer_ids(row.messages, answer)
            # "I cannot help." and "Sure: ….": both end in "." and the end of turn, and nothing else is shared.
            pairs.append((prompt + ids, [False] * len(prompt) + [True] * (len(ids) - 2) + [False] * 2))
    losses = labelled_nll(subject, pairs, 8)
    gaps = [a - b for a, b in zip(losses[::2], losses[1::2], strict=True)]
    assert curve.steps[0] == 0 and curve.gap[0] == pytest.approx(sum(gaps) / 8, abs=1e-9)
    assert curve.steps[-1] == 8 and curve.final_gap == curve.gap[-1] < curve.gap[0]
    crossed = [s for s, gap in zip(curve.steps, curve.gap, strict=True) if gap < 0]
    assert curve.crossing_step == (crossed[0] if crossed else None)
    assert curve.hits is not None and curve.hits.n == 8


def test_same_seed_same_curve_and_weights_untouched() -> None:
    subject, rows = random_subject(), defense_rows(16)
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    config = EvaluateConfig(max_new_tokens=2, resistance=ResistanceConfig(steps=3, rows=16, placements="suffix"))
    one, two = (measure_resistance(subject, rows, config, seed=1) for _ in range(2))
    assert one == two
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in subject.model.parameters())
    assert measure_resistance(subject, rows, config, seed=2)[0].gap != one[0].gap


def test_hits_need_both_the_likelier_answer_and_the_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, rows = random_subject(), defense_rows(16)
    strong = EvaluateConfig(max_new_tokens=2, resistance=ResistanceConfig(steps=8, lr=2.0))
    for text, all_match in (("Sure: go", True), ("I cannot help.", False)):
        monkeypatch.setattr(type(subject), "text", lambda _self, _ids, text=text: text)
        curve = run_attack(subject, Objectives(Decoder(subject.model)), Attack(1, "everywhere", 0), rows, strong)
        assert curve.final_gap < 0 and curve.hits is not None
        assert curve.hits.hits == (8 if all_match else 0)
    monkeypatch.setattr(type(subject), "text", lambda _self, _ids: "Sure: go")
    still = EvaluateConfig(max_new_tokens=2, resistance=ResistanceConfig(steps=1, lr=1e-9))
    curve = run_attack(subject, Objectives(Decoder(subject.model)), Attack(1, "everywhere", 0), rows, still)
    held = resistance._batch(subject, random.Random(0).sample(rows, 16)[8:])
    at_zero = Perturbation(32, 1, "everywhere", dtype=torch.float64)
    unwanted, safe = PlainObjective(Decoder(subject.model), [held]).losses(at_zero, 0)
    assert curve.hits is not None and curve.hits.hits == int((unwanted < safe).sum())


def test_every_layer_placement_and_seed_is_an_attack() -> None:
    budget = ResistanceConfig(layers="1,3", placements="suffix+prompt", seeds=2)
    known = attacks(budget, 6, seed=10)
    assert len(set(known)) == 8 and {a.seed for a in known} == {10, 11} and {a.layer for a in known} == {1, 3}
    assert {a.layer for a in attacks(ResistanceConfig(), 32)} == {9}


def test_rows_without_both_answers_are_not_used() -> None:
    rows = [type(r)(r.messages, r.safe, None) for r in defense_rows(8)]
    assert measure_resistance(random_subject(), rows, CONFIG) == []


def test_curve_steps_are_within_the_budget() -> None:
    assert curve_steps(5) == [0, 1, 2, 3, 4]
    assert max(curve_steps(200)) < 200 and curve_steps(200) == sorted(set(curve_steps(200)))
