"""Two worlds made by hand: an optimum in the corner of two of four guardrails, and a gain that is a trap."""

from controller.core.estimate import Metric
from controller.core.safety import Guardrail
from controller.core.space import Weight
from simulators.worlds import Polynomial, Quantity, Season, World

_WEIGHTS = (
    Weight("w0", 0.2, 5.0, 1.0, "log"),
    Weight("w1", -1.0, 1.0, 0.0, "linear"),
    Weight("w2", 0.1, 10.0, 1.0, "log"),
    Weight("w3", -2.0, 2.0, 0.0, "linear"),
    Weight("w4", 0.2, 5.0, 1.0, "log"),
    Weight("w5", -1.0, 1.0, 0.0, "linear"),
)

RAILS = World(
    name="rails",
    summary="6 weights, 4 guardrails, the optimum where two of them meet",
    weights=_WEIGHTS,
    visits={("w3",): 0.02, ("w0",): -0.01},
    quantities=(
        Quantity(
            name="impressions",
            law="count",
            rate=10.0,
            response={("w4",): 0.03, ("w1",): -0.06, ("w1", "w1"): -0.04},
            season=Season(0.05, 21.0),
            spread=0.05,
        ),
        Quantity(
            name="clicks",
            law="part",
            of="impressions",
            rate=0.386,
            response={("w0",): -0.07, ("w0", "w0"): -0.05, ("w1",): -0.02, ("w2",): 0.02, ("w5",): -0.05},
            season=Season(0.055, 7.0),
            spread=0.01,
        ),
        Quantity(
            name="watch_s",
            law="amount",
            of="clicks",
            rate=9.0,
            response={
                ("w0",): 0.34,
                ("w0", "w0"): -0.45,
                ("w1",): 0.20,
                ("w1", "w1"): -0.40,
                ("w2",): -0.16,
                ("w2", "w2"): -0.36,
                ("w3",): 0.10,
                ("w3", "w3"): -0.30,
                ("w4", "w4"): -0.20,
                ("w5", "w5"): -0.20,
                ("w0", "w1"): 0.10,
            },
            season=Season(0.04, 22.0),
            spread=0.05,
            cv=1.2,
        ),
        Quantity(
            name="shares",
            law="part",
            of="clicks",
            rate=0.06,
            response={("w0",): -0.10, ("w2",): -0.20, ("w2", "w2"): -0.2, ("w4",): 0.12, ("w5",): -0.10},
            season=Season(0.08, 12.0),
            spread=0.05,
        ),
        Quantity(
            name="reports",
            law="part",
            of="impressions",
            rate=0.015,
            response={("w1",): 0.30, ("w1", "w1"): 0.20, ("w0",): 0.12, ("w3",): 0.10, ("w5",): -0.15},
            season=Season(0.06, 2.0),
            spread=0.05,
        ),
    ),
    metrics=(
        Metric("watch", "watch_s", "buckets"),
        Metric("ctr", "clicks", "impressions"),
        Metric("report_rate", "reports", "impressions"),
        Metric("shares", "shares", "buckets"),
        Metric("impressions", "impressions", "buckets"),
    ),
    objective={"watch": 1.0},
    guardrails=(
        Guardrail("ctr", min_change=-0.008),
        Guardrail("report_rate", max_change=0.04),
        Guardrail("shares", min_change=-0.03),
        Guardrail("impressions", min_change=-0.03),
    ),
    events_per_hour=120_000.0,
)

# What raises clicks by 1 % costs 3 % of the people who come back: a sixth of a percent is all there is to gain, less
# than the noise of clicks per bucket lets anyone see.
_LURE: Polynomial = {("w0",): 0.20, ("w1",): 0.12, ("w2",): -0.10, ("w3",): 0.06}
TRAP = World(
    name="trap",
    summary="4 weights, clicks up and retention down: nothing to promote",
    weights=_WEIGHTS[:4],
    quantities=(
        Quantity(name="sessions", law="count", rate=1.0),
        Quantity(name="impressions", law="count", rate=10.0, season=Season(0.05, 21.0), spread=0.05),
        Quantity(
            name="clicks",
            law="part",
            of="impressions",
            rate=0.3,
            response=_LURE,
            season=Season(0.055, 7.0),
            spread=0.01,
        ),
        Quantity(
            name="returned",
            law="part",
            of="sessions",
            rate=0.5,
            response={key: -3.0 * value for key, value in _LURE.items()},
            spread=0.01,
        ),
    ),
    metrics=(
        Metric("clicks", "clicks", "buckets"),
        Metric("ctr", "clicks", "impressions"),
        Metric("returns", "returned", "sessions"),
    ),
    objective={"clicks": 1.0},
    guardrails=(Guardrail("returns", min_change=-0.005),),
    events_per_hour=120_000.0,
)
