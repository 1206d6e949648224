"""The sums of deals and trials, and what they say."""

import msgspec
import numpy as np
import pytest

from controller.core.control import carrying, issue
from controller.core.evidence import deal_sums, fold, live_evidence
from controller.core.windows import Cell
from tests.core.loop import HOUR, PLAN, START, same
from tests.core.test_control import SHAPE, THETA, begun, cell, deal


def test_a_deal_s_sums_are_those_of_all_its_versions_and_windows() -> None:
    control, _ = issue(PLAN, begun(), deal(2), START)
    control, _ = issue(PLAN, control, deal(2), START)
    control = fold(PLAN, control, START + HOUR, {2: cell(1), 3: cell(2)})
    control = fold(PLAN, control, START + 2 * HOUR, {3: cell(4)})
    unsealed = {(START + 3 * HOUR, 3): cell(8), (START + 3 * HOUR, 1): cell(99), (START + 3 * HOUR, 77): cell(99)}
    total = deal_sums(control, unsealed, 2)
    assert total is not None
    assert (total.sums == 15_000_000).all()
    assert (total.events == 4).all()
    assert deal_sums(control, {}, 9) is None
    assert control.carry.sealed_through_ms == START + 2 * HOUR


def test_sums_that_could_wrap_count_half() -> None:
    """Each window alone is within its limit; a deal that is held has ever more of them."""
    control, _ = issue(PLAN, begun(), deal(2), START)
    sums = np.full(SHAPE, 2**50)
    sums[0, :, 0] = 2**60
    sums[0, 0, 1] = -(2**61)
    for hour in range(8):
        control = fold(PLAN, control, START + (hour + 1) * HOUR, {2: Cell(sums, np.ones(SHAPE[:2], np.int64))})
    total = deal_sums(control, {(START + 9 * HOUR, 2): Cell(sums, np.ones(SHAPE[:2], np.int64))}, 2)
    assert total is not None
    assert (total.sums[0, :, 0] > 2**60).all()
    assert -(2**62) <= total.sums[0, 0, 1] < -(2**60)
    assert (total.sums[0, :, 0] == 2**10 * total.sums[0, :, 2]).all()
    assert (total.events == 9).all()


def test_a_deal_s_hour_is_when_its_events_were() -> None:
    control, _ = issue(PLAN, begun(), deal(2), START)
    control = fold(PLAN, control, START + HOUR, {2: cell(1, events=30)})
    (evidence,) = live_evidence(PLAN, control, {(START + 2 * HOUR, 2): cell(1, events=10)})
    assert evidence.hour == pytest.approx(0.75 * 0.5 + 0.25 * 1.5, abs=1e-6)
    assert evidence.thetas == (THETA,)
    # A stray event of a client with an old table does not move it.
    (stray,) = live_evidence(
        PLAN, control, {(START + 5 * HOUR, 2): Cell(cell().sums, np.eye(1, PLAN.buckets, dtype=np.int64))}
    )
    assert stray.hour == pytest.approx(0.5, abs=0.01)


def test_deals_without_vectors_or_events_are_no_evidence() -> None:
    control = begun()
    assert live_evidence(PLAN, control, {(START + HOUR, 1): cell()}) == ()
    control, _ = issue(PLAN, control, deal(2), START)
    assert live_evidence(PLAN, control, {}) == ()


def test_a_deal_ends_when_no_client_can_serve_it_any_more() -> None:
    control, _ = issue(PLAN, begun(), deal(2), START)
    control = fold(PLAN, control, START + HOUR, {2: cell()})
    control, _ = issue(PLAN, control, deal(3), START + HOUR)
    last = START + HOUR + PLAN.window.validity_ms
    for end in range(START + 2 * HOUR, last, HOUR):
        control = fold(PLAN, control, end, {3: cell()})
        assert set(control.versions) >= {2, 3}
        assert 2 in control.totals
    assert control.evidence == ()
    before = live_evidence(PLAN, control, {})[0]
    control = fold(PLAN, control, last, {3: cell()})
    assert set(control.deals) == set(control.totals) == set(control.moments) == {3}
    assert set(control.versions) == {3}
    assert control.replaced_ms == {}
    assert same(control.evidence, (before,))


def test_a_table_that_is_still_published_never_ends() -> None:
    control, _ = issue(PLAN, begun(), deal(2), START)
    control = fold(PLAN, control, START + 500 * HOUR, {2: cell()})
    assert 2 in control.deals


def test_old_evidence_gives_way() -> None:
    control = begun()
    for k in range(2, 200):
        at = START + k * HOUR
        control, _ = issue(PLAN, control, deal(k), at)
        control = fold(PLAN, control, at + HOUR, {control.carry.version: cell()})
    assert len(control.evidence) == 168
    assert control.evidence[-1].deal > control.evidence[0].deal


def test_the_sample_ends_where_the_claim_does() -> None:
    """However many windows are sealed at once, and whatever comes after."""
    control, _ = issue(PLAN, begun(), deal(2, "confirm"), START)
    control = carrying(control, stage="confirm")
    trial = msgspec.structs.replace(control.deals[2], trial=2)
    control = msgspec.structs.replace(control, trial=trial, deals={**control.deals, 2: trial})
    control = fold(PLAN, control, START + HOUR, {2: cell(1)})
    control = carrying(control, claim_through_ms=START + 3 * HOUR)
    control = fold(PLAN, control, START + 2 * HOUR, {2: cell(2)})
    assert control.sample is None
    exact = fold(PLAN, control, START + 3 * HOUR, {2: cell(4)})
    for _ in range(2):
        assert exact.sample is not None
        assert (exact.sample.sums == 7_000_000).all()
        exact = fold(PLAN, exact, START + 4 * HOUR, {2: cell(8)})
    skipped = fold(PLAN, control, START + 4 * HOUR, {2: cell(8)})
    assert skipped.sample is not None
    assert (skipped.sample.sums == 3_000_000).all()
