"""One worker and two on the same global batches: the same δ and the same weights, on the built-in backdoored model."""

import os
import socket
from pathlib import Path
from typing import Any

from benchmarks.training import testbed_training

MODEL = "testbed:short-suffix"


def measure(folder: Path) -> dict[str, Any]:
    """Train with one process and with two (gloo) and return the largest relative differences."""
    import torch
    import torch.multiprocessing as mp

    folder.mkdir(parents=True, exist_ok=True)
    _train(0, 1, 0, str(folder))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    mp.spawn(_train, args=(2, port, str(folder)), nprocs=2)
    one, two = (torch.load(folder / f"{world}-0.pt", weights_only=True) for world in (1, 2))
    gaps = {name: float((two[name] - value).norm() / value.norm()) for name, value in one.items()}
    deltas = [gap for name, gap in gaps.items() if name.startswith("delta/")]
    return {"delta": max(deltas), "weights": max(gap for name, gap in gaps.items() if not name.startswith("delta/"))}


def _train(rank: int, world: int, port: int, folder: str) -> None:
    import torch
    import torch.distributed as dist

    from beear.data.local import LocalBatches
    from beear.engine.session import Session
    from beear.parallel.choose import choose

    def one_epoch(config: Any) -> None:
        config.method.epochs = 1

    if world > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        dist.init_process_group("gloo", rank=rank, world_size=world)
    training, _ = testbed_training(MODEL, one_epoch)
    session = Session(training, choose("auto", world, "cpu"), LocalBatches)
    session.fit(lambda _: None)
    state = {name: p.detach() for name, p in session.model.named_parameters()}
    attacks = getattr(session.method, "perturbations", [])
    state |= {f"delta/{number}": attack.delta.detach() for number, attack in enumerate(attacks)}
    torch.save(state, Path(folder) / f"{world}-{rank}.pt")
    if world > 1:
        dist.destroy_process_group()


def markdown(result: dict[str, Any]) -> str:
    """Return the section of docs/results.md."""
    return "\n".join(
        [
            "## Two workers and one",
            "",
            "The same global batches, float32, one epoch with calibrated K on the built-in backdoored model. Largest relative "
            "difference of any tensor (norm of the difference over the norm):",
            "",
            "| tensor | difference | limit |",
            "|---|---|---|",
            f"| δ | {result['delta']:.1e} | 1e-5 |",
            f"| weights | {result['weights']:.1e} | 1e-5 |",
            "",
        ]
    )
