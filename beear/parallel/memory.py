"""How much memory a worker's device needs: arithmetic on a model's shape, the work and the way weights are spread.

Figures are bytes of tensors at the peak; :mod:`beear.parallel.devices` adds what allocators and drivers hold.
A run alternates entrapment, removal passes and optimizer steps; the largest of them decides.

Legend: N weights, T trained ones, W workers, L layers, l the perturbed one, B rows, D hidden, V vocabulary.
"""

from dataclasses import dataclass, replace

from beear.config.shape import ActivationBytes, ModelShape
from beear.parallel.spread import Spread

MASTER = 4  # float32 master weights, gradients and each of AdamW's two moments
MOMENTS = 2 * MASTER
# Bytes of gradients that data parallel workers add at once, and elements that DeepSpeed's do.
BUCKET = 64 * 2**20
ZERO_BUCKET = 10**8
# Elements that DeepSpeed's stage 3 keeps gathered for reuse, and that it prefetches into a buffer.
ZERO_LIVE, ZERO_AHEAD = 10**9, 5 * 10**7
# At its first use the fast inner loop is compared with the plain one, on at most this many rows: the longest ones.
CHECKED_ROWS = 4


@dataclass(frozen=True)
class Work:
    """What one worker computes; lengths in tokens are those of the longest rows.

    ``rows``: its share of a batch. ``untouched``: prompt columns before the first perturbed one (suffix alone leaves any).
    ``layer``: the perturbed one, None without an inner loop; its gradients flow through the layers after it. ``half``: bfloat16
    products, else float32. ``fast``: the fast inner loop; a model that it does not support needs what the plain one needs.
    ``passes``: activations that a removal step keeps, as a multiple of what one ordinary pass keeps.
    """

    rows: int
    prompt: int
    safe: int
    unwanted: int
    text: int
    labelled: int
    layer: int | None
    untouched: int = 0
    inner_batches: int = 2
    half: bool = False
    fast: bool = True
    passes: float = 1.0

    @property
    def packed(self) -> int:
        """Columns of the sequence ``[prompt | y_h | y_s]``."""
        return self.prompt + self.unwanted + self.safe


@dataclass(frozen=True)
class Use:
    """Bytes on one device at the peak of one phase. ``gathered``: copies of weights in the dtype of compute."""

    phase: str
    parameters: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float
    buffers: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.parameters + self.gradients + self.optimizer + self.gathered + self.activations + self.buffers


@dataclass(frozen=True)
class MemoryPlan:
    """The phases. ``first`` is a run's first entrapment: AdamW has no moments yet, and the inner loop is checked."""

    first: Use
    entrapment: Use
    removal: Use
    step: Use

    @property
    def peak(self) -> Use:
        """The phase that needs most."""
        return max((self.first, self.entrapment, self.removal, self.step), key=lambda use: use.total)


def plan_memory(shape: ModelShape, work: Work, spread: Spread) -> MemoryPlan:
    """Return what one device holds in each phase."""
    lasting = _lasting(shape, work, spread)
    # ZeRO-3 allocates its gradients and a bucket when it starts.
    zero3 = spread.stage == 3
    inner = replace(
        lasting,
        phase="entrapment",
        gradients=lasting.gradients if zero3 else 0.0,
        gathered=_gathered(shape, work, spread, inner=True),
        activations=0.0 if work.layer is None else work.rows * (_fast if work.fast else _plain)(shape, work, spread),
        buffers=_zero_bucket(shape) if zero3 else 0.0,
    )
    return MemoryPlan(
        replace(
            inner,
            phase="the first entrapment",
            optimizer=0.0,
            # At its first use the fast loop is compared with the plain one.
            activations=0.0
            if work.layer is None
            else max(inner.activations, min(work.rows, CHECKED_ROWS) * _plain(shape, work, spread)),
        ),
        inner,
        replace(
            lasting,
            phase="removal",
            gathered=_gathered(shape, work, spread, inner=False),
            activations=removal_activations(shape, work, spread),
            buffers=_backward_buffers(shape, spread),
        ),
        replace(
            lasting,
            phase="the optimizer step",
            gathered=(2 if work.half else MASTER) * shape.small if zero3 else 0.0,
            buffers=_step_buffers(shape, spread),
        ),
    )


def _lasting(shape: ModelShape, work: Work, spread: Spread) -> Use:
    """Return what is always held: weights, gradients and moments. Trained weights are float32 in any dtype of compute."""
    weights, gradients, moments = (spread.workers if on else 1 for on in spread.shares)
    parameters = MASTER * shape.parameters / weights
    if spread.backend in ("single", "ddp") and work.half:
        # Matrices are bfloat16, with a float32 master if trained. Norms, and a table that is only looked up, are float32.
        alone = shape.outside - shape.head if shape.frozen else 0
        parameters = 2 * (sum(shape.layer_parameters) + shape.head) + MASTER * (shape.trained + alone)
    if spread.backend == "fsdp" and work.half:
        # Frozen weights are held in bfloat16.
        parameters = (2 * (shape.parameters - shape.trained) + MASTER * shape.trained) / weights
    if spread.backend == "deepspeed":
        # DeepSpeed holds a copy of the weights in the dtype of compute, beside the masters that the optimizer updates.
        parameters = (2 if work.half else MASTER) * shape.parameters / weights + MASTER * shape.trained / moments
    # Offloading moves them to the host. Without an accelerator that is the same memory.
    away = spread.offload and spread.gpu
    if away and 0 < spread.stage < 3:
        # Stages 1 and 2 offload the optimizer and the masters alone. Weights and summed gradients stay, and the largest
        # weight has a buffer for its transfer.
        computed = (2 if work.half else MASTER) * (shape.parameters + shape.largest)
        return Use("", computed, MASTER * shape.trained / gradients, 0.0, 0.0, 0.0, 0.0)
    return Use(
        "",
        parameters=0.0 if away else parameters,
        gradients=0.0 if away else MASTER * shape.trained / gradients,
        optimizer=0.0 if away else MOMENTS * shape.trained / moments,
        gathered=0.0,
        activations=0.0,
        buffers=0.0,
    )


