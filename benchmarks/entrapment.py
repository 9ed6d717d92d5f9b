"""One inner step by the fast objective, the plain one with frozen weights, and the plain one with weight gradients.

``make evidence PART=entrapment`` writes the table and the JSON. What can be gained at most is counted beside it:
the ratio of the operations that each needs, with the fast one's caches spread over the inner steps.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import synthetic

PLACEMENTS = ("suffix", "prefix", "prompt", "broadcast", "everywhere")
VOCABULARY = 4096
# Fast steps timed in each pair: one plain step takes as long as several of them.
FAST_STEPS = 3


@dataclass(frozen=True)
class Shape:
    """Layers L, hidden D, feed-forward F, l, n, rows B, and the inner steps over which caches are spread."""

    layers: int = 16
    hidden: int = 512
    inner: int = 1376
    layer: int = 4
    length: int = 5
    rows: int = 8
    steps: int = 30
    pairs: int = 7


@dataclass(frozen=True)
class Case:
    """P prompt and R answer tokens, and where δ goes. ``trains``: time weight gradients too."""

    prompt: int
    answer: int
    placement: str = "suffix"
    trains: bool = True


CASES = (
    Case(64, 16),
    Case(128, 32),
    Case(256, 64),
    Case(512, 32),
    *(Case(128, 32, placement, trains=False) for placement in PLACEMENTS[1:]),
)


def measure(folder: Path, shape: Shape | None = None, cases: tuple[Case, ...] = CASES) -> dict[str, Any]:
    """Return each case's seconds per inner step, interleaved pair by pair, and the bounds."""
    shape, folder = shape or Shape(), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for case in cases:
        found.append(_time(shape, case))
        print(_line(found[-1]), flush=True)
    return {"shape": vars(shape), "vocabulary": VOCABULARY, "cases": found}


def operations(shape: Shape, case: Case, vocabulary: int = VOCABULARY) -> dict[str, float]:
    """Return the multiply-adds of one row's inner step: ``fast`` (caches spread), ``plain``, ``training``.

    A product is one pass forward; backward one pass for the activations' gradient and, where weights are trained, one
    more. Attention is two products forward and four backward over all pairs of positions, as dense kernels make them.
    """
    d, length = shape.hidden, case.prompt + case.answer
    weights = 4 * d * d + 3 * d * shape.inner
    above = shape.layers - shape.layer

    def layers(tokens: int, forward: int, backward: int) -> float:
        return tokens * weights * (forward + backward)

    def attention(queries: int, keys: int, forward: int, backward: int) -> float:
        return 2 * queries * keys * d * (forward + 2 * backward)

    head = 2 * case.answer * d * vocabulary
    first = case.prompt - shape.length if case.placement == "suffix" else 0
    packed = case.prompt + 2 * case.answer
    plain = layers(2 * length, shape.layers, above) + 2 * attention(length, length, shape.layers, above) + 2 * head
    # Weights below l are trained too, so their layers go backward as well.
    training = 3 * layers(2 * length, shape.layers, 0) + 2 * attention(length, length, shape.layers, shape.layers) + 3 * head
    step = layers(packed - first, above, above) + attention(packed - first, packed, above, above) + 2 * head
    caches = layers(packed, shape.layer, 0) + attention(packed, packed, shape.layer, 0)
    caches += layers(first, above, 0) + attention(first, first, above, 0)
    return {"fast": step + caches / shape.steps, "plain": plain, "training": training}


