"""Entrapment resistance as a measure: shown and not gated on. The attacks are :mod:`beear.evaluation.resistance`'s."""

from collections.abc import Sequence

from beear.config.schema import EvaluateConfig
from beear.evaluation.measures.base import Measure
from beear.evaluation.shard import Shard
from beear.records.display import BLUE, VERMILLION, Cell, Figure, Row, Series, number
from beear.records.report import Measurement, Report, ResistanceCurve

# A fresh attack by layer, placement and seed.
Key = tuple[int, str, int]


class Resistance(Measure[list[ResistanceCurve]]):
    """A curve for each fresh attack. Shards share attacks, not rows: one attack is fitted in one place."""

    name = "resistance"
    unit = "nats"
    better = "higher"
    each_epoch = False

    def wanted(self, settings: EvaluateConfig) -> bool:
        """Say whether it is switched on."""
        return settings.resistance.enabled

    def not_tested(self, settings: EvaluateConfig) -> list[str]:
        """Return that it is off, or which fresh attacks were not tried."""
        if not settings.resistance.enabled:
            return ["entrapment resistance: switched off"]
        return [f"fresh attacks at placements other than {settings.resistance.placements}, to which they are blind"]

    def pieces(self, settings: EvaluateConfig, layers: int) -> int:
        """Return the number of attacks."""
        from beear.evaluation.resistance import attacks

        return len(attacks(settings.resistance, layers))

    def observe(self, shard: Shard) -> list[ResistanceCurve]:
        """Make this shard's attacks."""
        from beear.evaluation.resistance import measure_resistance

        place = (shard.rank, shard.world)
        return measure_resistance(shard.subject, shard.unlimited, shard.settings, shard.seed, place)

    def merge(self, parts: Sequence[list[ResistanceCurve]]) -> list[ResistanceCurve]:
        """Return all curves, sorted by placement, layer and seed."""
        return sorted((curve for part in parts for curve in part), key=lambda c: (c.placement, c.layer, c.seed))

    def result(self, whole: list[ResistanceCurve], confidence: float) -> dict[str, object]:
        """Return the curves."""
        return {"resistance": whole}

    def untriggered(self, before: Measurement | None, after: Measurement) -> str:
        """Return what is known of a model whose trigger is not."""
        if not after.resistance:
            return " Entrapment resistance was not measured."
        now = f" The easiest fresh attack {_crossing(after)}"
        return now + (f"; before, it {_crossing(before)}." if before and before.resistance else ".")

    def rows(self, report: Report) -> list[Row]:
        """Return a line per attack: the step at which it crosses."""
        before, after = _by_key(report.before), _by_key(report.after)
        return [
            Row(
                "Entrapment resistance: step at which a fresh attack crosses",
                _named(key),
                _cell(before.get(key)),
                _cell(after.get(key)),
            )
            for key in dict.fromkeys([*before, *after])
        ]

    def figures(self, report: Report) -> list[Figure]:
        """Return a chart per attack: the gap by inner step."""
        before, after = _by_key(report.before), _by_key(report.after)
        made = []
        for key in dict.fromkeys([*before, *after]):
            series = [_gap("before", before.get(key), VERMILLION), _gap("after", after.get(key), BLUE, dashed=True)]
            if not report.after:
                series = [_gap("measured", before.get(key), BLUE)]
            made.append(
                Figure(
                    f"Entrapment resistance, {_named(key)}",
                    "inner step",
                    "CE(unwanted) − CE(safe), nats",
                    [one for one in series if one],
                    "A fresh attack with a fixed budget; below 0 the unwanted answer is the likelier one.",
                    [(0.0, "crossing")],
                )
            )
        return made

    def metrics(self, found: Measurement) -> dict[str, float]:
        """Return each attack's gap at its end."""
        return {f"resistance_gap/{c.placement}/layer{c.layer}/seed{c.seed}": c.final_gap for c in found.resistance}


RESISTANCE = Resistance()


def _by_key(found: Measurement | None) -> dict[Key, ResistanceCurve]:
    return {(c.layer, c.placement, c.seed): c for c in found.resistance} if found else {}


def _named(key: Key) -> str:
    layer, placement, seed = key
    return f"{placement}, layer {layer}" + (f", seed {seed}" if seed else "")


def _cell(curve: ResistanceCurve | None) -> Cell | None:
    if curve is None:
        return None
    budget = curve.steps[-1] if curve.steps else 0
    crossed = f"step {curve.crossing_step}" if curve.crossing_step is not None else f"none in {budget}"
    return Cell(crossed, f"gap {number(curve.final_gap)}")


def _gap(name: str, curve: ResistanceCurve | None, colour: int, dashed: bool = False) -> Series | None:
    return Series(name, curve.steps, curve.gap, colour, dashed) if curve else None


def _crossing(found: Measurement) -> str:
    steps = [c.crossing_step for c in found.resistance if c.crossing_step is not None]
    budget = max(c.steps[-1] for c in found.resistance)
    return f"crossed at inner step {min(steps)} of {budget}" if steps else f"did not cross in {budget} inner steps"
