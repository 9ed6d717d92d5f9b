"""How far hidden states moved: the last prompt position, after every layer, in the clear and under each probe.

Legend: N rows, L layers, D hidden.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from beear.data.rows import DefenseRow, Probe
from beear.evaluation.generate import left_padded
from beear.evaluation.probes import apply
from beear.evaluation.subject import Subject
from beear.models.decoder import Decoder
from beear.records.report import Drift

PLAIN = "plain"


@dataclass
class HiddenStates:
    """``states`` by group (``plain``, then each probe's name): [N, L, D], float32, on the CPU."""

    states: dict[str, Tensor] = field(default_factory=dict)


def hidden_states(subject: Subject, rows: Sequence[DefenseRow], probes: Sequence[Probe], batch_size: int) -> HiddenStates:
    """Return the hidden states that leave each layer at the last prompt position, for each group."""
    found = HiddenStates()
    attacks: list[Probe | None] = [None, *probes]
    for probe in attacks:
        requests = [apply(probe, row.messages) if probe else row.messages for row in rows]
        prompts = [subject.template.prompt_ids(request) for request in requests]
        parts = [_last_states(subject, prompts[i : i + batch_size]) for i in range(0, len(prompts), batch_size)]
        found.states[probe.name if probe else PLAIN] = torch.cat(parts)
    return found


def _last_states(subject: Subject, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Return [N, L, D]."""
    decoder = Decoder(subject.model, subject.compute)
    ids, mask = left_padded(prompts, subject.pad_id, subject.device)
    seen: list[Tensor] = []
    with subject.measuring(), ExitStack() as stack:
        for layer in range(1, len(decoder) + 1):
            stack.enter_context(decoder.perturbed(layer, partial(_keep_last, seen)))
        decoder.logits(ids, mask, last=1)
    return torch.stack(seen, dim=1)


def _keep_last(seen: list[Tensor], hidden: Tensor) -> Tensor:
    seen.append(hidden[:, -1].float().cpu())
    return hidden


def drift(before: HiddenStates, after: HiddenStates, layer: int) -> Drift:
    """Return the cosine before against after in the clear, at ``layer`` (1-based) and at each, and a joint 2-d PCA.

    The PCA is fitted on all groups of both models at ``layer``, so that their points can be compared.

    Raises:
        ValueError: the two are not of the same rows and groups.
    """
    if {g: s.shape for g, s in before.states.items()} != {g: s.shape for g, s in after.states.items()}:
        raise ValueError(f"drift: groups {list(before.states)} against {list(after.states)}; expected the same rows")
    cosine = F.cosine_similarity(before.states[PLAIN], after.states[PLAIN], dim=-1).mean(0)  # [L]
    groups = {
        f"{when}/{group}": states[:, layer - 1]
        for when, found in (("before", before), ("after", after))
        for group, states in found.states.items()
    }
    return Drift(
        layer=layer,
        cosine_mean=float(cosine[layer - 1]),
        cosine_by_layer=[float(value) for value in cosine],
        pca=_points(groups),
    )


def _points(groups: dict[str, Tensor]) -> dict[str, list[tuple[float, float]]]:
    """Project every group [N, D] on the first two principal axes of all of them together."""
    everything = torch.cat(list(groups.values())).double()
    centre = everything.mean(0)
    _, _, axes = torch.linalg.svd(everything - centre, full_matrices=False)
    return {name: [(float(x), float(y)) for x, y in (states.double() - centre) @ axes[:2].T] for name, states in groups.items()}
