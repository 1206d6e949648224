"""What is timed are the feed's own events; a peer that is not there is said to be so."""

import msgspec
import pytest

from benchmarks import simulators
from simulators.feed.crowd import feed_population
from simulators.feed.shipped import SHORTVIDEO

FEW = msgspec.structs.replace(SHORTVIDEO, events_per_hour=2_000.0)


def test_impressions_are_those_of_the_events() -> None:
    people = feed_population(FEW, 0, simulators.SALT)
    (found,) = simulators._feed(FEW, people, 2)
    assert found.impressions > 10_000
    assert found.per_s is not None
    assert found.per_s > 0
    scaling = simulators._scaling(FEW, people, 2)
    assert scaling["same"]


def test_a_peer_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulators, "find_spec", lambda name: None)
    for found in (simulators._sardine(), simulators._obp()):
        assert found.per_s is None
        assert "not installed; pip install" in found.what
    assert simulators._table([simulators._sardine()]).row_count == 1
