"""BoTorch as controllers of the arena: SCBO, and batches by constrained noisy expected improvement.

Both see one Gaussian process for the gain and one for each guardrail, with BoTorch's own priors, the estimates' errors
as known noise, and no change at the baseline. Needs the extra `botorch`. https://botorch.org

Notation: n vectors tried, d free weights, L guardrails. Outcomes are the gain and how far each guardrail is broken (at
most 0 where it is kept), in percent: the size for which BoTorch's smoothing of constraints is made.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks._arena_peers import boxed
from benchmarks._arena_protocol import Brief, History, Missing, objective, room
from simulators.worlds import Floats

NEWEST = 200  # distinct vectors that the processes see, for the time of a fit
PERCENT = 100.0
EXACT = 1e-3  # standard error, in percent, of what is known beforehand
CAUTION = 0.5  # posterior standard deviations that the pick takes off the gain and adds to what is broken


class Processes:
    """A Gaussian process per outcome, fitted again whenever there is something new to see."""

    def __init__(self, brief: Brief) -> None:
        if find_spec("botorch") is None:
            raise Missing("pip install 'trimtab[botorch]'")
        import torch

        torch.set_num_threads(1)  # like everyone here
        with quiet(brief.seed):
            import botorch.fit  # noqa: F401 - the first import warns of what its libraries will have to replace
        self.brief, self.unit, self.seen = brief, np.zeros((0, brief.d)), b""
        self.model: Any = None

    def see(self, history: History) -> bool:
        """Fit to a history, the newest part of it; whether there is anything in it."""
        known = history.pooled()
        seen = known.unit.tobytes() + known.change.tobytes()
        if seen != self.seen:
            self.seen, self.unit = seen, np.concatenate((self.brief.baseline[None], known.unit[-NEWEST:]))
            mean, sd = (part[-NEWEST:] for part in _outcomes(self.brief, known))
            # The baseline gains nothing, and is as far below every limit as the limit is wide.
            nothing = PERCENT * np.array([[0.0, *(limit.sign * limit.limit for limit in self.brief.goal.limits)]])
            with quiet(self.brief.seed):
                self.model = _fitted(
                    self.unit,
                    np.concatenate((nothing, mean)),
                    np.concatenate((np.full_like(nothing, EXACT), sd)),
                    self.model,
                )
        return bool(len(known.unit))

    def posterior(self, unit: Floats) -> tuple[Floats, Floats]:
        """Means (k, 1 + L) of the outcomes at points (k, d), and their standard deviations."""
        import torch

        with torch.no_grad(), quiet(self.brief.seed):
            found = self.model.posterior(torch.from_numpy(unit))
            return found.mean.numpy(), np.sqrt(found.variance.clamp_min(0.0).numpy())

    def best(self, caution: float) -> int:
        """The row of `unit` with the largest gain among those that keep every guardrail, each by so many deviations."""
        mean, sd = self.posterior(self.unit)
        worth = mean[:, 0] - caution * sd[:, 0]
        worth[1:][(mean[1:, 1:] + caution * sd[1:, 1:] > 0).any(axis=1)] = -np.inf
        return int(np.argmax(worth))

    def pick(self, history: History) -> Floats | None:
        """The cautious best of the vectors tried; None where that is the baseline."""
        best = self.best(CAUTION) if self.see(history) else 0
        return np.asarray(self.unit[best]) if best else None


class Scbo:
    """SCBO (Eriksson & Poloczek 2021, arXiv 2002.08526), as in BoTorch's tutorial: a trust region, Thompson sampling.

    For noise: the region lies around the best posterior mean, and only a centre that has a larger one is a success.
    A region that has shrunk to nothing begins anew, with all that was seen.
    """

    FIRST, LEAST, MOST = 0.8, 0.5**7, 1.6  # side of the region
    SUCCESSES, FAILURES = 3, 3  # in a row that double and halve it; one failure, as the paper has it, may be noise
    CANDIDATES = 1000
    MOVED = 20  # coordinates of a candidate that differ from the centre, in the mean

    def __init__(self, brief: Brief) -> None:
        self.brief, self.processes = brief, Processes(brief)
        self.side, self.streak, self.center = self.FIRST, 0, brief.baseline  # streak: of successes, below 0 of failures

    def propose(self, history: History) -> Floats:
        """(arms, d): for each arm the best candidate of the region in a draw, which no arm before took."""
        import torch
        from botorch.generation.sampling import ConstrainedMaxPosteriorSampling

        if not self.processes.see(history):
            return boxed(self.brief, self.brief.arms, np.random.default_rng((self.brief.seed, 4)))
        self._resize()
        outcomes = list(range(self.processes.model.num_outputs))
        gain, broken = (self.processes.model.subset_output(part) for part in (outcomes[:1], outcomes[1:]))
        with torch.no_grad(), quiet(self.brief.seed + len(history.unit)):
            sampling = ConstrainedMaxPosteriorSampling(gain, broken, replacement=False)
            return np.asarray(sampling(self._candidates(), num_samples=self.brief.arms).numpy())

    def recommend(self, history: History) -> Floats | None:
        """The cautious best of the vectors tried."""
        return self.processes.pick(history)

    def _resize(self) -> None:
        best = self.processes.unit[self.processes.best(0.0)]
        (new, old), _ = self.processes.posterior(np.stack((best, self.center)))
        won = bool(new[0] > old[0] + 1e-3 * abs(old[0]))
        self.center, self.streak = best, max(self.streak, 0) + 1 if won else min(self.streak, 0) - 1
        if self.streak == self.SUCCESSES:
            self.side, self.streak = min(2 * self.side, self.MOST), 0
        elif self.streak == -self.FAILURES:
            self.side, self.streak = self.side / 2, 0
        if self.side < self.LEAST:
            self.side = self.FIRST

    def _candidates(self) -> Any:
        """(CANDIDATES, d) of the region, each of which differs from the centre in some coordinates."""
        import torch

        d, center = self.brief.d, torch.from_numpy(self.center)
        low, high = (torch.clamp(center + sign * self.side / 2, 0.0, 1.0) for sign in (-1.0, 1.0))
        sobol = torch.quasirandom.SobolEngine(d, scramble=True).draw(self.CANDIDATES, dtype=torch.float64)
        moved = torch.rand(self.CANDIDATES, d) <= min(self.MOVED / d, 1.0)
        moved[torch.arange(self.CANDIDATES), torch.randint(d, (self.CANDIDATES,))] = True  # no copy of the centre
        return torch.where(moved, low + (high - low) * sobol, center)


class Qlognei:
    """Batches, one vector after the other, of the largest constrained qLogNEI (Ament et al. 2023, arXiv 2310.20708)."""

    SAMPLES, RESTARTS, RAW, STEPS = 64, 2, 64, 30  # of the acquisition, and of its ascent

    def __init__(self, brief: Brief) -> None:
        self.brief, self.processes = brief, Processes(brief)

    def propose(self, history: History) -> Floats:
        """(arms, d) whose joint expected improvement on the best of the vectors tried is large."""
        import torch
        from botorch.acquisition.logei import qLogNoisyExpectedImprovement
        from botorch.acquisition.objective import LinearMCObjective
        from botorch.optim import optimize_acqf
        from botorch.sampling import SobolQMCNormalSampler

        if not self.processes.see(history):
            return boxed(self.brief, self.brief.arms, np.random.default_rng((self.brief.seed, 5)))
        seed, outcomes = self.brief.seed + len(history.unit), self.processes.model.num_outputs
        with quiet(seed):
            worth = qLogNoisyExpectedImprovement(
                self.processes.model,
                torch.from_numpy(self.processes.unit),
                SobolQMCNormalSampler(torch.Size([self.SAMPLES]), seed=seed),
                LinearMCObjective(torch.eye(outcomes, dtype=torch.float64)[0]),
                constraints=[lambda outcome, k=k: outcome[..., k] for k in range(1, outcomes)],
            )
            cube = torch.tensor([[0.0], [1.0]], dtype=torch.float64).expand(2, self.brief.d)
            found, _ = optimize_acqf(
                worth,
                cube,
                self.brief.arms,
                self.RESTARTS,
                self.RAW,
                {"maxiter": self.STEPS, "seed": seed},
                sequential=True,
            )
        return np.asarray(found.numpy())

    def recommend(self, history: History) -> Floats | None:
        """The cautious best of the vectors tried."""
        return self.processes.pick(history)


def _outcomes(brief: Brief, history: History) -> tuple[Floats, Floats]:
    """Gain and broken guardrails (n, 1 + L) in percent, and their standard errors."""
    (gain, gain_sd), (margin, margin_sd) = objective(brief.goal, history), room(brief.goal, history)
    return PERCENT * np.column_stack((gain, -margin)), PERCENT * np.column_stack((gain_sd, margin_sd))


def _fitted(unit: Floats, mean: Floats, sd: Floats, before: Any) -> Any:
    """A process per column of mean and sd (n, 1 + L); the ascent begins where that of the model before ended."""
    import torch
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    model = SingleTaskGP(*(torch.from_numpy(part) for part in (unit, mean, sd**2)))
    if before is not None:
        model.load_state_dict(dict(before.named_parameters()), strict=False)
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return model


@contextmanager
def quiet(seed: int) -> Iterator[None]:
    """Torch's randomness from a seed, and none of the libraries' warnings of a slow or rough ascent."""
    import torch

    with warnings.catch_warnings(), torch.random.fork_rng(devices=()):
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        yield
