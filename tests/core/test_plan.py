import msgspec
import pytest

from controller.core.plan import Plan, digest
from tests.core.loop import HOUR, PLAN, varied


def test_a_plan_survives_json() -> None:
    """The ledger holds it so, and `verify` decides by what it reads."""
    text = msgspec.json.encode(msgspec.to_builtins(PLAN), order="sorted")
    back = msgspec.convert(msgspec.json.decode(text), Plan)
    assert back == PLAN
    assert digest(back) == digest(PLAN)


@pytest.mark.parametrize(
    "other",
    [
        varied(seed=8),
        varied(objective={"watch": 1.0, "ctr": 0.5}),
        varied(guardrails=()),
        varied(rollout={"confirm_ms": 4 * HOUR}),
        varied(safety={"risk": 0.1}),
        varied(weights=PLAN.weights[::-1]),
    ],
)
def test_any_other_plan_has_another_digest(other: Plan) -> None:
    assert digest(other) != digest(PLAN)


def test_the_order_of_the_objective_does_not_matter() -> None:
    one, two = ({"watch": 1.0, "ctr": 0.5}, {"ctr": 0.5, "watch": 1.0})
    assert digest(varied(objective=one)) == digest(varied(objective=two))


def test_the_decoder_gets_its_part() -> None:
    events = varied(segments=("new", "old")).events
    assert (events.components, events.segments) == (PLAN.components, ("new", "old"))
    assert (events.salt, events.buckets) == ("hand:", 120)


@pytest.mark.parametrize(
    ("minutes", "arms", "segments", "hours", "windows"),
    [
        (60, 8, (), 36, 1),  # by default: 288 changes in the time to explore
        (10, 8, (), 36, 3),  # 1,728 are three times what the belief holds
        (10, 8, (), 6, 1),
        (60, 16, ("a", "b", "c"), 36, 3),
        (60, 16, (), 36, 1),
        (60, 17, (), 36, 2),  # 612 changes
        (60, 16, (), 1000, 1),  # what is older than 36 hours has faded
    ],
)
def test_vectors_stay_for_so_long_that_the_belief_holds_what_exploring_shows(
    minutes: int, arms: int, segments: tuple[str, ...], hours: int, windows: int
) -> None:
    length = {"length_ms": minutes * 60_000}
    rollout = {"explore_max_ms": hours * HOUR}
    plan = varied(window=length, traffic={"explore_arms": arms}, segments=segments, rollout=rollout)
    assert plan.stay_windows == windows
