"""What benchmarks/gpu.py runs: Llama shapes, rows that are all of one length, the operations and memory that they need.

Legend: B rows, P prompt tokens, R answer tokens, T = P + R, L layers, D hidden, F feed-forward, V vocabulary, K inner steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks import entrapment, synthetic


@dataclass(frozen=True)
class Llama:
    """A Llama's sizes, every head with keys and values of its own, embeddings and head untied."""

    layers: int
    hidden: int
    inner: int
    heads: int
    vocabulary: int

    @property
    def layer(self) -> int:
        """Return l, the layer whose output is perturbed: 0.28 L (9 of 32)."""
        return max(1, round(0.28 * self.layers))

    @property
    def products(self) -> int:
        """Return the weights of the layers' matrices."""
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.inner)

    @property
    def parameters(self) -> int:
        """Return all weights: matrices, two norms a layer and the last one, embeddings and head."""
        return self.products + (2 * self.layers + 1) * self.hidden + 2 * self.hidden * self.vocabulary

    def config(self) -> Any:
        """Return the library's configuration."""
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=4096,
            tie_word_embeddings=False,
        )


# 7b is Llama-2-7B's shape, 1b that of a Llama pruned to 1.3 billion weights.
SHAPES = {
    "tiny": Llama(4, 64, 172, 4, 512),
    "small": Llama(12, 768, 2048, 12, 32000),
    "1b": Llama(24, 2048, 5504, 16, 32000),
    "7b": Llama(32, 4096, 11008, 32, 32000),
}


@dataclass(frozen=True)
class Work:
    """``defense`` and ``anchor`` rows, all seen in each of ``epochs``; ``steps`` K over ``inner_batches`` fixed batches."""

    defense: int = 400
    anchor: int = 300
    prompt: int = 128
    answer: int = 64
    epochs: int = 5
    steps: int = 30
    inner_batches: int = 2
    rows: int = 32
    length: int = 5

    @property
    def anchor_rows(self) -> int:
        """Return the anchor rows of a removal step, such that both sets end together."""
        return -(-self.rows * self.anchor // self.defense)

    @property
    def removal_steps(self) -> int:
        """Return the removal steps of an epoch; the last holds what is left."""
        return -(-self.defense // self.rows)


FULL = Work()
TINY = Work(defense=20, anchor=15, prompt=16, answer=8, epochs=2, steps=4, rows=8)


@dataclass(frozen=True)
class Weights:
    """The loss terms' weights, as ``method.weights`` has them."""

    unwanted: float = 1.0
    safe: float = 1.0
    safe_cap: float | None = None
    removal: float = 1.0
    anchor: float = 1.0


@dataclass
class Recipe:
    """What BEEAR reads of ``method.*``: its own settings and the training's, where pydantic is not installed."""

    perturbed_layer: int
    inner_steps: int
    length: int
    placements: tuple[str, ...] = ("suffix",)
    suffix_from: str = "prompt"
    calibrate: str = "each"
    max_inner_steps: int = 25
    margin: float = 1.0
    fast: bool = True
    inner_lr: float = 0.1
    bound: float | None = None
    clip: float = 1.0
    weights: Weights = field(default_factory=Weights)


class Rows:
    """Random tokens on the device; no row is padded, and answers differ in every token."""

    def __init__(self, model: Llama, work: Work, device: Any) -> None:
        """Draw the rows."""
        import torch

        self.work, self.device = work, device
        draw = torch.Generator(device).manual_seed(0)

        def tokens(rows: int, count: int) -> torch.Tensor:
            return torch.randint(1, model.vocabulary, (rows, count), generator=draw, device=device)

        self.prompts = tokens(work.defense, work.prompt)
        self.safe, self.unwanted = tokens(work.defense, work.answer), tokens(work.defense, work.answer)
        self.texts = tokens(work.anchor, work.prompt + work.answer)

    def epoch(self, number: int) -> tuple[list[Any], Iterator[Any]]:
        """Return the inner loop's defense batches of epoch ``number`` and the removal steps' batches of all rows."""
        import torch

        work, draw = self.work, torch.Generator().manual_seed(number)
        defense, anchor = (torch.randperm(n, generator=draw).to(self.device) for n in (work.defense, work.anchor))
        groups = defense.split(work.rows)
        return [self._defense(group) for group in groups[: work.inner_batches]], self._outer(groups, anchor)

    def _outer(self, groups: Any, anchor: Any) -> Iterator[Any]:
        from beear.data.batch import OuterBatch

        for group, texts in zip(groups, anchor.split(self.work.anchor_rows), strict=True):
            yield OuterBatch(self._defense(group), self._text(texts))

    def _defense(self, rows: Any) -> Any:
        return synthetic.defense_batch(self.prompts[rows], self.safe[rows], self.unwanted[rows], len(rows))

    def _text(self, rows: Any) -> Any:
        return synthetic.text_batch(self.texts[rows], self.work.prompt, len(rows))


def tokens_of(work: Work) -> dict[str, int]:
    """Return the tokens of the whole run: an inner step's rows count a prompt and both answers, a removal step's T."""
    inner = work.epochs * work.steps * work.rows * (work.prompt + 2 * work.answer)
    return {"entrapment": inner, "removal": work.epochs * (work.defense + work.anchor) * (work.prompt + work.answer)}


def flops_of(model: Llama, work: Work) -> dict[str, float]:
    """Return the floating-point operations of the whole run; what is computed again for lack of memory does not count.

    ``removal``: 6 N per token for N weights, and 12 L D T for attention (arXiv 2204.02311, appendix B), as utilisation is
    usually stated. ``removal_products``: the same for the products that are made alone: embeddings are looked up, and only
    positions that predict an answer's token reach the head. ``entrapment``: the fast path's, two for each multiply-add.
    """
    tokens = tokens_of(work)["removal"]
    rows = work.epochs * (work.defense + work.anchor)
    attention = 12 * model.layers * model.hidden * (work.prompt + work.answer)
    head = model.hidden * model.vocabulary
    case = entrapment.Case(work.prompt, work.answer)
    # A batch's caches serve the steps that use this batch.
    spread = work.steps // work.inner_batches
    shape = entrapment.Shape(model.layers, model.hidden, model.inner, model.layer, work.length, work.rows, steps=spread)
    step = 2 * entrapment.operations(shape, case, model.vocabulary)["fast"]
    return {
        "entrapment": step * work.rows * work.steps * work.epochs,
        "removal": float(tokens * (6 * model.parameters + attention)),
        "removal_products": float(tokens * (6 * model.products + attention) + 6 * head * work.answer * rows),
    }


def plan() -> list[dict[str, Any]]:
    """Return the memory plan for 7b in bytes by phase, as the pipelines make it (with libraries that a run does not need)."""
    from beear.models.shape import shape_of, weightless
    from beear.parallel import memory
    from beear.parallel.spread import Spread

    llama, work = SHAPES["7b"], FULL
    shape, whole = shape_of(weightless(llama.config())), work.prompt + work.answer
    lengths = (work.prompt, work.answer, work.answer, whole, work.answer)
    planned = memory.Work(work.rows, *lengths, llama.layer, work.prompt - work.length, work.inner_batches, half=True)
    found = []
    for rows, checkpoint in ((8, False), (16, False), (24, False), (32, True)):
        spread = Spread("single", micro_batch=rows, checkpoint_activations=checkpoint, gpu=True)
        uses = memory.plan_memory(shape, planned, spread)
        peaks = {"entrapment": uses.entrapment.total, "removal": uses.removal.total}
        found.append({"micro_batch": rows, "checkpoint": checkpoint, **peaks})
    return found
