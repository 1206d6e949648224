"""Beliefs in small worlds, and proposals from them."""

import numpy as np

from controller.core.goal import Goal, Limit
from controller.core.kernel import Floats, Hyper
from controller.core.policy import (
    propose,
)
from controller.core.posterior import Observations, Posterior, condition

D = 3
BASELINE = np.array([0.4, 0.5, 0.3])
GOAL = Goal((1.0, 0.0), (Limit(1, 1, -0.01),))
HYPERS = (Hyper((0.9,) * D, 0.1, 0.03, 200.0, 0.7),) * 2
NONE = np.empty((0, D))


def observed(unit: Floats, change: Floats, group: int = 0, hour: float = 0.0, se: float = 0.005) -> Observations:
    """A deal that saw `change` (M, n) at `unit`, with independent noise."""
    noise = np.stack([se**2 * np.eye(len(unit))] * len(change))
    return Observations(unit, np.full(len(unit), group), np.full(len(unit), hour), change, noise)


def unseen(hypers: tuple[Hyper, ...] = HYPERS) -> Posterior:
    return condition(observed(NONE, np.empty((len(hypers), 0))), BASELINE, hypers)


def linear(group: int = 0, seed: int = 0, turn: float = 1.0) -> Posterior:
    """A belief in gains along the first weight (times `turn`), and in losses of the guardrail along the second."""
    unit = np.random.default_rng(seed).random((60, D))
    change = np.stack([turn * 0.1 * (unit[:, 0] - 0.4), -0.1 * (unit[:, 1] - 0.5)])
    return condition(observed(unit, change, group), BASELINE, HYPERS)


def dealt(*units: Floats) -> Floats:
    return np.array(units).reshape(-1, 1, D)


def ask(
    posterior: Posterior,
    seed: int = 1,
    arms: int = 8,
    risk: float = 0.25,
    previous: Floats | None = None,
    banned: Floats = NONE,
) -> tuple[Floats, tuple[str, ...]]:
    """An unsegmented proposal: (arms, d) and the reasons."""
    before = np.empty((0, 1, D)) if previous is None else previous
    rng = np.random.default_rng(seed)
    off = banned[:, None]
    proposal = propose(posterior, GOAL, (0,), 1.0, arms=arms, risk=risk, previous=before, banned=off, rng=rng)
    assert proposal.unit.shape == (arms, 1, D)
    assert len(proposal.reasons) == arms
    return proposal.unit[:, 0], proposal.reasons
