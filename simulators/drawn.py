"""Worlds drawn at random by their number: `drawn-7`. Nobody made them, so nobody made them easy.

The generated worlds (`shapes`) have one peak of one form. Here every quantity's response is a polynomial of its own,
with bends, cubic terms and interactions of any pair: the objective may have several peaks or grow to the edge of the
cube. Most guarded metrics pay for the gain, as in products; a guardrail allows a part of what the best vector costs.
"""

from functools import cache
from itertools import count

import msgspec
import numpy as np

from controller.core.estimate import Metric
from controller.core.safety import Guardrail
from controller.core.space import Space, Weight
from simulators.optimum import best_feasible
from simulators.scenarios import Drift, LateAmount, Scenario
from simulators.worlds import Floats, Polynomial, Quantity, Season, World, true_change

PREFIX = "drawn-"
SIZES = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20)  # free weights
GAIN = (0.02, 0.6)  # of the best feasible vector: with less there is nothing to find, more is no product's
PAYS = 0.8  # probability that a guarded metric pays for the gain
ALLOWED = (0.25, 0.8)  # limit, as a share of what the metric would pay at the best vector without guardrails
SMALLEST = {"ctr": 0.005, "report_rate": 0.015, "impressions": 0.02, "likes": 0.025}  # limits that can be measured
VECTORS = 512  # whose root mean square change stands for what a metric that pays nothing would pay
DRIFTS = (None, Drift(0.20, 0.20, 1), Drift(0.35, 0.40, 2))  # with probabilities:
DRIFTING = (0.25, 0.6, 0.15)
SEGMENTED, LATE, BAD_HOURS = 0.2, 0.15, 0.1  # probabilities
MOST_BY_SEGMENT = 8  # free weights of a world with segments: each of them has a vector of its own

_METRICS = {
    "watch": Metric("watch", "watch_s", "buckets"),
    "likes": Metric("likes", "likes", "buckets"),
    "ctr": Metric("ctr", "clicks", "impressions"),
    "report_rate": Metric("report_rate", "reports", "impressions"),
    "impressions": Metric("impressions", "impressions", "buckets"),
}


def drawn_named(name: str) -> Scenario | None:
    """The world of `drawn-N`; None where the name is no such."""
    number = name.removeprefix(PREFIX)
    return drawn(int(number)) if number != name and number.isdecimal() else None


@cache
def drawn(number: int) -> Scenario:
    """The world of a number, the same on every machine; redrawn until its best feasible gain lies within `GAIN`."""
    return next(found for attempt in count() if (found := _drawn(number, attempt)) is not None)


def _drawn(number: int, attempt: int) -> Scenario | None:
    rng = np.random.default_rng((number, attempt))
    name = f"{PREFIX}{number}"
    world = _railed(_free(name, rng), rng)
    try:
        best = best_feasible(world)
    except ValueError:  # a group has no feasible vector
        return None
    if not GAIN[0] <= best.gain <= GAIN[1]:
        return None
    drift = DRIFTS[rng.choice(len(DRIFTS), p=DRIFTING)]
    late = LateAmount("watch_s") if rng.random() < LATE else None
    bad_hours = (20, 45) if rng.random() < BAD_HOURS else ()
    summary = _summary(world, drift, late, bad_hours)
    world = msgspec.structs.replace(world, summary=summary)
    return Scenario(name=name, summary=summary, world=world, drift=drift, late=late, bad_hours=bad_hours)


def _summary(world: World, drift: Drift | None, late: LateAmount | None, bad_hours: tuple[int, ...]) -> str:
    more = {"drift": drift, "segments": world.segments, "late amounts": late, "bad hours": bad_hours}
    rails = "a guardrail" if len(world.guardrails) == 1 else f"{len(world.guardrails)} guardrails"
    parts = [f"{len(world.weights)} weights", rails, *(name for name, there in more.items() if there)]
    return "drawn at random: " + ", ".join(parts)


