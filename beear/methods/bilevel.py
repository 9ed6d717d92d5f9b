"""BEEAR at work: entrapment and removal, epoch by epoch (arXiv 2406.17092, algorithm 1). Needs torch, and no pydantic."""

from typing import Any

from beear.data.batch import DefenseBatch, OuterBatch
from beear.methods.base import InnerCourse, MethodParts, MethodState
from beear.methods.entrapment import InnerRule, entrap
from beear.methods.inner import mean_gap, unit_after
from beear.methods.objectives import Objectives
from beear.methods.perturbation import Perturbation
from beear.methods.removal import removal_step


class Bilevel:
    """Alternates entrapment and removal; each placement of the settings is an attack of its own.

    Calibrated K: each placement's inner loop runs until it crosses, in every attacking epoch or in the first alone; other
    epochs reuse the first one's K. Attacks that always succeed leave the model refusing too much. The first K no longer crosses
    in later epochs, and the steps of such an epoch give the utility back (docs/negative-results.md).
    """

    def __init__(self, parts: MethodParts[Any]) -> None:
        """``parts.settings`` are :class:`beear.methods.beear.BeearSettings`; every epoch makes its perturbations anew."""
        self.parts = parts
        self.state = MethodState()
        self.perturbations: list[Perturbation] = []
        self.objectives = Objectives(parts.decoder, parts.backend.max, parts.settings.fast)

    @property
    def notes(self) -> list[str]:
        """What a reader should know of how the inner loops ran."""
        return self.objectives.notes

    def begin_epoch(self, batches: list[DefenseBatch], cools: bool) -> list[InnerCourse]:
        """Entrap: one fresh δ per placement, optimised on ``batches`` with the weights frozen."""
        settings, decoder, backend = self.parts.settings, self.parts.decoder, self.parts.backend
        self.perturbations, courses = [], []
        with backend.gathered():
            rms = unit_after(decoder, batches, settings.perturbed, backend.reduce)
            longest = int(backend.max(max(batch.prompt_mask.shape[1] for batch in batches)))
            for placement in settings.placements:
                attack = Perturbation(
                    self.parts.hidden_size,
                    settings.perturbed,
                    placement,
                    length=settings.length,
                    longest_prompt=longest,
                    rms=rms,
                    suffix_from=settings.suffix_from,
                    dtype=decoder.wide,
                    device=decoder.device,
                )
                courses.append(self._entrap(attack, batches, calibrates=settings.calibrate == "each" and not cools))
                self.perturbations.append(attack)
        return courses

    def _entrap(self, attack: Perturbation, batches: list[DefenseBatch], calibrates: bool) -> InnerCourse:

        settings, weights, key = self.parts.settings, self.parts.training.weights, f"inner_steps/{attack.placement}"
        # None lets the inner loop find K; in the first epoch no K is known yet.
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
        result = entrap(self.objectives.of(batches, attack), attack, rule, self.parts.backend.reduce)
        self.state.values.setdefault(key, float(result.steps))
        return InnerCourse(attack.placement, result, attack.size)

    def nothing_left(self, courses: list[InnerCourse], selection: list[DefenseBatch]) -> bool:
        """No placement made the unwanted answer the likelier one within the calibrated K, with a margin to spare.

        Not crossing while δ is fitted is not enough: measured triggered ASR was still 0.5 where the fitted δ left a gap
        of 0.3 nats. So under it, on average over the ``selection`` rows it never saw, the safe answer must be likelier
        by the same ``margin`` (nats) by which an entrapment has to succeed.
        """
        if any(course.result.crossing_step is not None for course in courses):
            return False
        decoder, backend = self.parts.decoder, self.parts.backend
        with backend.gathered():
            gaps = [mean_gap(decoder, attack, selection, backend.reduce) for attack in self.perturbations]
        return bool(gaps) and all(gap > self.parts.settings.margin for gap in gaps)

    def step(self, batch: OuterBatch) -> dict[str, float]:
        """Remove: one step on the weights under the epoch's perturbations."""
        parts, training = self.parts, self.parts.training
        return removal_step(
            parts.decoder, parts.backend, batch, self.perturbations, training.weights, training.clip, parts.micro_batch
        )
