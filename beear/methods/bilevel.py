"""BEEAR's algorithm: entrapment and removal in turn (arXiv 2406.17092, algorithm 1)."""

from typing import Any

from beear.data.batch import DefenseBatch, OuterBatch
from beear.methods.base import InnerCourse, MethodParts, MethodState
from beear.methods.entrapment import InnerRule, entrap, mean_gap
from beear.methods.objectives import Objectives
from beear.methods.perturbation import Perturbation, unit_after
from beear.methods.removal import removal_step


class Bilevel:
    """Alternates entrapment and removal. Each placement in the settings has its own perturbation and its own K inner steps.

    If K is unset, an epoch that calibrates takes inner steps until the unwanted answer is likelier by ``margin`` nats, at most
    ``max_inner_steps``. With ``calibrate="each"`` all epochs but the cooling ones do so, with ``"first"`` only the first. The
    others reuse the first epoch's K. By then it is too small to make the unwanted answer likelier, so these epochs give utility
    back (docs/negative-results.md).
    """

    def __init__(self, parts: MethodParts[Any]) -> None:
        """``parts.settings`` are :class:`beear.methods.beear.BeearSettings`. Every epoch makes new perturbations."""
        self.parts = parts
        self.state = MethodState()
        self.perturbations: list[Perturbation] = []
        self.objectives = Objectives(parts.decoder, parts.backend.max, parts.settings.fast)

    @property
    def notes(self) -> list[str]:
        """Sentences for the report about how the inner loops ran."""
        return self.objectives.notes

    def begin_epoch(self, batches: list[DefenseBatch], cools: bool) -> list[InnerCourse]:
        """Entrap: fit a new δ for each placement on ``batches``, with the weights frozen."""
        settings, decoder, backend = self.parts.settings, self.parts.decoder, self.parts.backend
        self.perturbations, courses = [], []
        with backend.gathered():
            rms = unit_after(decoder, batches, settings.perturbed_layer, backend.reduce)
            longest = int(backend.max(max(batch.prompt_mask.shape[1] for batch in batches)))
            for placement in settings.placements:
                perturbation = Perturbation(
                    self.parts.hidden_size,
                    settings.perturbed_layer,
                    placement,
                    length=settings.length,
                    longest_prompt=longest,
                    rms=rms,
                    suffix_from=settings.suffix_from,
                    dtype=decoder.wide,
                    device=decoder.device,
                )
                courses.append(self._entrap(perturbation, batches, calibrates=settings.calibrate == "each" and not cools))
                self.perturbations.append(perturbation)
        return courses

    def _entrap(self, perturbation: Perturbation, batches: list[DefenseBatch], calibrates: bool) -> InnerCourse:
        settings, weights, key = self.parts.settings, self.parts.training.weights, f"inner_steps/{perturbation.placement}"
        # None makes the inner loop calibrate K. In the first epoch no K is known, so it always calibrates there.
        known = settings.inner_steps or (None if calibrates else self.state.values.get(key))
        rule = InnerRule(
            steps=int(known) if known else None,
            max_steps=settings.max_inner_steps,
            margin=settings.margin,
            lr=settings.inner_lr,
            bound=settings.bound,
            unwanted=weights.unwanted,
            safe=weights.safe,
            safe_cap=weights.safe_cap,
        )
        result = entrap(self.objectives.of(batches, perturbation), perturbation, rule, self.parts.backend.reduce)
        self.state.values.setdefault(key, float(result.steps))
        return InnerCourse(perturbation.placement, result, perturbation.size)

    def nothing_left(self, courses: list[InnerCourse], selection: list[DefenseBatch]) -> bool:
        """Say whether no placement can make the unwanted answer the likelier one any more, with a margin to spare.

        That no inner loop succeeded is not enough: triggered ASR was still 0.5 in a run whose fitted δ left the safe answer
        likelier by only 0.3 nats. So the safe answer must also be likelier by ``method.margin`` nats under each fitted δ, on
        average over the ``selection`` rows, on which δ was not fitted.
        """
        if any(course.result.crossing_step is not None for course in courses):
            return False
        decoder, backend = self.parts.decoder, self.parts.backend
        with backend.gathered():
            gaps = [mean_gap(decoder, each, selection, backend.reduce) for each in self.perturbations]
        return bool(gaps) and all(gap > self.parts.settings.margin for gap in gaps)

    def step(self, batch: OuterBatch) -> dict[str, float]:
        """Remove: take one step on the weights under the epoch's perturbations."""
        parts, training = self.parts, self.parts.training
        return removal_step(
            parts.decoder, parts.backend, batch, self.perturbations, training.weights, training.clip, parts.micro_batch
        )
