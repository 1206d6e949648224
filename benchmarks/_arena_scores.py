"""What a run was worth, by the closed form.

| word | meaning |
|---|---|
| truth | the volume-weighted mean of the relative changes over the next 24 hours (`simulators.truth`) |
| feasible | every margin is at least -0.1 x the limit's size; figures called strict allow no such slack |
| score | true gain / best gain of a strictly feasible vector with the same freedom, at most 1, 0 when infeasible |
| check | after each hour: what was recommended then, by the 24 hours that follow |
| held | from some check on to the end, or to the jump, every score is at least 0.9 |
| violating | an arm-hour whose vector is infeasible, by the 24 hours from its own on; control is no arm |
| violation | how far an arm-hour's worst guardrail is over its limit (not over the slack) |
| promotion | entering ramp |

What is *served* is the mixture of arms. Peers have no rollout, so theirs never gets beyond the explore share. A world
with next to no feasible gain is scored by nothing but its violations and promotions.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks._arena_run import TRIMTAB, Hour, Run
from benchmarks._arena_worlds import of_run
from controller.core.experiment import Theta
from simulators.scenarios import Scenario
from simulators.truth import best_gain, truth
from simulators.worlds import Floats, World, gain, margins, true_change, volume

SLACK = 0.1  # of a limit
HELD = 0.9  # score that counts as found
NO_GAIN = 0.002  # a best feasible gain below this is nothing to promote, and not scored
FRESH = 2  # windows at the start, and after a jump, whose worst violation is told apart
SETTLE_H = 24  # hours after a jump within which the score is to be regained


class Promotion(msgspec.Struct, frozen=True):
    """What was claimed of a vector when it entered ramp, and what it is worth."""

    hour: int
    claimed: float
    claimed_sd: float
    gain: float  # of the next 24 hours
    gain_then: float  # of the hours that the claim was made from
    good: bool  # truly feasible and better than the baseline


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """One run's figures; None where the run has no such hour or the world no gain."""

    scenario: str
    controller: str
    seed: int
    series: tuple[float | None, ...]  # score at every check
    feasible: tuple[bool, ...]  # whether its pick was; no pick yet is the baseline, which is and scores 0
    score_24: float | None
    score_end: float | None
    strict_24: float | None
    strict_end: float | None
    served_24: float | None
    served_end: float | None
    regret: float | None  # best feasible gain less the gain of what is served, mean over traffic
    feasible_end: float  # 1 where the last recommendation is (the baseline is)
    strict_feasible_end: float
    held: float | None  # 1 or 0
    held_from_h: float | None  # the first check of those; None where not held
    regained: float | None  # 1 where held again to the end from at most 24 hours after the jump on
    violating: float  # violating traffic over all traffic
    excess: float  # sum over violating arm-hours of share of all traffic x violation
    strict_violating: float
    strict_excess: float
    violations: tuple[float, ...]  # of every arm-hour but the fresh windows', 0 inside the guardrails
    fresh_violations: tuple[float, ...]  # of the first two windows, and the two after a jump
    promoted: float  # 1 where any vector was
    promotions: tuple[Promotion, ...]
    cpu_s: float  # mean of a decision
    cpu_max_s: float


class _Exposures(msgspec.Struct, frozen=True, eq=False):
    """Arm-hours, control's left out: traffic over that of the whole study, violation, infeasible, fresh."""

    share: Floats
    violation: Floats
    infeasible: NDArray[np.bool_]
    fresh: NDArray[np.bool_]


def scored(run: Run) -> Scores:
    """The figures of a run."""
    scenario, common, last = of_run(run.scenario, run.seed), run.controller != TRIMTAB, len(run.hours) - 1
    picks = [truth(scenario, h + 1, [hour.recommended], seen=h)[0] for h, hour in enumerate(run.hours)]
    arms = [truth(scenario, h, [theta for _, theta in hour.arms]) for h, hour in enumerate(run.hours)]
    mixtures = [_shares(hour) @ change for hour, change in zip(run.hours, arms, strict=True)]
    series = [_score(scenario, h, change, common, SLACK) for h, change in enumerate(picks)]
    feasible = tuple(_feasible(scenario.world, change, SLACK) for change in picks)
    served = {h: _score(scenario, h, mixtures[h], common, SLACK) for h in {23, last} if h <= last}
    found = _exposures(scenario, run.hours, arms)
    held_from = _held_from(series[: scenario.jump_hour])
    strict = found.violation > 1e-9
    promotions = tuple(promotions_of(scenario, run.hours))
    cpu_s = [hour.cpu_s for hour in run.hours]
    return Scores(
        scenario=run.scenario,
        controller=run.controller,
        seed=run.seed,
        series=tuple(series),
        feasible=feasible,
        score_24=series[23] if last >= 23 else None,
        score_end=series[-1],
        strict_24=_score(scenario, 23, picks[23], common, 0.0) if last >= 23 else None,
        strict_end=_score(scenario, last, picks[-1], common, 0.0),
        served_24=served.get(23),
        served_end=served[last],
        regret=_regret(scenario, mixtures, common),
        feasible_end=float(feasible[-1]),
        strict_feasible_end=float(_feasible(scenario.world, picks[-1], 0.0)),
        held=None if series[0] is None else float(held_from is not None),
        held_from_h=held_from,
        regained=_regained(scenario, series),
        violating=float(found.share[found.infeasible].sum()),
        excess=float(found.share[found.infeasible] @ found.violation[found.infeasible]),
        strict_violating=float(found.share[strict].sum()),
        strict_excess=float(found.share @ found.violation),
        violations=tuple(found.violation[~found.fresh].tolist()),
        fresh_violations=tuple(found.violation[found.fresh].tolist()),
        promoted=float(bool(promotions)),
        promotions=promotions,
        cpu_s=float(np.mean(cpu_s)),
        cpu_max_s=max(cpu_s),
    )


