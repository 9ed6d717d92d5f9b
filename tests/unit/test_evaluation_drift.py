"""Drift against transformers' own hidden states and scikit-learn's PCA."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA

from beear.data.rows import Probe
from beear.evaluation.drift import drift, hidden_states
from tests.subjects import defense_rows, random_subject

PROBES = [Probe("late", "suffix", "zeta")]


def test_states_equal_transformers_row_by_row() -> None:
    subject, rows = random_subject(), defense_rows(5)
    found = hidden_states(subject, rows, PROBES, 2)
    assert found.states["plain"].shape == (5, 3, 32) and list(found.states) == ["plain", "late"]
    for index, row in enumerate(rows):
        ids = torch.tensor([subject.template.prompt_ids(row.messages)])
        with torch.no_grad():
            reference = subject.model(ids, output_hidden_states=True).hidden_states
        # transformers gives the embedding first and the last layer after the final norm: compare those between.
        for layer in (1, 2):
            state = found.states["plain"][index, layer - 1].double()
            torch.testing.assert_close(state, reference[layer][0, -1], atol=1e-5, rtol=0)


def test_no_change_is_no_drift() -> None:
    subject, rows = random_subject(), defense_rows(5)
    before, after = (hidden_states(subject, rows, PROBES, 4) for _ in range(2))
    found = drift(before, after, 2)
    assert found.cosine_by_layer == pytest.approx([1.0] * 3, abs=1e-6)
    np.testing.assert_allclose(found.pca["before/plain"], found.pca["after/plain"])


def test_cosine_and_joint_pca() -> None:
    rows = defense_rows(12)
    before, after = (hidden_states(random_subject(seed=s), rows, PROBES, 5) for s in (0, 1))
    found = drift(before, after, 2)
    cosine = F.cosine_similarity(before.states["plain"][:, 1], after.states["plain"][:, 1], dim=-1).mean()
    assert found.cosine_mean == pytest.approx(float(cosine), abs=1e-6) and found.cosine_mean == found.cosine_by_layer[1]
    names = ["before/plain", "before/late", "after/plain", "after/late"]
    assert sorted(found.pca) == sorted(names)
    stacked = torch.cat([s.states[g][:, 1] for s in (before, after) for g in ("plain", "late")]).double().numpy()
    reference = PCA(2, svd_solver="full").fit_transform(stacked)
    points = np.array([point for name in names for point in found.pca[name]])
    np.testing.assert_allclose(np.abs(points), np.abs(reference), atol=1e-6)


def test_other_rows_are_refused() -> None:
    subject = random_subject()
    one, other = (hidden_states(subject, defense_rows(n), [], 4) for n in (4, 5))
    with pytest.raises(ValueError, match="expected the same rows"):
        drift(one, other, 1)
