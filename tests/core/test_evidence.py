"""The sums of deals and trials, and what they say."""

import msgspec
import numpy as np
import pytest

from controller.core import evidence
from controller.core.evidence import (
    deal_sums,
    fold,
    live_evidence,
    measured_changes,
    remembered,
    traffic,
    watched,
)
from controller.core.experiment import Experiment, carrying, issue
from controller.core.late import AGES, Late
from controller.core.parts import measured
from controller.core.plan import MAX_ROWS
from controller.core.windows import Cell
from tests.core.loop import HOUR, PLAN, START, same, varied
from tests.core.test_experiment import SHAPE, THETA, begun, cell, deal


def test_a_deal_s_sums_are_those_of_all_its_versions_and_windows() -> None:
    experiment, _ = issue(PLAN, begun(), deal(2), START)
    experiment, _ = issue(PLAN, experiment, deal(2), START)
    experiment = fold(PLAN, experiment, START + HOUR, {2: cell(1), 3: cell(2)})
    experiment = fold(PLAN, experiment, START + 2 * HOUR, {3: cell(4)})
    unsealed = {(START + 3 * HOUR, 3): cell(8), (START + 3 * HOUR, 1): cell(99), (START + 3 * HOUR, 77): cell(99)}
    total = deal_sums(experiment, unsealed, 2)
    assert total is not None
    assert (total.sums == 15_000_000).all()
    assert (total.events == 4).all()
    assert deal_sums(experiment, {}, 9) is None
    assert experiment.carry.sealed_through_ms == START + 2 * HOUR


def test_sums_that_could_wrap_count_half() -> None:
    """Each window alone is within its limit; a deal that is held has ever more of them."""
    experiment, _ = issue(PLAN, begun(), deal(2), START)
    sums = np.full(SHAPE, 2**50)
    sums[0, :, 0] = 2**60
    sums[0, 0, 1] = -(2**61)
    for hour in range(8):
        experiment = fold(PLAN, experiment, START + (hour + 1) * HOUR, {2: Cell(sums, np.ones(SHAPE[:2], np.int64))})
    total = deal_sums(experiment, {(START + 9 * HOUR, 2): Cell(sums, np.ones(SHAPE[:2], np.int64))}, 2)
    assert total is not None
    assert (total.sums[0, :, 0] > 2**60).all()
    assert -(2**62) <= total.sums[0, 0, 1] < -(2**60)
    assert (total.sums[0, :, 0] == 2**10 * total.sums[0, :, 2]).all()
    assert (total.events == 9).all()


def test_a_deal_s_hour_is_when_its_events_were() -> None:
    experiment, _ = issue(PLAN, begun(), deal(2), START)
    (open_,) = live_evidence(PLAN, experiment, {(START + HOUR, 2): cell(1)})
    assert open_.hour == pytest.approx(0.5, abs=1e-6)
    experiment = fold(PLAN, experiment, START + HOUR, {2: cell(1, events=30)})
    (evidence,) = live_evidence(PLAN, experiment, {(START + 2 * HOUR, 2): cell(1, events=10)})
    assert evidence.hour == pytest.approx(0.75 * 0.5 + 0.25 * 1.5, abs=1e-6)
    assert evidence.thetas == (THETA,)
    # A stray event of a client with an old table does not move it.
    (stray,) = live_evidence(
        PLAN, experiment, {(START + 5 * HOUR, 2): Cell(cell().sums, np.eye(1, PLAN.buckets, dtype=np.int64))}
    )
    assert stray.hour == pytest.approx(0.5, abs=0.01)


def test_deals_without_vectors_or_events_are_no_evidence() -> None:
    experiment = begun()
    assert live_evidence(PLAN, experiment, {(START + HOUR, 1): cell()}) == ()
    experiment, _ = issue(PLAN, experiment, deal(2), START)
    assert live_evidence(PLAN, experiment, {}) == ()
    assert live_evidence(PLAN, experiment, {(START + HOUR, 2): cell(0, events=0)}) == ()  # all of them overflowed


def test_a_deal_ends_when_no_client_can_serve_it_any_more() -> None:
    experiment, _ = issue(PLAN, begun(), deal(2), START)
    experiment = fold(PLAN, experiment, START + HOUR, {2: cell()})
    experiment, _ = issue(PLAN, experiment, deal(3), START + HOUR)
    last = START + HOUR + PLAN.window.validity_ms
    for end in range(START + 2 * HOUR, last, HOUR):
        experiment = fold(PLAN, experiment, end, {3: cell()})
        assert set(experiment.versions) >= {2, 3}
        assert 2 in experiment.totals
    assert experiment.evidence == ()
    before = live_evidence(PLAN, experiment, {})[0]
    experiment = fold(PLAN, experiment, last, {3: cell()})
    assert set(experiment.deals) == set(experiment.totals) == set(experiment.moments) == {3}
    assert set(experiment.versions) == {3}
    assert experiment.replaced_ms == {}
    assert same(experiment.evidence, (before,))


