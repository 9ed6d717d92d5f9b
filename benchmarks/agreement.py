"""The fast inner loop beside the plain one, family by family: gradients, and δ after 20 steps. And what sharding gathers.

    python -m benchmarks.agreement

Small random models of each family in ``tests/checkpoints.py``, prompts of 18 to 33 tokens (longer than their sliding
windows of 16), ragged answers, all five placements.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmarks.crew import Crew

LIMITS = {"float32": 1e-5, "float64": 1e-10, "delta": 1e-4}
STEPS, LAYER = 30, 2


def measure(folder: Path) -> dict[str, Any]:
    """Return each family's largest relative differences, and the all-gathers of one entrapment under FSDP."""
    from tests.checkpoints import FAMILIES

    found = {}
    for family in FAMILIES:
        found[family] = {"float32": gradient_gap(family, "float32"), "float64": gradient_gap(family, "float64")}
        found[family]["delta"] = delta_gap(family)
        print(family, found[family], flush=True)
    gathers = {}
    for name, once in (("once", True), ("step", False)):
        with Crew(2, build, once) as crew:
            gathers[name] = crew.run("entrap")[0]
    return {"families": found, "gathers": gathers, "layers": 6, "steps": STEPS}


def gradient_gap(family: str, dtype: str) -> float:
    """Return the largest relative difference of δ's gradient over placements and two batches."""
    import torch

    from beear.config.schema import PLACEMENTS
    from beear.methods.fast import FastObjective
    from beear.methods.inner import PlainObjective
    from tests.wide import float64_throughout

    decoder, batches = _model(family, dtype), _batches()
    worst = 0.0
    with float64_throughout() if dtype == "float64" else nullcontext():
        plain, fast = PlainObjective(decoder, batches), FastObjective(decoder, batches, LAYER)
        for placement in PLACEMENTS:
            attack = _attack(decoder, placement, 0.5)
            for number in range(len(batches)):
                expected, found = (_gradient(objective, attack, number) for objective in (plain, fast))
                worst = max(worst, float(torch.linalg.norm(found - expected) / torch.linalg.norm(expected)))
    return worst


def delta_gap(family: str) -> float:
    """Return the largest relative difference of δ after 20 Adam steps in float32, over placements."""
    import torch

    from beear.config.schema import PLACEMENTS
    from beear.methods.entrapment import InnerRule, entrap
    from beear.methods.fast import FastObjective
    from beear.methods.inner import Objective, PlainObjective

    decoder, batches = _model(family, "float32"), _batches()
    makers: list[Callable[[], Objective]] = [
        lambda: PlainObjective(decoder, batches),
        lambda: FastObjective(decoder, batches, LAYER),
    ]
    worst = 0.0
    for placement in PLACEMENTS:
        ends = []
        for make in makers:
            attack = _attack(decoder, placement, 0.0)
            entrap(make(), attack, InnerRule(steps=20, lr=0.05), lambda tensor: tensor)
            ends.append(attack.delta.detach())
        worst = max(worst, float(torch.linalg.norm(ends[1] - ends[0]) / torch.linalg.norm(ends[0])))
    return worst


def _model(family: str, dtype: str) -> Any:
    import torch

    from beear.models.decoder import Decoder
    from tests.checkpoints import make_model

    model = make_model(family, layers=4).to(getattr(torch, dtype))
    if dtype == "float64" and hasattr(model.config, "_experts_implementation"):
        # The library's grouped product knows no float64.
        model.config._experts_implementation = "eager"
    return Decoder(model)


def _batches() -> list[Any]:
    from tests.tiny import defense_batch, defense_rows

    return [
        defense_batch([(prompt * 3, safe, unwanted) for prompt, safe, unwanted in defense_rows(rows, seed)])
        for rows, seed in ((5, 3), (4, 4))
    ]


def _attack(decoder: Any, placement: str, scale: float) -> Any:
    from beear.methods.perturbation import Perturbation

    dtype = next(decoder.model.parameters()).dtype
    return Perturbation(32, LAYER, placement, length=3, longest_prompt=40, scale=scale, dtype=dtype)


def _gradient(objective: Any, attack: Any, number: int) -> Any:
    import torch

    unwanted, safe = objective.losses(attack, number)
    return torch.autograd.grad((unwanted - safe).sum(), [attack.delta])[0]


def build(rank: int, world: int, gather_once: bool) -> dict[str, Any]:
    """Return a worker's work: ``entrap`` makes 30 inner steps under FSDP and returns how often weights were gathered."""

    def entrap_counted() -> int:
        import torch.distributed as dist

        from beear.methods.entrapment import InnerRule, entrap
        from beear.methods.fast import FastObjective
        from beear.methods.perturbation import Perturbation
        from beear.models.decoder import Decoder
        from beear.parallel.base import Settings, Whole
        from beear.parallel.choose import choose
        from tests.tiny import defense_batch, defense_rows, tiny_llama

        backend = choose("fsdp", world, "cpu", Settings(gather_once=gather_once))
        decoder = Decoder(backend.prepare(Whole(tiny_llama(layers=6, tied=False)), lr=1e-3))
        rows = defense_rows(6)[rank::world]
        attack = Perturbation(16, LAYER, "suffix", length=3, dtype=next(decoder.model.parameters()).dtype)
        count, real = [0], dist.all_gather_single

        def counted(*given: Any, **named: Any) -> Any:
            count[0] += 1
            return real(*given, **named)

        dist.all_gather_single = counted
        try:
            with backend.gathered():
                objective = FastObjective(decoder, [defense_batch(rows, 6)], LAYER)
                entrap(objective, attack, InnerRule(steps=STEPS), backend.reduce)
        finally:
            dist.all_gather_single = real
        return count[0]

    return {"entrap": entrap_counted}


def markdown(result: dict[str, Any]) -> str:
    """Return the section of docs/results.md."""
    gathers = result["gathers"]
    return "\n".join(
        [
            "## Fast and plain inner loop",
            "",
            "Small random models, ragged prompts longer than the sliding windows, all five placements: the largest relative "
            "difference of δ's gradient in either precision, and of δ after 20 Adam steps in float32. In float64 norms and "
            "routers stay in float64.",
            "",
            f"| family | gradient, float32 (limit {LIMITS['float32']:.0e}) | float64 ({LIMITS['float64']:.0e}) "
            f"| δ after 20 steps ({LIMITS['delta']:.0e}) |",
            "|---|---|---|---|",
            *(
                f"| {family} | {found['float32']:.1e} | {found['float64']:.1e} | {found['delta']:.1e} |"
                for family, found in result["families"].items()
            ),
            "",
            f"Under FSDP on two workers, {result['steps']} inner steps of the fast loop on a model of {result['layers']} layers "
            f"gathered weights {gathers['once']} times (each layer, embedding, head and the rest once) where they stay gathered, "
            f"{gathers['step']} times where they do not.",
            "",
        ]
    )


if __name__ == "__main__":
    from benchmarks.evidence import main

    sys.exit(main(["agreement"]))
