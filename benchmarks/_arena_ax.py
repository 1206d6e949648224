"""Ax as a controller of the arena: an experiment with a status quo, guardrails as outcome constraints relative to it.

Metrics are levels over control's, 1 at the baseline; the estimates' errors are their known noise. The model and its
acquisition are Ax's own choice; its history (`NEWEST`) and the ascent of the acquisition (`ASCENT`) are cut, for their
time. Needs the extra `peers`. https://ax.dev
"""

import logging
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks._arena_botorch import quiet
from benchmarks._arena_peers import boxed
from benchmarks._arena_protocol import Brief, History, Missing, objective
from simulators.worlds import Floats

NEWEST = 100  # distinct vectors that the model sees, for the time of a fit
EXACT = 1e-5  # standard error of what is known beforehand
CAUTION = 0.5  # posterior standard deviations that the pick takes off the gain and off every margin
ASCENT = {"num_restarts": 2, "raw_samples": 64, "options": {"maxiter": 15}}  # 20 restarts, 1024 samples by default
STATUS_QUO = "status_quo"


class Ax:
    """An experiment of one batch trial is made anew of all that is known, pooled: estimates change as a deal lasts."""

    def __init__(self, brief: Brief) -> None:
        if find_spec("ax") is None:
            raise Missing("pip install 'trimtab[peers]'")
        import torch

        torch.set_num_threads(1)  # like everyone here
        with quiet(brief.seed):
            import ax.adapter.registry  # noqa: F401 - the first import warns of what its libraries have to replace
        logging.getLogger("ax").setLevel(logging.ERROR)
        self.brief, self.unit, self.seen = brief, np.zeros((0, brief.d)), b""
        self.adapter: Any = None

    def propose(self, history: History) -> Floats:
        """(arms, d) of the batch that Ax generates."""
        if not self._see(history):
            return boxed(self.brief, self.brief.arms, np.random.default_rng((self.brief.seed, 6)))
        with quiet(self.brief.seed + len(history.unit)):
            made = self.adapter.gen(self.brief.arms, model_gen_options={"optimizer_kwargs": ASCENT})
        return np.array([[arm.parameters[f"x{i}"] for i in range(self.brief.d)] for arm in made.arms])

    def recommend(self, history: History) -> Floats | None:
        """The cautious best of the vectors tried, by the model's predictions."""
        from ax.core.observation import ObservationFeatures

        if not self._see(history):
            return None
        with quiet(self.brief.seed):
            mean, covariance = self.adapter.predict([ObservationFeatures(_named(point)) for point in self.unit])
        gain = np.array(mean["gain"]) - CAUTION * np.sqrt(covariance["gain"]["gain"])
        for k, limit in enumerate(self.brief.goal.limits):
            name = f"level{k}"
            margin = limit.sign * (np.array(mean[name]) - 1.0 - limit.limit)
            gain[margin < CAUTION * np.sqrt(covariance[name][name])] = -np.inf
        best = int(np.argmax(gain))
        return np.asarray(self.unit[best]) if gain[best] > 0 else None

    def _see(self, history: History) -> bool:
        """Fit to a history, the newest part of it, unless it is the last one; whether there is anything in it."""
        from ax.adapter.registry import Generators

        known = history.pooled()
        seen = known.unit.tobytes() + known.change.tobytes()
        if seen != self.seen and len(known.unit):
            self.seen, self.unit = seen, known.unit[-NEWEST:]
            with quiet(self.brief.seed):
                experiment, data = _experiment(self.brief, known)
                self.adapter = Generators.BOTORCH_MODULAR(experiment=experiment, data=data)
        return bool(len(known.unit))


def _experiment(brief: Brief, known: History) -> tuple[Any, Any]:
    """The task, with a batch of the newest vectors beside the status quo, and what was measured of them."""
    from ax.core.arm import Arm
    from ax.core.data import Data, DataRow
    from ax.core.experiment import Experiment
    from ax.core.metric import Metric
    from ax.core.objective import Objective
    from ax.core.optimization_config import OptimizationConfig
    from ax.core.outcome_constraint import OutcomeConstraint
    from ax.core.parameter import ParameterType, RangeParameter
    from ax.core.search_space import SearchSpace

    values = _levels(brief, known)
    names = {name: name for name in values}
    constraints = [
        f"level{k} {'>=' if limit.sign > 0 else '<='} {1.0 + limit.limit!r} * baseline"
        for k, limit in enumerate(brief.goal.limits)
    ]
    experiment = Experiment(
        SearchSpace([RangeParameter(f"x{i}", ParameterType.FLOAT, 0.0, 1.0) for i in range(brief.d)]),
        name="arena",
        optimization_config=OptimizationConfig(
            Objective("gain", metric_name_to_signature=names),
            [OutcomeConstraint(constraint, metric_name_to_signature=names) for constraint in constraints],
        ),
        metrics=[Metric(name) for name in values],
        status_quo=Arm(_named(brief.baseline), STATUS_QUO),
    )
    arms = [Arm(_named(point), f"a{i}") for i, point in enumerate(known.unit[-NEWEST:])]
    trial = experiment.new_batch_trial(should_add_status_quo_arm=True)
    trial.add_arms_and_weights(arms)
    trial.mark_running(no_runner_required=True)
    rows = [
        DataRow(trial.index, name, metric, metric, float(mean), float(sem))
        for metric, (means, sems) in values.items()
        for name, mean, sem in zip((STATUS_QUO, *(arm.name for arm in arms)), means, sems, strict=True)
    ]
    data = Data(rows)
    experiment.attach_data(data)
    trial.mark_completed()
    return experiment, data


def _levels(brief: Brief, known: History) -> dict[str, tuple[Floats, Floats]]:
    """By metric: the status quo's value and the newest vectors', and their standard errors."""
    gain, gain_sd = objective(brief.goal, known)
    measured = {"gain": (gain, gain_sd, 0.0)}
    for k, limit in enumerate(brief.goal.limits):
        measured[f"level{k}"] = (1.0 + known.change[:, limit.metric], known.sd[:, limit.metric], 1.0)
    return {
        name: (np.append(known_as, mean[-NEWEST:]), np.append(EXACT, sd[-NEWEST:]))
        for name, (mean, sd, known_as) in measured.items()
    }


def _named(point: Floats) -> dict[str, float]:
    return {f"x{i}": float(u) for i, u in enumerate(point)}
