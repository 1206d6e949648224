"""Google Vizier's default algorithm as a controller of the arena: GP-UCB-PE, guardrails as safety metrics.

What the open-source designer makes of a safety metric: a trial measured to break one is infeasible. It learns the noise
itself. Needs the extra `peers`. https://oss-vizier.readthedocs.io
"""

import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks._arena_peers import boxed
from benchmarks._arena_protocol import Brief, History, Missing, cautious_best, objective, room
from simulators.worlds import Floats

NEWEST = 96  # distinct vectors that the designer sees, for the time of a fit
FIT_STEPS = 50
EVALUATIONS = 2000  # of an acquisition, for each vector; 75,000 by default


class Vizier:
    """A designer that is told the whole history, pooled, and asked for a deal."""

    def __init__(self, brief: Brief) -> None:
        if find_spec("vizier") is None or find_spec("tensorflow_probability") is None:
            raise Missing("pip install 'trimtab[peers]'")
        import jax

        jax.config.update("jax_disable_most_optimizations", True)  # every deal compiles anew, which costs the most
        self.brief, self.rng = brief, np.random.default_rng((brief.seed, 6))

    def propose(self, history: History) -> Floats:
        """(arms, d): the first by the upper confidence bound, the others by exploration where it promises."""
        known = history.pooled()
        if not len(known.unit):
            return boxed(self.brief, self.brief.arms, self.rng)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            designer = _designer(self.brief, self.brief.seed + len(history.unit))
            _tell(designer, self.brief, known)
            unit = np.array([_point(s.parameters, self.brief.d) for s in designer.suggest(self.brief.arms)])
        return np.where(np.isfinite(unit), unit, boxed(self.brief, len(unit), self.rng))  # its ascent may find nothing

    def recommend(self, history: History) -> Floats | None:
        """The best measured."""
        return cautious_best(self.brief.goal, history)


def _designer(brief: Brief, seed: int) -> Any:
    import attr
    import jax
    from vizier import pyvizier as vz
    from vizier._src.algorithms.designers import gp_ucb_pe
    from vizier._src.algorithms.designers.unsafe_as_infeasible_designer import UnsafeAsInfeasibleDesigner
    from vizier.jax.optimizers import JaxoptScipyLbfgsB, LbfgsBOptions
    from vizier.pyvizier.converters import padding

    problem = vz.ProblemStatement()
    for i, low in enumerate(brief.baseline):
        problem.search_space.root.add_float_param(f"x{i}", 0.0, 1.0, default_value=float(low))
    maximize = vz.ObjectiveMetricGoal.MAXIMIZE
    problem.metric_information.append(vz.MetricInformation("gain", goal=maximize))
    for k in range(len(brief.goal.limits)):
        problem.metric_information.append(vz.MetricInformation(f"room{k}", goal=maximize, safety_threshold=0.0))
    bandit = gp_ucb_pe.VizierGPUCBPEBandit
    ascent = attr.evolve(bandit.default_acquisition_optimizer_factory, max_evaluations=EVALUATIONS)
    return UnsafeAsInfeasibleDesigner(
        problem,
        lambda safe, seed: bandit(
            safe,
            acquisition_optimizer_factory=ascent,
            ard_optimizer=JaxoptScipyLbfgsB(options=LbfgsBOptions(maxiter=FIT_STEPS)),
            ard_random_restarts=1,
            config=gp_ucb_pe.UCBPEConfig(optimize_set_acquisition_for_exploration=True),
            padding_schedule=padding.PaddingSchedule(num_trials=padding.PaddingType.POWERS_OF_2),
            rng=jax.random.PRNGKey(seed),
        ),
        seed=seed,
    )


def _tell(designer: Any, brief: Brief, known: History) -> None:
    """The newest of what is known, after the baseline, which changes nothing."""
    from vizier import algorithms as vza
    from vizier import pyvizier as vz

    newest = np.flatnonzero(known.measured)[-NEWEST:]
    unit = np.concatenate((brief.baseline[None], known.unit[newest]))
    gain, margin = objective(brief.goal, known)[0], room(brief.goal, known)[0]
    values = np.column_stack((gain, margin))[newest]
    nothing = np.array([[0.0, *(-limit.sign * limit.limit for limit in brief.goal.limits)]])
    names = ["gain", *(f"room{k}" for k in range(margin.shape[1]))]
    trials = []
    for i, (point, value) in enumerate(zip(unit, np.concatenate((nothing, values)), strict=True)):
        trial = vz.Trial(id=i + 1, parameters={f"x{k}": float(u) for k, u in enumerate(point)})
        trial.complete(vz.Measurement(dict(zip(names, value.tolist(), strict=True))))
        trials.append(trial)
    designer.update(vza.CompletedTrials(trials), vza.ActiveTrials([]))


def _point(parameters: Any, d: int) -> list[float]:
    """NaN where the designer named no value, as it does when no acquisition was finite."""
    return [float(parameters.get_value(f"x{i}", np.nan)) for i in range(d)]
