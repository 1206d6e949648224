"""Generated worlds: feeds of so many weights whose gain has one peak, some of it beyond the guardrails' reach."""

import msgspec
import numpy as np

from controller.core.estimate import Metric
from controller.core.safety import Guardrail
from controller.core.space import Weight
from simulators.worlds import Polynomial, Quantity, Season, Tail, World


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What tells one generated world from another; see `generated`."""

    d: int
    seed: int
    peak: float = 0.25  # distance of the gain's peak from the baseline in every coordinate that matters
    height: float = 0.10  # log gain at the peak
    active: int = 6  # coordinates that matter most; the others have a tenth of their effect
    ctr: float = -0.01  # guardrail: smallest relative change
    reports: float = 0.08  # guardrail: largest relative change
    pull: float = 0.03  # log change of clicks at the peak (negative), whose limit is `ctr`
    push: float = 0.12  # log change of reports at the peak, whose limit is `reports`
    reported: float = 0.012  # of impressions
    events_per_hour: float = 60_000.0
    baseline: float = 0.5  # in the unit cube
    cv: float = 1.0  # of one watch
    tail: Tail = "gamma"  # of one watch


SHAPES: dict[str, tuple[str, Shape]] = {
    "three": ("3 weights, the optimum inside the guardrails", Shape(d=3, seed=3, active=3, pull=0.004, push=0.03)),
    "eight": ("8 weights, the optimum on a guardrail", Shape(d=8, seed=8)),
    "twelve": ("12 weights, half of which hardly matter", Shape(d=12, seed=12, height=0.14)),
    "twenty": ("20 weights, most of which hardly matter", Shape(d=20, seed=20, active=8, height=0.16)),
    "tight": (
        "5 weights, guardrails about as small as the noise",
        Shape(d=5, seed=5, active=4, ctr=-0.0015, reports=0.01),
    ),
    "narrow": (
        "6 weights, guardrails of five standard errors",
        Shape(d=6, seed=16, ctr=-0.003, reports=0.018, pull=0.009, push=0.04),
    ),
    "edge": ("4 weights, a baseline near the edge of the cube", Shape(d=4, seed=4, active=4, baseline=0.12)),
    "small": ("4 weights, 2 % to be gained", Shape(d=4, seed=34, active=4, height=0.032, pull=0.012, push=0.08)),
    "drift": ("6 weights, whose effects swing by a third a day while the peak wanders", Shape(d=6, seed=6)),
    "late": ("5 weights, watch time arrives hours late, the long watches last", Shape(d=5, seed=15, active=5)),
    "heavy": ("4 weights, a heavy tail of watch time", Shape(d=4, seed=14, active=4, cv=6.0, tail="lognormal")),
    "rare": (
        "4 weights, one report in 25,000 impressions",
        Shape(d=4, seed=54, active=4, reports=0.2, push=0.5, reported=0.00004),
    ),
    "badhour": ("4 weights, two hours in which everything goes wild", Shape(d=4, seed=24, active=4)),
}


def generated(name: str, summary: str, shape: Shape) -> World:
    """A feed of so many weights whose gain has one peak, beyond some guardrails' reach.

    With x = u - baseline and a peak at x*, log watch per click is height (1 - sum w (x - x*)^2 / sum w x*^2) shifted
    to 0 at the baseline, plus one interaction for each neighbouring pair; clicks and reports are linear with a bend.
    """
    rng = np.random.default_rng(shape.seed)
    names = tuple(f"w{i}" for i in range(shape.d))
    matter = np.where(np.arange(shape.d) < shape.active, 1.0, 0.1) * rng.uniform(0.6, 1.4, shape.d)
    sign = np.where(rng.random(shape.d) < 0.5, -1.0, 1.0) if shape.baseline >= 0.3 else np.ones(shape.d)
    star = sign * shape.peak * rng.uniform(0.6, 1.3, shape.d)
    bend = shape.height * matter / (matter @ star**2)
    watch: Polynomial = {}
    for i, weight in enumerate(names):
        watch[(weight,)] = float(2 * bend[i] * star[i])
        watch[(weight, weight)] = float(-bend[i])
    for i in range(0, shape.active - 1, 2):
        watch[(names[i], names[i + 1])] = float(0.4 * np.sqrt(bend[i] * bend[i + 1]) * rng.uniform(-1, 1))
    return World(
        name=name,
        summary=summary,
        weights=tuple(_weight(weight, i, shape.baseline) for i, weight in enumerate(names)),
        quantities=(
            Quantity(name="impressions", law="count", rate=10.0, season=Season(0.05, 21.0), spread=0.05),
            Quantity(
                name="clicks",
                law="part",
                of="impressions",
                rate=0.386,
                response=_towards(names, star, matter, -shape.pull, rng),
                season=Season(0.055, 7.0),
                spread=0.01,
            ),
            Quantity(
                name="watch_s",
                law="amount",
                of="clicks",
                rate=9.0,
                response=watch,
                season=Season(0.04, 22.0),
                spread=0.05,
                cv=shape.cv,
                tail=shape.tail,
            ),
            Quantity(
                name="reports",
                law="part",
                of="impressions",
                rate=shape.reported,
                response=_towards(names, star, matter, shape.push, rng),
                season=Season(0.06, 2.0),
                spread=0.05,
            ),
        ),
        metrics=(
            Metric("watch", "watch_s", "buckets"),
            Metric("ctr", "clicks", "impressions"),
            Metric("report_rate", "reports", "impressions"),
        ),
        objective={"watch": 1.0},
        guardrails=(
            Guardrail("ctr", min_change=shape.ctr),
            Guardrail("report_rate", max_change=shape.reports),
        ),
        events_per_hour=shape.events_per_hour,
    )


def _weight(name: str, i: int, baseline: float) -> Weight:
    """Every other weight is log-scaled, from 0.1 to 10."""
    if i % 2:
        return Weight(name, 0.1, 10.0, float(0.1 * 100.0**baseline), "log")
    return Weight(name, -1.0, 1.0, 2.0 * baseline - 1.0, "linear")


def _towards(
    names: tuple[str, ...], star: np.ndarray, matter: np.ndarray, total: float, rng: np.random.Generator
) -> Polynomial:
    """A response that is about `total` at the peak: linear, with shares of its own, and a bend of a quarter."""
    share = matter * rng.uniform(0.2, 1.8, len(names))
    share /= share.sum()
    terms: Polynomial = {(n,): float(0.75 * total * s / x) for n, s, x in zip(names, share, star, strict=True)}
    terms |= {(n, n): float(0.25 * total * s / x**2) for n, s, x in zip(names, share, star, strict=True)}
    return terms


_BEYOND = generated(
    "corner",
    "4 weights, 3 guardrails, the optimum at the edge of the cube",
    Shape(d=4, seed=44, active=4, peak=0.7, pull=0.004, push=0.03),
)
CORNER = msgspec.structs.replace(
    _BEYOND,
    quantities=(
        msgspec.structs.replace(_BEYOND.quantities[0], response={("w0",): -0.01, ("w1",): 0.01}),
        *_BEYOND.quantities[1:],
    ),
    metrics=(*_BEYOND.metrics, Metric("impressions", "impressions", "buckets")),
    guardrails=(*_BEYOND.guardrails, Guardrail("impressions", min_change=-0.02)),
)
