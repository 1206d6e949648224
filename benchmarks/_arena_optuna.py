"""Optuna as a controller of the arena: ask a deal's vectors, tell what was measured and by how much limits were broken.

Needs the extra `bench`; the Gaussian process also needs torch. https://optuna.readthedocs.io
"""

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks._arena_protocol import Brief, History, Missing, cautious_best, objective, room
from simulators.worlds import Floats


class OptunaTuner:
    """A study of `d` floats in the unit cube; the objective is the measured gain, a constraint is minus the margin."""

    def __init__(self, brief: Brief, sampler: str) -> None:
        self.brief = brief
        optuna = _optuna()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constraints and the constant liar are called experimental
            self.study = optuna.create_study(direction="maximize", sampler=_sampler(optuna, sampler, brief))
        self.study.enqueue_trial({f"x{i}": float(u) for i, u in enumerate(brief.baseline)})
        self.study.tell(self._asked()[0], 0.0)  # what is known beforehand: no change at the baseline
        self.asked: list[Any] = []

    def propose(self, history: History) -> Floats:
        """(arms, d) as the sampler says."""
        self._tell(history)
        asked = [self._asked() for _ in range(self.brief.arms)]
        self.asked = [trial for trial, _ in asked]
        return np.array([point for _, point in asked])

    def recommend(self, history: History) -> Floats | None:
        """The best measured: the sampler's own best trial ignores the noise and does worse."""
        return cautious_best(self.brief.goal, history)

    def _asked(self) -> tuple[Any, list[float]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = self.study.ask()
            return trial, [trial.suggest_float(f"x{i}", 0.0, 1.0) for i in range(self.brief.d)]

    def _tell(self, history: History) -> None:
        if not history.newest:
            return
        gain, margin = objective(self.brief.goal, history)[0], room(self.brief.goal, history)[0]
        last = slice(len(gain) - history.newest, None)
        for trial, value, room_left, known in zip(
            self.asked, gain[last], margin[last], history.measured[last].tolist(), strict=True
        ):
            trial.set_user_attr("broken", (-room_left).tolist())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.study.tell(trial, float(value) if known else None, state=None if known else _failed())


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise Missing("pip install 'trimtab[bench]'") from None
    return optuna


def _failed() -> Any:
    return _optuna().trial.TrialState.FAIL


def _sampler(optuna: Any, name: str, brief: Brief) -> Any:
    if name == "tpe":
        return optuna.samplers.TPESampler(
            seed=brief.seed, constraints_func=_broken, constant_liar=True, multivariate=True
        )
    if find_spec("torch") is None:  # the sampler would only find out when it is asked
        raise Missing("pip install 'trimtab[botorch]'")
    return optuna.samplers.GPSampler(seed=brief.seed, constraints_func=_broken, deterministic_objective=False)


def _broken(trial: Any) -> Sequence[float]:
    """How far each guardrail was broken; at most 0 where all are kept, as at the baseline."""
    broken: list[float] = trial.user_attrs.get("broken", [-1e-3])
    return broken
