"""Stages and their legal moves, and how buckets are dealt to arms.

Notation: B buckets, A arms (arms[0] is control).
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.assignment import CONTROL, Arm, Stage

Buckets = NDArray[np.int16]

HOLDBACK = 0.05  # of the buckets: stays on control for ever
BESIDE = 0.5  # of the largest share at risk: goes on exploring while a candidate is tested
OTHERS = -1  # in a trial's map: neither control nor the candidate

# Which stage may follow which. Everything else is a bug, not a decision.
MOVES: dict[Stage, frozenset[Stage]] = {
    "verify": frozenset({"explore", "paused", "rolled_back"}),
    "explore": frozenset({"confirm", "paused", "rolled_back"}),
    "confirm": frozenset({"ramp", "explore", "paused", "rolled_back"}),
    "ramp": frozenset({"hold", "explore", "paused", "rolled_back"}),
    "hold": frozenset({"ramp", "explore", "paused", "rolled_back"}),  # the ramp: it was given more steps
    "paused": frozenset({"verify", "explore", "confirm", "ramp", "rolled_back"}),
    "rolled_back": frozenset({"verify", "explore", "paused"}),
}
TESTS: frozenset[Stage] = frozenset({"confirm", "ramp", "hold"})  # of one candidate, on one deal
FROZEN: frozenset[Stage] = frozenset({"paused", "rolled_back"})  # every bucket on control until an operator resumes

# Where `resume` leads, by the stage that was left: a test is begun afresh, and traffic is never given back at once.
RESUMED: dict[Stage, Stage] = {
    "verify": "verify",
    "explore": "explore",
    "confirm": "confirm",
    "ramp": "ramp",
    "hold": "ramp",
}


class TrafficPlan(msgspec.Struct, frozen=True):
    """How much traffic may carry vectors that are not promoted."""

    explore_arms: int = 8
    explore_share: float = 0.32
    max_share_at_risk: float = 0.4

    @property
    def confirm_share(self) -> float:
        """What a candidate has in its confirm test: the rest of what may be at risk explores beside it."""
        return self.max_share_at_risk * (1.0 - BESIDE)


class RolloutPlan(msgspec.Struct, frozen=True):
    """When stages advance. Durations in ms of event time."""

    explore_min_ms: int
    explore_max_ms: int
    confirm_ms: int
    ramp_step_ms: int
    ramp_shares: tuple[float, ...] = (0.05, 0.25, 0.5, 0.95)
    confirm_alpha: float = 0.025
    require_approval: bool = False
    verify_ms: int = 0  # A/A before exploring; 0: none


class IllegalMove(Exception):
    """A stage was to follow one that it may not follow: a bug."""


class Deal(msgspec.Struct, frozen=True, eq=False):
    """A map from bucket to arm; it lasts one version or several."""

    id: int
    stage: Stage
    arms: tuple[Arm, ...]  # A
    buckets: Buckets  # (B,) index into arms
    history: NDArray[np.float64] | None = None  # (G1, B, C) the buckets' past, apart from which arm they are in
    trial: int = 0  # the test of a candidate that it goes on with (`experiment.Experiment.trial`); 0: none

    @property
    def names(self) -> tuple[str, ...]:
        """The arms' names, control first."""
        return tuple(arm.arm for arm in self.arms)


def check_move(before: Stage, after: Stage) -> None:
    """Raise `IllegalMove` unless `after` may follow `before` (staying is always legal)."""
    if after != before and after not in MOVES[before]:
        raise IllegalMove(f"{before} -> {after}: from {before} only {sorted(MOVES[before])} can follow")


def whole(buckets: float) -> int:
    """Whole buckets of a share: never more than was asked for."""
    return int(buckets + 1e-9)  # 0.29 x 100 is 28.999999999999996


def shuffled(buckets: int, arms: int, share: float, rng: np.random.Generator) -> Buckets:
    """Deal `share` of the buckets evenly to arms 1..arms at random, the rest to control (arm 0)."""
    each = whole(share * buckets / arms)
    order = rng.permutation(buckets)
    arm_of = np.zeros(buckets, np.int16)
    arm_of[order[: each * arms]] = np.repeat(np.arange(1, arms + 1, dtype=np.int16), each)
    return arm_of


def nested(buckets: int, share: float, seed: int, arm: str, beside: float = 0.0) -> Buckets:
    """Give arm 1 the first `share` of a bucket order that is the vector's own: a larger share holds every smaller one.

    Another vector's order owes nothing to it, so what an earlier test did to its buckets is no bias in a later one.
    The share `beside` is left to others (-1): it ends where the last `HOLDBACK` begins, which nobody but control gets.
    Where buckets are few neither share is more than was asked for, and the holdback no less.
    """
    order = np.random.default_rng((seed, buckets, *arm.encode())).permutation(buckets)
    arm_of = np.zeros(buckets, np.int16)
    end = whole((1.0 - HOLDBACK) * buckets)
    arm_of[order[end - whole(beside * buckets) : end]] = OTHERS
    arm_of[order[: whole(share * buckets)]] = 1
    return arm_of


def room_beside(share: float, wanted: float) -> float:
    """How much of the traffic may explore beside a candidate's share: control keeps as much, and the holdback."""
    return max(0.0, min(wanted, (1.0 - share - HOLDBACK) / 2.0))


def joined(trial: Deal, id_: int, others: Sequence[Arm], arms: int, rng: np.random.Generator) -> Deal:
    """The trial with the buckets that it leaves out dealt evenly to so many arms at random, the rest to control.

    Where there are fewer others than arms each still has its own share, no more.
    """
    free = rng.permutation(np.flatnonzero(trial.buckets == OTHERS))
    buckets = np.maximum(trial.buckets, 0)
    each = len(free) // max(arms, 1)
    first = len(trial.arms)
    buckets[free[: each * len(others)]] = np.repeat(np.arange(first, first + len(others), dtype=np.int16), each)
    return Deal(id_, trial.stage, (*trial.arms, *others), buckets, trial.history, trial.id)


def without(deal: Deal, id_: int, arms: Sequence[int]) -> Deal:
    """The same deal with the given arms' buckets on control; the arms go."""
    kept = [i for i in range(len(deal.arms)) if i not in arms]
    index = np.zeros(len(deal.arms), np.int16)
    index[kept] = np.arange(len(kept))
    kept_trial = deal.trial if 1 in kept else 0  # arm 1 of a test is its candidate
    return Deal(id_, deal.stage, tuple(deal.arms[i] for i in kept), index[deal.buckets], deal.history, kept_trial)


def all_control(id_: int, stage: Stage, control: Arm, buckets: int) -> Deal:
    """Every bucket on control."""
    assert control.arm == CONTROL
    return Deal(id_, stage, (control,), np.zeros(buckets, np.int16))
