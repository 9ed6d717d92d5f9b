"""Forward passes in lockstep: where weights are sharded, every pass needs all workers, and workers measure different rows."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from beear.evaluation.subject import Subject
from beear.parallel.base import Backend


@contextmanager
def in_step(subject: Subject, backend: Backend) -> Iterator[None]:
    """Within the context each forward pass of the subject's model waits until every worker makes one too.

    A worker that leaves the context makes passes over a lone padding token until all have left. Where the backend needs
    no lockstep nothing is done.
    """
    if not backend.lockstep:
        yield
        return

    def someone_computes(computes: bool) -> bool:
        return bool(backend.reduce(torch.tensor([float(computes)], device=backend.device)) > 0)

    def wait(*_: object) -> None:
        someone_computes(True)

    # Before the hooks that gather weights, so that workers agree on what they do next.
    handle = subject.model.register_forward_pre_hook(wait, prepend=True)
    try:
        yield
    finally:
        handle.remove()
    with subject.measuring():
        while someone_computes(False):
            token = torch.full((1, 1), subject.pad_id, device=backend.device)
            subject.model(input_ids=token, attention_mask=torch.ones_like(token), use_cache=False, logits_to_keep=1)