def _free(name: str, rng: np.random.Generator) -> World:
    """A world without guardrails."""
    weights = tuple(_weight(f"w{i}", rng) for i in range(rng.choice(SIZES)))
    names = tuple(weight.name for weight in weights)
    size = float(np.exp(rng.uniform(np.log(0.08), np.log(0.35))))  # of what the weights do, in log rates
    importance = np.exp(rng.normal(0.0, rng.uniform(0.2, 1.2), len(names)))  # few of the weights do most, or all alike
    bend, pairs = rng.uniform(0.3, 1.5), int(rng.uniform(0.0, 0.8) * len(names))

    def response(part: float, *, peaked: bool = False) -> Polynomial:
        shuffled = importance * np.exp(rng.normal(0.0, 0.5, len(names)))
        effects = part * size * shuffled / np.sqrt((shuffled**2).sum())
        return _response(names, effects, bend, pairs, peaked, rng)

    segments = {"new": 0.3, "returning": 0.7} if rng.random() < SEGMENTED and len(names) <= MOST_BY_SEGMENT else {}
    rate = rng.uniform
    return World(
        name=name,
        summary="",
        weights=weights,
        visits=response(0.03) if rng.random() < 0.5 else {},
        quantities=(
            Quantity("impressions", "count", rate(5, 20), None, response(0.3), {}, Season(0.05, 21.0), 0.05),
            Quantity("clicks", "part", rate(0.05, 0.4), "impressions", response(0.2), {}, Season(0.055, 7.0), 0.02),
            Quantity(
                name="watch_s",
                law="amount",
                of="clicks",
                rate=rate(5.0, 40.0),
                response=response(1.0, peaked=True),
                tilts={"new": response(0.5)} if segments else {},
                season=Season(0.04, 22.0),
                spread=0.05,
                cv=rate(0.8, 2.5),
                tail="lognormal" if rng.random() < 0.3 else "gamma",
            ),
            Quantity("likes", "part", rate(0.02, 0.15), "clicks", response(1.0, peaked=True), spread=0.05),
            Quantity("reports", "part", rate(0.004, 0.02), "impressions", response(0.8), spread=0.05),
        ),
        metrics=tuple(_METRICS.values()),
        objective={"watch": 1.0} if rng.random() < 0.6 else {"watch": 1.0, "likes": rate(0.2, 0.6)},
        guardrails=(),
        segments=segments,
        events_per_hour=float(np.exp(rng.uniform(np.log(20_000.0), np.log(150_000.0)))),
    )


def _weight(name: str, rng: np.random.Generator) -> Weight:
    low, high = ((0.1, 10.0), (-1.0, 1.0), (-20.0, 0.0))[rng.choice(3)]
    at = rng.uniform(0.15, 0.85)
    if low > 0:
        return Weight(name, low, high, low * (high / low) ** at, "log")
    return Weight(name, low, high, low + (high - low) * at)


def _response(
    names: tuple[str, ...], effects: Floats, bend: float, pairs: int, peaked: bool, rng: np.random.Generator
) -> Polynomial:
    """Each weight's line, bend (downwards where `peaked`) and now and then a cubic term; and so many interactions."""
    terms: Polynomial = {}
    for name, effect in zip(names, effects, strict=True):
        line, curve, third = effect * rng.normal(0.0, (2.0, 2.0 * bend, bend))
        terms[(name,)] = float(line)
        terms[(name, name)] = float(-abs(curve) if peaked else curve)
        if rng.random() < 0.3:
            terms[(name, name, name)] = float(third)
    for _ in range(pairs):
        a, b = sorted(rng.choice(len(names), 2, replace=False))
        terms[(names[a], names[b])] = float(1.4 * np.sqrt(effects[a] * effects[b]) * rng.normal())
    return terms


def _railed(world: World, rng: np.random.Generator) -> World:
    """The world with one guardrail to four, on metrics that are not aimed at; metrics without a use are left out."""
    able = [name for name in SMALLEST if name not in world.objective]
    guarded = [able[i] for i in rng.permutation(len(able))[: rng.integers(1, len(able) + 1)]]
    free = best_feasible(world, constrained=False).change
    turned = {_METRICS[name].numerator for name in guarded if free[name] * _worse(name) < 0 and rng.random() < PAYS}
    world = msgspec.structs.replace(
        world,
        quantities=tuple(
            msgspec.structs.replace(q, response={k: -c for k, c in q.response.items()}) if q.name in turned else q
            for q in world.quantities
        ),
    )
    paid = best_feasible(world, constrained=False).change
    change = true_change(world, Space(world.weights).to_theta(rng.random((VECTORS, len(world.weights)))))
    usual = dict(zip(_METRICS, np.sqrt((change**2).mean(axis=0)), strict=True))
    guardrails = []
    for name in guarded:
        cost = paid[name] * _worse(name)
        limit = round(max(rng.uniform(*ALLOWED) * float(cost if cost > 0 else usual[name]), SMALLEST[name]), 4)
        guardrails.append(Guardrail(name, max_change=limit) if _worse(name) > 0 else Guardrail(name, min_change=-limit))
    used = tuple(metric for name, metric in _METRICS.items() if name in world.objective or name in guarded)
    return msgspec.structs.replace(world, metrics=used, guardrails=tuple(guardrails))


def _worse(metric: str) -> int:
    """The sign of a change for the worse."""
    return 1 if metric == "report_rate" else -1