def test_a_table_that_is_still_published_never_ends() -> None:
    experiment, _ = issue(PLAN, begun(), deal(2), START)
    experiment = fold(PLAN, experiment, START + 500 * HOUR, {2: cell()})
    assert 2 in experiment.deals


def test_old_evidence_gives_way() -> None:
    experiment = begun()
    for k in range(2, 200):
        at = START + k * HOUR
        experiment, _ = issue(PLAN, experiment, deal(k), at)
        experiment = fold(PLAN, experiment, at + HOUR, {experiment.carry.version: cell()})
    assert len(experiment.evidence) == 168
    assert experiment.evidence[-1].deal > experiment.evidence[0].deal


def test_old_evidence_of_many_arms_gives_way_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = begun()
    sizes = []
    for k in range(2, 30):
        at = START + k * HOUR
        experiment, _ = issue(PLAN, experiment, deal(k), at)
        experiment = fold(PLAN, experiment, at + HOUR, {experiment.carry.version: cell()})
        if len(experiment.evidence) == 3:
            one = experiment.evidence[0].changes.covariance.size
            monkeypatch.setattr(evidence, "MAX_NUMBERS", 5 * one + 1)
        sizes.append(len(experiment.evidence))
    assert max(sizes) == sizes[-1] == 5
    assert [e.deal for e in experiment.evidence] == sorted(e.deal for e in experiment.evidence)
    monkeypatch.setattr(evidence, "MAX_NUMBERS", 1)
    experiment, _ = issue(PLAN, experiment, deal(30), START + 30 * HOUR)
    experiment = fold(PLAN, experiment, START + 31 * HOUR, {experiment.carry.version: cell()})
    assert len(experiment.evidence) == 1  # the newest, however large


