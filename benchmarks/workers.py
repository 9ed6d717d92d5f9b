"""Every backend on two workers beside one plain worker, on the same global batches: the same δ and the same weights.

    make evidence PART=workers

Full fine-tuning and LoRA, on the built-in model with tied and the one with untied embeddings, float32, one epoch.
"""

from pathlib import Path
from typing import Any

from benchmarks.backends import BACKENDS
from benchmarks.crew import Crew

MODELS = {"tied": "testbed:short-suffix", "untied": "testbed:short-suffix@deep"}
LIMIT = 1e-5


def measure(folder: Path) -> dict[str, Any]:
    """Train with one plain process and with two of every backend and return the largest relative differences."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for shape, model in MODELS.items():
        for adapter in ("none", "lora"):
            expected = folder / f"{shape}-{adapter}.pt"
            with Crew(1, build, "single", 3, model, adapter, str(expected)) as crew:
                crew.run("train")
            one = torch.load(expected, weights_only=True)
            for name, (backend, stage) in BACKENDS.items():
                path = folder / f"{shape}-{adapter}-{name}.pt"
                with Crew(2, build, backend, stage, model, adapter, str(path)) as crew:
                    crew.run("train")
                two = torch.load(path, weights_only=True)
                found.append({"embeddings": shape, "adapter": adapter, "backend": name, **gaps(one, two)})
                print(found[-1], flush=True)
    return {"cases": found}


def gaps(one: dict[str, Any], two: dict[str, Any]) -> dict[str, float]:
    """Return differences (norm of the difference over the norm): the largest of any δ, that of all trained weights together,
    and the largest of any one of them.

    Raises:
        RuntimeError: the two hold different tensors.
    """
    if set(one) != set(two):
        raise RuntimeError(f"different tensors: {sorted(set(one) ^ set(two))[:3]}")
    each = {name: float((two[name] - value).norm() / value.norm().clamp_min(1e-12)) for name, value in one.items()}
    deltas = [gap for name, gap in each.items() if name.startswith("delta/")]
    weights = [name for name in one if not name.startswith("delta/")]
    # Of a model with a LoRA the rest is frozen.
    trained = [name for name in weights if ".lora_" in name] or weights
    apart, size = (sum(float(part(name).square().sum()) for name in trained) for part in (lambda n: two[n] - one[n], one.get))
    return {"delta": max(deltas), "together": (apart / size) ** 0.5, "weights": max(each[name] for name in weights)}


def build(rank: int, world: int, backend: str, stage: int, model: str, adapter: str, path: str) -> dict[str, Any]:
    """Return a worker's work: ``train`` runs one epoch and leaves the whole weights and each δ in ``path``."""

    def train() -> None:
        import torch

        from beear.data.local import LocalBatches
        from beear.engine.session import Session
        from beear.parallel.choose import choose
        from beear.parallel.spread import Spread
        from benchmarks.training import testbed_training

        training, _ = testbed_training(model, _one_epoch(adapter))
        session = Session(training, choose(Spread(backend, world, zero_stage=stage), "cpu"), LocalBatches)
        session.fit(lambda _: None)
        state = session.backend.full_state(lambda _name, tensor: tensor.clone())
        if state is not None:
            attacks = getattr(session.defense, "perturbations", [])
            state |= {f"delta/{number}": attack.delta.detach() for number, attack in enumerate(attacks)}
            torch.save(state, path)

    return {"train": train}


def _one_epoch(adapter: str) -> dict[str, Any]:
    return {"method.epochs": 1, "method.max_inner_steps": 15, "adapter.kind": adapter, "evaluate.selection_rows": 8}


def markdown(result: dict[str, Any]) -> str:
    """Return the section of docs/results.md."""
    kinds = {"none": "full", "lora": "LoRA"}
    above = [case for case in result["cases"] if max(case["delta"], case["together"]) > LIMIT]
    return "\n".join(
        [
            "## Two workers and one",
            "",
            "The same global batches, float32, one epoch with calibrated K (at most 15) on the built-in backdoored models: two "
            "workers of each backend beside one plain worker. Relative differences (norm of the difference over the norm) of δ, "
            f"of all trained weights together, and of the one weight that differs most; the limit is {LIMIT:.0e}. AdamW's first "
            "steps go by a gradient's sign: where a gradient is all but nothing, its rounding shows in that weight.",
            "",
            "| embeddings | trained | backend | δ | weights | the one that differs most |",
            "|---|---|---|---|---|---|",
            *(
                f"| {case['embeddings']} | {kinds[case['adapter']]} | {case['backend']} | {case['delta']:.1e} "
                f"| {case['together']:.1e} | {case['weights']:.1e} |"
                for case in result["cases"]
            ),
            "",
            f"{len(above)} of {len(result['cases'])} cases are above the limit in δ or in all trained weights together. In "
            "float64 such differences are at most 1e-9, for a random model with and without a LoRA under FSDP "
            "(tests/distributed/test_fsdp.py).",
            "",
        ]
    )
