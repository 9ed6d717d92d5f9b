"""ASHA that compares again: a trial that reached a rung early is compared with those that reach it later."""

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler


class Asha(AsyncHyperBandScheduler):
    """Asynchronous successive halving (arXiv 1810.05934) that does not favour the first trials.

    Ray's compares a trial with the others once, when it reaches a rung. The first trials there have nothing to be compared with
    and are never stopped. Here every result compares the trial's last rung again, with all results recorded there by then. A
    trial that has become better than the cutoff since continues.
    """

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Return whether the trial continues."""
        action: str = super().on_trial_result(tune_controller, trial, result)
        if action == TrialScheduler.CONTINUE and self._overtaken(trial, self._metric_op * result[str(self._metric)]):
            self._num_stopped += 1
            return str(TrialScheduler.STOP)
        return action

    def _overtaken(self, trial: Trial, now: float) -> bool:
        bracket = self._trial_info[trial.trial_id]
        # The highest rung comes first.
        for _, recorded in bracket._rungs:
            if trial.trial_id in recorded:
                others = {name: value for name, value in recorded.items() if name != trial.trial_id}
                cutoff = bracket.cutoff(others)
                return cutoff is not None and max(recorded[trial.trial_id], now) < cutoff
        return False