def _gathered(shape: ModelShape, work: Work, spread: Spread, inner: bool) -> float:
    """Return the gathered copies of weights that a pass holds. Backends that do not spread weights gather none.

    FSDP holds all layers if they are gathered once; else what is outside the layers, the layer in use and the next one,
    which it prefetches. ZeRO-3 holds what it has gathered, up to a limit, and a buffer of what it prefetches. It never
    releases small weights.
    """
    size = 2 if work.half else MASTER
    if not spread.shares[0]:
        return 0.0
    if inner and spread.gather == "once":
        return size * shape.parameters
    if spread.stage:
        ahead = min(shape.parameters, ZERO_AHEAD)
        return size * (max(shape.small, min(shape.parameters, ZERO_LIVE + shape.largest_layer)) + ahead)
    return size * (shape.outside + 2 * shape.largest_layer)


def removal_activations(shape: ModelShape, work: Work, spread: Spread) -> float:
    """Return what a removal pass keeps for its backward pass, logits and their gradients included."""
    rows = min(work.rows, spread.micro_batch or work.rows)
    kept = shape.activations.bfloat16 if work.half else shape.activations.float32
    passes = ((work.prompt + work.safe, work.safe + 1), (work.text, work.labelled))
    ordinary = max(rows * _pass(shape, kept, shape.layers, t, _logits(shape, columns), spread) for t, columns in passes)
    return work.passes * ordinary


def _pass(shape: ModelShape, kept: ActivationBytes, layers: int, tokens: int, loss: float, spread: Spread) -> float:
    """Return one row's bytes over ``layers`` and, at the end, ``loss``.

    With checkpointing every layer keeps its input (float32). Only the layer that goes backward keeps the rest, and by then
    the loss has released its part.
    """
    if spread.checkpoint_activations:
        return layers * MASTER * shape.hidden_size * tokens + max(kept.bytes(tokens), loss)
    return layers * kept.bytes(tokens) + loss


def _logits(shape: ModelShape, columns: int) -> float:
    """Return one row's bytes at the loss: its log-softmax, and the gradients of that and of the logits, in float32."""
    return 3 * MASTER * columns * shape.vocabulary


def _plain(shape: ModelShape, work: Work, spread: Spread) -> float:
    """Return one row's bytes of two whole passes, of which layers l+1..L and the losses are kept for δ's gradient."""
    kept = shape.activations.frozen_bfloat16 if work.half else shape.activations.frozen_float32
    upper, answers = shape.layers - (work.layer or 0), (work.unwanted, work.safe)
    # Both log-softmaxes are held while one of them goes backward.
    loss = _logits(shape, max(answers)) + MASTER * min(answers) * shape.vocabulary
    first = _pass(shape, kept, upper, work.prompt + min(answers), 0.0, spread)
    return first + _pass(shape, kept, upper, work.prompt + max(answers), loss, spread)


def _fast(shape: ModelShape, work: Work, spread: Spread) -> float:
    """Return one row's bytes of every batch's cached parts, and of one pass through layers l+1..L for δ's gradient."""
    kept, size = (shape.activations.frozen_bfloat16, 2) if work.half else (shape.activations.frozen_float32, MASTER)
    upper, columns, head = shape.layers - (work.layer or 0), work.packed - work.untouched, work.untouched
    cache = upper * 2 * shape.kv_heads * shape.head_dim * head * size
    masks = (work.packed * work.packed + columns * work.packed) * (1 if work.half else MASTER)
    cached = work.inner_batches * (MASTER * shape.hidden_size * work.packed + cache + masks)
    # Keys and values of the cached columns are joined to each layer's own, for every query head.
    joined = upper * 2 * shape.heads * shape.head_dim * head * size
    loss = _logits(shape, work.unwanted + work.safe)
    return cached + joined + _pass(shape, ActivationBytes(kept.token, 0.0), upper, columns, loss, spread)


def _backward_buffers(shape: ModelShape, spread: Spread) -> float:
    """Return the gradient buffers of a backward pass.

    A weight's new gradient is held beside the sum so far. FSDP holds the new gradients of two whole layers; ZeRO fills a bucket.
    """
    if spread.stage:
        return _zero_bucket(shape)
    if spread.backend == "fsdp":
        return MASTER * 2 * shape.largest_layer if shape.trained == shape.parameters else 0.0
    return MASTER * shape.largest


def _zero_bucket(shape: ModelShape) -> float:
    return MASTER * min(ZERO_BUCKET, shape.trained)


def _step_buffers(shape: ModelShape, spread: Spread) -> float:
    """Return the buffers of an optimizer step: gradients that are summed up, then AdamW's temporaries (a GPU's kernel has none).

    ZeRO steps on one flat tensor, for which it makes a flat gradient, and AdamW two temporaries of that size.
    """
    temporaries = 0 if spread.gpu else 2
    if spread.stage:
        away = spread.offload and spread.gpu
        flat = 0.0 if away else MASTER * shape.trained / spread.workers
        return _zero_bucket(shape) + (0.0 if spread.zero_stage == 1 else flat * (1 + temporaries))
    bucket = min(MASTER * shape.trained, max(BUCKET, MASTER * shape.largest)) if spread.backend == "ddp" else 0.0
    return max(bucket, temporaries * MASTER * shape.largest / (spread.workers if spread.backend == "fsdp" else 1))
