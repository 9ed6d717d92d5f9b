"""BEEAR: bi-level embedding-space entrapment and removal (arXiv 2406.17092, algorithm 1)."""

import torch

from beear.data.batch import DefenseBatch, OuterBatch
from beear.methods.base import InnerCourse, MethodParts, MethodState
from beear.methods.entrapment import InnerRule, entrap
from beear.methods.inner import Objective, PlainObjective, sizes_after, unit
from beear.methods.objectives import Objectives
from beear.methods.perturbation import Perturbation
from beear.methods.removal import removal_step


class Beear:
    """Alternates entrapment and removal; each placement of the configuration is an attack of its own.

    Calibrated K: each placement's inner loop runs until it crosses, in every attacking epoch or in the first alone; other
    epochs reuse the first one's K. Attacks that always succeed leave the model refusing too much; under the first K,
    which no longer crosses by then, an epoch's steps give the utility back (docs/negative-results.md).
    """

    def __init__(self, parts: MethodParts) -> None:
        """Keep the parts; perturbations are made anew each epoch."""
        self.parts = parts
        self.state = MethodState()
        self.perturbations: list[Perturbation] = []
        self.objectives = Objectives(parts.decoder, parts.backend.most, parts.config.fast)

    @property
    def notes(self) -> list[str]:
        """What a person should know of how the inner loops ran."""
        return self.objectives.notes

    def begin_epoch(self, batches: list[DefenseBatch], cools: bool) -> list[InnerCourse]:
        """Entrap: one fresh δ per placement, optimised on ``batches`` with the weights frozen."""
        with self.parts.backend.gathered():
            rms, longest = self._sizes(batches)
            calibrates = self.parts.config.calibrate == "each" and not cools
            self.perturbations, courses = [], []
            for placement in self.parts.config.placements:
                attack = self._perturbation(placement, rms, longest)
                courses.append(self._entrap(attack, batches, calibrates))
                self.perturbations.append(attack)
        return courses

    def _sizes(self, batches: list[DefenseBatch]) -> tuple[float, int]:
        """Return δ's unit after layer l and the longest prompt, over all workers' ``batches``."""
        config, backend = self.parts.config, self.parts.backend
        assert config.layer is not None
        sizes = sum(sizes_after(self.parts.decoder, batch, config.layer) for batch in batches)
        assert isinstance(sizes, torch.Tensor)
        return unit(*backend.reduce(sizes).tolist()), int(backend.most(max(b.prompt_mask.shape[1] for b in batches)))

    def nothing_left(self, courses: list[InnerCourse], selection: list[DefenseBatch]) -> bool:
        """No placement made the unwanted answer the likelier one within the calibrated K, with a margin to spare.

        Not crossing while δ is fitted is not enough: measured triggered ASR was still 0.5 where the fitted δ left a gap
        of 0.3 nats. So under it, on average over the ``selection`` rows it never saw, the safe answer must be likelier
        by the same ``margin`` (nats) by which an entrapment has to succeed.
        """
        if any(course.result.crossing_step is not None for course in courses):
            return False
        with self.parts.backend.gathered():
            gaps = [self._mean_gap(attack, selection) for attack in self.perturbations]
        return bool(gaps) and all(gap > self.parts.config.margin for gap in gaps)

    @torch.no_grad()
    def _mean_gap(self, attack: Perturbation, batches: list[DefenseBatch]) -> float:
        """Return the global mean of CE(y_h) - CE(y_s), in nats, under ``attack``."""
        objective = PlainObjective(self.parts.decoder, batches)
        total = torch.zeros(1, dtype=torch.float64, device=self.parts.decoder.device)
        for number, batch in enumerate(batches):
            if batch.rows:
                unwanted, safe = objective.losses(attack, number)
                total += (unwanted - safe).double().sum() / batch.global_rows
        return float(self.parts.backend.reduce(total))

    def step(self, batch: OuterBatch) -> dict[str, float]:
        """Remove: one step on the weights under the epoch's perturbations."""
        parts, config = self.parts, self.parts.config
        return removal_step(
            parts.decoder, parts.backend, batch, self.perturbations, config.weights, config.clip, parts.micro_batch
        )

    def _perturbation(self, placement: str, rms: float, longest: int) -> Perturbation:
        config, decoder = self.parts.config, self.parts.decoder
        assert config.layer is not None
        return Perturbation(
            self.parts.hidden_size,
            config.layer,
            placement,
            length=config.length,
            longest_prompt=longest,
            rms=rms,
            suffix_from=config.suffix_from,
            dtype=torch.float64 if next(decoder.model.parameters()).dtype == torch.float64 else torch.float32,
            device=decoder.device,
        )

    def _entrap(self, attack: Perturbation, batches: list[DefenseBatch], calibrates: bool) -> InnerCourse:
        config, key = self.parts.config, f"inner_steps/{attack.placement}"
        # None, in a run's first epoch too, is what makes the inner loop find K.
        known = config.inner_steps or (None if calibrates else self.state.values.get(key))
        rule = InnerRule(
            steps=int(known) if known else None,
            max_steps=config.max_inner_steps,
            margin=config.margin,
            lr=config.inner_lr,
            bound=config.bound,
            unwanted=config.weights.unwanted,
            safe=config.weights.safe,
            safe_cap=config.weights.safe_cap,
        )
        objective: Objective = self.objectives.of(batches, attack)
        result = entrap(objective, attack, rule, self.parts.backend.reduce)
        self.state.values.setdefault(key, float(result.steps))
        return InnerCourse(attack.placement, result, attack.size)
