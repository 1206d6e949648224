"""What a run was worth, by the closed form.

Truth is the volume-weighted mean of the next 24 hours (`_arena_truth`). *Feasible*: every margin at least -0.1 x
|limit| (`strict`: at least 0). *Score*: true gain / best feasible gain, at most 1, and 0 where infeasible. A world with
next to no feasible gain is scored by nothing but its violations and promotions.
What is *served* is the mixture of arms; peers have no rollout, so theirs never gets beyond the explore share.
"""

import msgspec
import numpy as np

from benchmarks._arena_run import TRIMTAB, Hour, Run
from benchmarks._arena_truth import best_gain, truth
from benchmarks._arena_worlds import SCENARIOS, Scenario
from controller.core.control import Theta
from simulators.worlds import Floats, World, gain, margins, volume

SLACK = 0.1  # of a limit
HELD = 0.9  # score that counts as found
NO_GAIN = 0.002  # a best feasible gain below this is nothing to promote, and not scored
FRESH = 2  # windows at the start, and after a jump, whose worst violation is told apart
SETTLE_H = 24  # hours after a jump within which the score is to be regained


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """One run's figures; None where the run has no such hour or the world no gain."""

    scenario: str
    controller: str
    seed: int
    score_24: float | None
    score_end: float | None  # at the last hour, of the recommendation
    strict_end: float | None  # the same without slack
    served_end: float | None  # of the mixture of arms that serves everyone
    feasible_end: float  # 1 where the last recommendation is (the baseline is)
    held: float | None  # 1 where from some hour on, to the end or the jump, every score is at least 0.9
    held_from_h: float | None  # that hour
    regained: float | None  # 1 where the same holds from at most 24 hours after the jump on
    violating: float  # exposed traffic whose vector is infeasible, over all traffic
    excess: float  # sum of share x excess over the slack's edge, in relative change
    excesses: tuple[float, ...]  # of every arm-hour but the fresh ones, for the worst of many runs
    promoted: float  # 1 where the study came to serve a promoted vector
    cpu_s: float  # mean of a decision


def scored(run: Run) -> Scores:
    """The figures of a run."""
    scenario, common = SCENARIOS[run.scenario], run.controller != TRIMTAB
    changes = [truth(scenario, h, [hour.recommended, *_vectors(hour)]) for h, hour in enumerate(run.hours)]
    series = [_worth(scenario, h, change[0], common, SLACK) for h, change in enumerate(changes)]
    last, final = len(run.hours) - 1, run.hours[-1]
    before = series[: scenario.jump_hour]
    held_from = _held_from(before)
    shares, excess, fresh = _exposures(scenario, run.hours, [change[1:] for change in changes])
    traffic = float(volume(scenario.world, np.arange(0.5, len(run.hours)) % 24).sum())
    return Scores(
        scenario=run.scenario,
        controller=run.controller,
        seed=run.seed,
        score_24=series[23] if len(series) >= 24 else None,
        score_end=series[-1],
        strict_end=_worth(scenario, last, changes[-1][0], common, 0.0),
        served_end=_worth(scenario, last, _shares(final) @ changes[-1][1:], common, SLACK),
        feasible_end=float(_feasible(scenario.world, changes[-1][0], SLACK)),
        held=None if before[-1] is None else float(held_from is not None),
        held_from_h=held_from,
        regained=_regained(scenario, series),
        violating=float(shares[excess > 0].sum()) / traffic,
        excess=float(shares @ excess) / traffic,
        excesses=tuple(excess[~fresh].tolist()),
        promoted=float(any(hour.stage in ("ramp", "hold") for hour in run.hours)),
        cpu_s=float(np.mean([hour.cpu_s for hour in run.hours])),
    )


def _worth(scenario: Scenario, hour: int, change: Floats, common: bool, slack: float) -> float | None:
    best = best_gain(scenario, hour, common=common)
    if best < NO_GAIN:
        return None
    world = scenario.world
    return min(1.0, float(gain(world, change)) / best) if _feasible(world, change, slack) else 0.0


def _vectors(hour: Hour) -> list[Theta]:
    return [theta for _, theta in hour.arms]


def _shares(hour: Hour) -> Floats:
    return np.array([share for share, _ in hour.arms])


def _feasible(world: World, change: Floats, slack: float) -> bool:
    return bool(_excess(world, change, slack) <= 0)


def _excess(world: World, change: Floats, slack: float) -> float:
    """How far the worst guardrail is beyond its slack, in relative change; 0 where none is."""
    limits = np.abs([guard.limit for guard in world.guardrails])
    return float(np.max(-margins(world, change) - slack * limits - 1e-9, initial=0.0))


def _held_from(series: list[float | None]) -> float | None:
    """The hour from which on every score is at least 0.9."""
    good = np.array([score is not None and score >= HELD for score in series], np.bool_)
    if not len(good) or not good[-1]:
        return None
    return float(len(good) - np.argmin(good[::-1]) + 1 if not good.all() else 1)


def _regained(scenario: Scenario, series: list[float | None]) -> float | None:
    if scenario.jump_hour is None or len(series) <= scenario.jump_hour + SETTLE_H:
        return None
    held = _held_from(series[scenario.jump_hour :])
    return float(held is not None and held <= SETTLE_H)


def _exposures(
    scenario: Scenario, hours: tuple[Hour, ...], changes: list[Floats]
) -> tuple[Floats, Floats, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Of every arm-hour but control's: its traffic, its excess, whether it is among the fresh windows."""
    rows = []
    for h, (hour, change) in enumerate(zip(hours, changes, strict=True)):
        traffic = float(volume(scenario.world, np.array(h % 24 + 0.5)))
        since = h if scenario.jump_hour is None or h < scenario.jump_hour else h - scenario.jump_hour
        first = since < FRESH + (h == since)  # the very first window is all control
        rows += [
            (share * traffic, _excess(scenario.world, arm, SLACK), first)
            for share, arm in zip(_shares(hour)[1:], change[1:], strict=True)
        ]
    share, excess, fresh = (np.array([row[i] for row in rows]) for i in range(3))
    return share, excess, fresh.astype(np.bool_)