def _shares(hour: Hour) -> Floats:
    return np.array([share for share, _ in hour.arms])


def _score(scenario: Scenario, seen: int, change: Floats, common: bool, slack: float) -> float | None:
    """Of the truth of the 24 hours after the hour `seen`."""
    best = best_gain(scenario, seen + 1, common=common, seen=seen)
    if best < NO_GAIN:
        return None
    world = scenario.world
    return min(1.0, float(gain(world, change)) / best) if _feasible(world, change, slack) else 0.0


def _feasible(world: World, change: Floats, slack: float) -> bool:
    return bool((margins(world, change) >= -slack * _limits(world) - 1e-9).all())


def _limits(world: World) -> Floats:
    return np.abs([guard.limit for guard in world.guardrails])


def _regret(scenario: Scenario, mixtures: list[Floats], common: bool) -> float | None:
    best = np.array([best_gain(scenario, h, common=common) for h in range(len(mixtures))])
    if best[0] < NO_GAIN:
        return None
    served = np.array([float(gain(scenario.world, change)) for change in mixtures])
    return float((best - served) @ _traffic(scenario, len(mixtures)))


def _traffic(scenario: Scenario, hours: int) -> Floats:
    """Every hour's share of the study's traffic."""
    each = volume(scenario.world, np.array([(h + 0.5) % 24 for h in range(hours)]))
    return np.asarray(each / each.sum())


def _held_from(series: list[float | None]) -> float | None:
    """The check from which on every score is at least 0.9, in hours since the first window's start."""
    good = np.array([score is not None and score >= HELD for score in series], np.bool_)
    if not len(good) or not good[-1]:
        return None
    return float(len(good) - np.argmin(good[::-1]) + 1 if not good.all() else 1)


def _regained(scenario: Scenario, series: list[float | None]) -> float | None:
    if scenario.jump_hour is None or len(series) < scenario.jump_hour + SETTLE_H:
        return None
    held = _held_from(series[scenario.jump_hour :])
    return float(held is not None and held <= SETTLE_H)


def _exposures(scenario: Scenario, hours: tuple[Hour, ...], changes: list[Floats]) -> _Exposures:
    world, rows = scenario.world, [np.zeros((0, 4))]
    for h, (hour, traffic) in enumerate(zip(hours, _traffic(scenario, len(hours)), strict=True)):
        room = margins(world, changes[h][1:])  # (A - 1, guardrails)
        over = np.maximum(-room, 0.0).max(axis=-1, initial=0.0)
        infeasible = (room < -SLACK * _limits(world) - 1e-9).any(axis=-1)
        since = h - (scenario.jump_hour or 0) if scenario.jumped(h) else h
        rows.append(
            np.stack((_shares(hour)[1:] * traffic, over, infeasible, np.full(len(over), since < FRESH)), axis=1)
        )
    share, violation, infeasible, fresh = np.concatenate(rows).T
    return _Exposures(share, violation, infeasible.astype(np.bool_), fresh.astype(np.bool_))


def promotions_of(scenario: Scenario, hours: Sequence[Hour]) -> list[Promotion]:
    """What entered ramp, and what it is worth."""
    made = []
    for h, hour in enumerate(hours):
        if hour.claim is not None:
            change = truth(scenario, h + 1, [hour.claim.theta], seen=h)[0]
            true = float(gain(scenario.world, change))
            good = true > 0 and _feasible(scenario.world, change, SLACK)
            then = _mean_gain(scenario, hour.claim.sample, hour.claim.theta)
            made.append(Promotion(h + 1, hour.claim.gain, hour.claim.sd, true, then, good))
    return made


def _mean_gain(scenario: Scenario, hours: Sequence[int], theta: Theta) -> float:
    """The gain of a vector in these hours, by volume."""
    gains = [float(gain(scenario.world, true_change(scenario.at(h), theta))) for h in hours]
    return float(np.average(gains, weights=volume(scenario.world, np.array([(h + 0.5) % 24 for h in hours]))))
