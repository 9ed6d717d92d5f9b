"""The fast inner loop beside the plain one, family by family: gradients, and δ after 20 steps. And what sharding gathers.

    make evidence PART=agreement

Small random models of each family in :mod:`beear.testing.checkpoints`, prompts of 18 to 33 tokens (longer than their sliding
windows of 16), ragged answers, all five placements.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.crew import Crew

LIMITS = {"float32": 1e-5, "float64": 1e-10, "delta": 1e-4}
STEPS, LAYERS = 30, 6


def measure(folder: Path) -> dict[str, Any]:
    """Return each family's largest relative differences, and the all-gathers of one entrapment under FSDP."""
    from beear.testing.checkpoints import FAMILIES

    found = {}
    for family in FAMILIES:
        found[family] = {"float32": gradient_gap(family, "float32"), "float64": gradient_gap(family, "float64")}
        found[family]["delta"] = delta_gap(family)
        print(family, found[family], flush=True)
    gathers = {}
    for name, once in (("once", True), ("step", False)):
        with Crew(2, build, once) as crew:
            gathers[name] = crew.run("entrap")[0]
    return {"families": found, "gathers": gathers, "layers": LAYERS, "steps": STEPS}


def gradient_gap(family: str, dtype: str) -> float:
    """Return the largest relative difference of δ's gradient over placements and two batches."""
    import torch

    from beear.config.schema import PLACEMENTS
    from beear.methods.entrapment import PlainObjective
    from beear.methods.fast import FastObjective
    from beear.testing.inner import LAYER, attack_on, float64_throughout, gap, model_of, ragged, value

    decoder, batches = model_of(family, getattr(torch, dtype)), [ragged(5, 3), ragged(4, 4)]
    with float64_throughout() if dtype == "float64" else nullcontext():
        plain, fast = PlainObjective(decoder, batches), FastObjective(decoder, batches, LAYER)
        attacks = [attack_on(decoder, placement) for placement in PLACEMENTS]
        pairs = [(value(fast, attack, n)[2], value(plain, attack, n)[2]) for attack in attacks for n in range(len(batches))]
    return max(gap(found, expected) for found, expected in pairs)


def delta_gap(family: str) -> float:
    """Return the largest relative difference of δ after 20 Adam steps in float32, over placements."""
    import torch

    from beear.config.schema import PLACEMENTS
    from beear.methods.entrapment import PlainObjective
    from beear.methods.fast import FastObjective
    from beear.testing.inner import LAYER, delta_after, gap, model_of, ragged

    decoder, batches = model_of(family, torch.float32), [ragged(5, 3), ragged(4, 4)]
    plain, fast = PlainObjective(decoder, batches), FastObjective(decoder, batches, LAYER)
    return max(gap(delta_after(fast, decoder, p, 20), delta_after(plain, decoder, p, 20)) for p in PLACEMENTS)


def build(rank: int, world: int, gather_once: bool) -> dict[str, Any]:
    """Return a worker's work: ``entrap`` makes 30 inner steps under FSDP and returns how often weights were gathered."""

    def entrap_counted() -> int:
        import torch.distributed as dist

        from beear.methods.entrapment import InnerRule, entrap
        from beear.methods.fast import FastObjective
        from beear.methods.perturbation import Perturbation
        from beear.models.decoder import Decoder
        from beear.parallel.base import Whole
        from beear.parallel.choose import choose
        from beear.parallel.spread import Spread
        from beear.testing.tiny import defense_batch, defense_rows, tiny_llama

        backend = choose(Spread("fsdp", world, gather="once" if gather_once else "step"), "cpu")
        decoder = Decoder(backend.prepare(Whole(tiny_llama(layers=LAYERS, tied=False)), lr=1e-3))
        rows = defense_rows(6)[rank::world]
        attack = Perturbation(16, 2, "suffix", length=3, dtype=next(decoder.model.parameters()).dtype)
        with patch.object(dist, "all_gather_single", wraps=dist.all_gather_single) as gathers, backend.gathered():
            objective = FastObjective(decoder, [defense_batch(rows, 6)], 2)
            entrap(objective, attack, InnerRule(steps=STEPS), backend.reduce)
        return gathers.call_count

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