def test_what_the_belief_can_take_is_always_held() -> None:
    """Also of the largest deals that a study file can ask for, measured in 10 ways."""
    for arms, groups in ((8, 1), (600, 1), (60, 11), (1, 601)):
        rows = -(-MAX_ROWS // (arms * max(groups - 1, 1)))
        assert rows * 10 * groups * arms**2 <= evidence.MAX_NUMBERS


def test_of_an_ordinary_study_every_deal_of_a_week_is_held() -> None:
    for arms, groups in ((8, 1), (8, 11), (24, 6)):
        assert evidence.MAX_DEALS * 10 * groups * arms**2 <= evidence.MAX_NUMBERS


def test_the_sample_ends_where_the_claim_does() -> None:
    """However many windows are sealed at once, and whatever comes after."""
    experiment, _ = issue(PLAN, begun(), deal(2, "confirm"), START)
    experiment = carrying(experiment, stage="confirm")
    trial = msgspec.structs.replace(experiment.deals[2], trial=2)
    experiment = msgspec.structs.replace(experiment, trial=trial, deals={**experiment.deals, 2: trial})
    experiment = fold(PLAN, experiment, START + HOUR, {2: cell(1)})
    experiment = carrying(experiment, claim_through_ms=START + 3 * HOUR)
    experiment = fold(PLAN, experiment, START + 2 * HOUR, {2: cell(2)})
    assert experiment.sample is None
    exact = fold(PLAN, experiment, START + 3 * HOUR, {2: cell(4)})
    for _ in range(2):
        assert exact.sample is not None
        assert (exact.sample.sums == 7_000_000).all()
        exact = fold(PLAN, exact, START + 4 * HOUR, {2: cell(8)})
    skipped = fold(PLAN, experiment, START + 4 * HOUR, {2: cell(8)})
    assert skipped.sample is not None
    assert (skipped.sample.sums == 3_000_000).all()


def lucky(seed: int, events: int = 10) -> Cell:
    """Buckets that differ by some percent, of impressions, clicks and watch time."""
    luck = 1.0 + 0.05 * np.random.default_rng(seed).standard_normal(SHAPE)
    return Cell(np.rint(np.array([1000.0, 100.0, 5000.0]) * luck * 1e6).astype(np.int64), np.full(SHAPE[:2], events))


def half_shown(experiment: Experiment) -> Experiment:
    """A state that has seen half of every change come late, at all ages."""
    metrics = len(measured(PLAN.metrics))
    rows = np.array([100.0, 25.0, 50.0, 100.0, 0.0, 0.0, 0.0])[:, None, None] * np.ones((7, AGES, metrics))
    return msgspec.structs.replace(experiment, late=Late({}, np.full((AGES, metrics), 0.5), rows))


def test_sealed_sums_say_what_they_say_however_late_open_ones_are() -> None:
    experiment, _ = issue(PLAN, begun(), deal(2), START)
    experiment = half_shown(fold(PLAN, experiment, START + HOUR, {2: lucky(1)}))
    experiment = carrying(experiment, decided_through_ms=START + HOUR)
    (sealed,) = live_evidence(PLAN, experiment, {})
    assert same(sealed.changes, measured_changes(PLAN, experiment.deals[2], experiment.totals[2]))
    experiment, _ = issue(PLAN, begun(), deal(2), START)
    (open_,) = live_evidence(PLAN, half_shown(experiment), {(START + HOUR, 2): lucky(1)})
    assert open_.changes.change == pytest.approx(2.0 * sealed.changes.change, rel=0.01)


def test_a_window_teaches_of_the_deal_that_served_most_of_it() -> None:
    """A client with an old table still serves an event of the deal before."""
    experiment, _ = issue(PLAN, begun(), deal(2), START)
    experiment, _ = issue(PLAN, experiment, deal(3), START)
    once = np.eye(1, PLAN.buckets, dtype=np.int64)
    stray = Cell(once[..., None] * np.full(3, 10**6), once)
    for old, new in ((2, 3), (3, 2)):
        experiment = watched(PLAN, experiment, {(START + HOUR, old): stray, (START + HOUR, new): lucky(1)})
        (look,) = experiment.late.looks[START + HOUR]
        assert look.deal == new
        assert same(look.change, measured_changes(PLAN, experiment.deals[new], lucky(1)).change[:, 0])
        learnt = fold(PLAN, experiment, START + HOUR, {old: stray, new: lucky(2)}).late
        assert learnt.looks == {}
        assert (learnt.rows[0, 0] == 1.0).all(), "the deal's one arm"
        experiment = msgspec.structs.replace(experiment, late=msgspec.structs.replace(experiment.late, looks={}))


def test_where_there_are_more_decisions_than_ages_an_age_stands_for_several() -> None:
    for lateness, steps in ((24, 2), (25, 3), (12, 1), (2, 1)):
        plan = varied(window={"lateness_ms": lateness * HOUR})
        experiment = carrying(begun(), decided_through_ms=START + 99 * HOUR)
        ages = [evidence._age(plan, experiment, START + (99 - k) * HOUR) for k in range(lateness)]
        assert ages == [k // steps for k in range(lateness)]
        assert ages[-1] < AGES


def busy(volume: dict[int, int], hours: int = 1, now: int = 24) -> list[float]:
    """Shares of the coming day in its thirds, at an hour of the study; `volume` by the hour that a window ends at."""
    plan = msgspec.structs.replace(PLAN, window=msgspec.structs.replace(PLAN.window, length_ms=hours * HOUR))
    experiment = carrying(begun(), decided_through_ms=START + now * HOUR)
    ends = {START + hour * HOUR: events for hour, events in volume.items()}
    return list(traffic(plan, msgspec.structs.replace(experiment, volume=ends), 3))


def test_the_coming_day_is_as_busy_as_the_last_one() -> None:
    assert busy({h: 10 if h <= 8 else 20 if h <= 16 else 50 for h in range(1, 25)}) == pytest.approx(
        [1 / 8, 2 / 8, 5 / 8]
    )
    assert busy({h: 10 if h <= 16 else 40 for h in range(9, 33)}, now=32) == pytest.approx([1 / 9, 4 / 9, 4 / 9])
    assert busy({6: 60, 12: 120, 18: 180, 24: 240}, hours=6) == pytest.approx([100 / 600, 200 / 600, 300 / 600])


def test_hours_that_nothing_is_known_of_are_as_busy_as_the_others_are() -> None:
    assert busy({}) == busy({24: 0}) == [1 / 3] * 3
    assert busy(dict.fromkeys(range(1, 5), 30), now=4) == [1 / 3] * 3  # a young study
    outage = {h: 10 if h <= 8 else 30 for h in range(1, 25) if h not in range(9, 17)}
    assert busy(outage) == pytest.approx([1 / 6, 2 / 6, 3 / 6])


def test_the_traffic_of_the_last_day_is_known() -> None:
    experiment = begun()
    for hour in range(1, 31):
        experiment = remembered(experiment, START + hour * HOUR, [cell(events=hour), cell(events=1)])
    experiment = remembered(experiment, START + 31 * HOUR, [])  # an hour without events says nothing of the next day's
    known = {(end - START) // HOUR: events for end, events in experiment.volume.items()}
    assert known == {hour: (hour + 1) * PLAN.buckets for hour in range(7, 31)}