def _time(shape: Shape, case: Case) -> dict[str, Any]:
    import torch

    from beear.methods.entrapment import PlainObjective
    from beear.methods.fast import FastObjective

    decoder, batch, attack = _setting(shape, case)
    weights = list(decoder.model.parameters())

    def once(objective: Any, trained: list[Any]) -> None:
        unwanted, safe = objective.losses(attack, 0)
        torch.autograd.grad((unwanted - safe).mean(), [attack.delta, *trained])

    def fast() -> float:
        objective = FastObjective(decoder, [batch], shape.layer)
        # Losses without a gradient fill the caches and cost one step's forward pass, which is taken off again.
        with torch.no_grad():
            first = _seconds(lambda: objective.losses(attack, 0))
            second = _seconds(lambda: objective.losses(attack, 0))
        steps = _seconds(lambda: [once(objective, []) for _ in range(FAST_STEPS)]) / FAST_STEPS
        return steps + max(first - second, 0.0) / shape.steps

    def plain(trained: list[Any]) -> float:
        objective = PlainObjective(decoder, [batch])
        return _seconds(lambda: once(objective, trained))

    def frozen(run: Callable[[], float]) -> float:
        for weight in weights:
            weight.requires_grad_(False)
        try:
            return run()
        finally:
            for weight in weights:
                weight.requires_grad_(True)

    frozen(fast)
    times: dict[str, list[float]] = {"fast": [], "plain": [], "training": []}
    for _ in range(shape.pairs):
        times["fast"].append(frozen(fast))
        times["plain"].append(frozen(lambda: plain([])))
        if case.trains:
            times["training"].append(plain(weights))
    return {**vars(case), "seconds": times, "operations": operations(shape, case)}


def _seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _setting(shape: Shape, case: Case) -> tuple[Any, Any, Any]:
    """Return a random decoder, a batch without padding and a δ."""
    from beear.methods.perturbation import Perturbation
    from beear.models.decoder import Decoder

    decoder = Decoder(synthetic.llama(shape.layers, shape.hidden, shape.inner, VOCABULARY))
    lengths = (case.prompt, case.answer, case.answer)
    batch = synthetic.defense_batch(*(synthetic.tokens(shape.rows, length, VOCABULARY) for length in lengths), shape.rows)
    attack = Perturbation(shape.hidden, shape.layer, case.placement, length=shape.length, longest_prompt=case.prompt, scale=0.1)
    return decoder, batch, attack


def ratios(case: dict[str, Any], other: str) -> list[float]:
    """Return how many times longer ``other`` takes than the fast step, pair by pair, in order of size."""
    pairs = zip(case["seconds"][other], case["seconds"]["fast"], strict=False)
    return sorted(slow / fast for slow, fast in pairs)


def _line(case: dict[str, Any]) -> str:
    cells = [case["placement"], f"{case['prompt']}/{case['answer']}", f"{median(case['seconds']['fast']):.3f}"]
    for other in ("plain", "training"):
        found = ratios(case, other)
        if not found:
            cells += ["–"] * 3
            continue
        bound = case["operations"][other] / case["operations"]["fast"]
        cells += [f"{median(found):.2f} ({found[0]:.2f}–{found[-1]:.2f})", f"{bound:.2f}", f"{100 * median(found) / bound:.0f}%"]
    return "| " + " | ".join(cells) + " |"


def markdown(result: dict[str, Any]) -> str:
    """Return the section of docs/performance.md."""
    shape = result["shape"]
    return "\n".join(
        [
            "## Entrapment",
            "",
            f"One inner step on a random Llama of {shape['layers']} layers, D = {shape['hidden']}, batch {shape['rows']}, "
            f"l = {shape['layer']}, n = {shape['length']}, vocabulary {result['vocabulary']}, float32. How many times "
            f"longer the plain loop takes: medians of {shape['pairs']} interleaved pairs (least–most); the fast step includes "
            f"its share of the caches, made once for {shape['steps']} steps. The bound is the ratio of operations that each "
            "needs, caches, attention and head counted (`operations` in benchmarks/entrapment.py). Plain loop: weights frozen, "
            "or with their gradients computed too.",
            "",
            "| placement | P/R | fast, s | frozen ÷ fast | bound | reached | with gradients ÷ fast | bound | reached |",
            "|---|---|---|---|---|---|---|---|---|",
            *(_line(case) for case in result["cases"]),
            "",
        ]
    )
