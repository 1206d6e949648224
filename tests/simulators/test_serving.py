"""The simulated product serves by the rules of the real client."""

import fakeredis
import numpy as np
import pytest

from controller.assignment import ALL, CONTROL, Arm, Assignment, UnitHash, encode, key
from controller.serving import Client, Coded
from simulators.events import population
from simulators.handmade import TENURE
from simulators.serving import served
from simulators.worlds import weights_of

NAMES = tuple(weight.name for weight in TENURE.weights)
BASELINE = {weight.name: weight.baseline for weight in TENURE.weights}
EXPLORE = Arm("e1", "explore", {ALL: (1.0, 2.0, -3.0), "new": (1.0, 0.3, -4.0)})


def table(weights: tuple[str, ...] = NAMES, valid_until_ms: int | None = 1_000) -> Assignment:
    chosen = [NAMES.index(name) for name in weights]
    explore = {segment: tuple(theta[i] for i in chosen) for segment, theta in EXPLORE.theta.items()}
    control = tuple(BASELINE[name] for name in weights)
    return Assignment(
        study="tenure", version=1_000_002, epoch=1, stage="hold", published_ms=0, decided_through_ms=0,
        valid_until_ms=valid_until_ms, unit_hash=UnitHash("tenure:", TENURE.buckets), form="linear", weights=weights,
        fallback="e1", arms=(Arm(CONTROL, "control", {ALL: control}), Arm("e1", "promoted", explore)),
        buckets=tuple(b % 2 for b in range(TENURE.buckets)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("published", "now_ms"),
    [(None, 0), (table(), 999), (table(), 1_000), (table(), 1_001), (table(valid_until_ms=None), 10**15),
     (table(NAMES[::-1]), 5), (table(NAMES[:2]), 5)],
    ids=["no table", "valid", "last moment", "expired", "without end", "other order", "fewer weights"],
)  # fmt: skip
def test_every_unit_is_served_as_the_client_serves_it(published: Assignment | None, now_ms: int) -> None:
    store = fakeredis.FakeRedis()
    if published is not None:
        store.set(key("tenure"), encode(published))
    people = population(TENURE, 0, "tenure:")
    mine = served(TENURE, published, now_ms)
    with Client("tenure", store, BASELINE) as client:
        assert published is None or client.wait(0, 5.0)
        theirs = client.assign_many(people.names, Coded(people.segment, list(TENURE.segments)), now_ms)
    assert theirs.version == mine.version
    arm = mine.arm_of[people.bucket]
    assert np.array_equal(np.array(theirs.arms)[theirs.arm], np.array(mine.names)[arm])
    for i, segment in enumerate(TENURE.segments):
        rows = people.segment == i
        weights = np.array([weights_of(theta, segment) for theta in mine.theta])
        assert np.array_equal(theirs.unit_weights()[rows], weights[arm[rows]])
