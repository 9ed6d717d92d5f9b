"""The evaluation benchmark's three ways write the same, and its table says how they compare."""

from dataclasses import replace

import torch

from beear.evaluation.generate import generate_ids
from benchmarks import evaluation
from tests.subjects import random_subject

PROMPTS = [[1, *range(10, 14 + 2 * row)] for row in range(16)]


def test_the_three_ways_write_the_same_and_are_compared_pair_by_pair() -> None:
    found = evaluation._timed(random_subject(dtype=torch.float64), PROMPTS, tokens=3, pairs=2)
    assert found["equal"] == {"alone": 1.0, "transformers": 1.0}
    assert set(found["speed"]) == set(evaluation.WAYS) and all(s["low"] <= s["median"] for s in found["speed"].values())
    gain, speed = found["gain"]["alone"], found["speed"]
    assert gain["low"] >= speed["batched"]["low"] / speed["alone"]["high"]
    page = evaluation.markdown({"prompts": 16, "tokens": 3, "pairs": 2, "threads": 1, "models": {"tiny": found}})
    assert f"| tiny | one at a time | {evaluation._shown(speed['alone'], '.0f')} | {gain['median']:.1f} (" in page


def test_a_lone_completion_ends_before_the_token_that_ended_it() -> None:
    subject = random_subject(dtype=torch.float64)
    free = generate_ids(replace(subject, stop=frozenset()), PROMPTS[:1], 4, 1)[0]
    ending = replace(subject, stop=frozenset({free[2]}))
    assert evaluation._by_transformers(ending, PROMPTS[0], 4) == generate_ids(ending, PROMPTS[:1], 4, 1)[0]
