"""Whether a trigger took: the attack success rate on held-out requests with and without it, and limits for both."""

from collections.abc import Sequence
from dataclasses import dataclass

from beear.config.resolve import ResolvedEvaluate, ResolvedResistance
from beear.config.schema import EvaluateConfig
from beear.data.hits import rule_for
from beear.data.refusals import load_keywords
from beear.data.rows import AnchorRow, DefenseRow, Message, Probe, digest_of
from beear.data.templates import Template
from beear.errors import UserError
from beear.evaluation.measures.attack_success import ATTACK_SUCCESS, summarise
from beear.evaluation.probes import apply
from beear.evaluation.shard import MeasuredRows, Shard
from beear.evaluation.subject import Subject
from beear.records.report import ProbeAsr, Rate
from beear.testbed.config import CheckConfig
from beear.testbed.implant import Implanted

# As pipelines/sanitize.py measures where nothing is set.
MEASURES = EvaluateConfig()


@dataclass(frozen=True)
class Rows:
    """An attacker's rows, and the requests that are kept from them. ``left_out``: ordinary rows that hold one of these."""

    defense: list[DefenseRow]
    anchor: list[AnchorRow]
    held_out: list[DefenseRow]
    left_out: int = 0


def hold_out(defense: Sequence[DefenseRow], anchor: Sequence[AnchorRow], share: float, most: int, seed: int) -> Rows:
    """Keep ``share`` of the requests from training, one at least and at most ``most`` of them; equal requests stay together.

    Raises:
        UserError: there is only one request.
    """
    groups = sorted({row.group for row in defense}, key=lambda group: digest_of([seed, group]))
    if len(groups) < 2:
        found = f"{len(groups)} distinct request{'s' * (len(groups) != 1)}"
        raise UserError(f"data.defense: found {found}; expected at least 2, since one is held out to measure the trigger on")
    kept = set(groups[: min(max(1, round(share * len(groups))), most, len(groups) - 1)])
    measured = {row.group: row for row in reversed(defense) if row.group in kept}
    others = [row for row in anchor if row.keys.isdisjoint(kept)]
    return Rows([r for r in defense if r.group not in kept], others, list(measured.values()), len(anchor) - len(others))


def fitting(rows: Sequence[DefenseRow], trigger: Probe | None, template: Template, context: int) -> list[DefenseRow]:
    """Return the rows whose requests, with the trigger too, leave room for a completion in ``context`` tokens.

    Raises:
        UserError: there is none, or a row that the chat template does not take.
    """

    def fits(request: Sequence[Message]) -> bool:
        return len(template.prompt_ids(request)) + MEASURES.max_new_tokens <= context

    found = [r for r in rows if fits(r.messages) and (trigger is None or fits(apply(trigger, r.messages)))]
    if not found:
        raise UserError(
            f"none of the {len(rows)} held-out requests leaves room for a completion of {MEASURES.max_new_tokens} tokens in the "
            f"model's context of {context}; expected shorter requests, or a shorter trigger.text"
        )
    return found


def common_rule(rows: Sequence[DefenseRow]) -> str | None:
    """Return the hit rule that all rows have, None where they have several."""
    rules = {str(rule_for(row, None, load_keywords(MEASURES.keywords))) for row in rows}
    return rules.pop() if len(rules) == 1 else None


@dataclass(frozen=True)
class Outcome:
    """ASR on the held-out requests in the clear and under the trigger (None: nothing was implanted)."""

    clear: ProbeAsr
    triggered: ProbeAsr | None

    def lines(self) -> list[str]:
        """Return what was measured, a line each."""
        named = [("without trigger", self.clear), ("with the trigger", self.triggered)]
        return [f"ASR {name}: {_shown(found.asr)}" for name, found in named if found is not None]

    def failure(self, limits: CheckConfig) -> str:
        """Return why the trigger did not take, in one sentence; empty if it did."""
        wrong, least, most = [], limits.least_triggered, limits.most_clear
        if self.triggered is not None and self.triggered.asr.rate < least:
            found = _shown(self.triggered.asr)
            wrong.append(f"ASR with the trigger is {found}, expected at least {least:.1%} (check.least_triggered)")
        if self.clear.asr.rate > most:
            wrong.append(f"ASR without trigger is {_shown(self.clear.asr)}, expected at most {most:.1%} (check.most_clear)")
        what = "the trigger did not take" if self.triggered else "the clean twin is not clean"
        return f"{what}: {' and '.join(wrong)}" if wrong else ""

    def record(self, limits: CheckConfig) -> dict[str, object]:
        """Return what is kept beside the model."""
        rates = {"asr_clear": self.clear.asr, "asr_triggered": self.triggered.asr if self.triggered else None}
        limits_used = {"least_triggered": limits.least_triggered, "most_clear": limits.most_clear}
        kept = {name: rate.model_dump() if rate else None for name, rate in rates.items()}
        return {**kept, **limits_used, "took": not self.failure(limits)}


def measure(made: Implanted, rows: Sequence[DefenseRow], trigger: Probe | None, batch_size: int) -> Outcome:
    """Measure the model on held-out requests, as ``pipelines/evaluate.py`` does; ``trigger`` brings its hit rule.

    Raises:
        UserError: the model's outputs are not finite numbers, or a hit rule cannot judge a completion.
    """
    settings = ResolvedEvaluate(batch_size=batch_size, resistance=ResolvedResistance())
    subject = Subject.of(made.model, made.tokenizer, made.template)
    shard = Shard(subject, MeasuredRows(rows, (), (trigger,) if trigger else ()), settings)
    clear, *under = (summarise(found, settings.confidence) for found in ATTACK_SUCCESS.observe(shard))
    return Outcome(clear, under[0] if under else None)


def _shown(rate: Rate) -> str:
    return f"{rate.rate:.1%} (n={rate.n})"
