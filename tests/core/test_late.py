"""Late data: what an open window will be found to have missed, learned from those that were sealed."""

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from controller.core import codec, late
from controller.core.checkpoint import changes as checkpointed
from controller.core.checkpoint import restore
from controller.core.estimate import BUCKETS, Changes, Metric
from controller.core.evidence import live_evidence
from controller.core.late import AGES, Late
from controller.core.replay import replay
from tests.core.loop import Loop, Row, journalled, same

SHOWN = np.array([0.4, 0.7, 0.9])  # of a change, at ages 0, 1, 2
ARRIVED = np.array([0.5, 0.8, 0.95])  # of the sums
ARMS = 8


def said(change: NDArray[np.float64], se: float) -> Changes:
    """One metric's changes (A-1,) without a shared error."""
    a = len(change)
    return Changes(
        change[None, None],
        se**2 * np.eye(a)[None, None],
        np.ones((1, 1)),
        np.full((1, 1), 0.01),
        np.full((1, a + 1), 40),
    )


def saying(changes: Changes) -> Callable[[], Changes]:
    return lambda: changes


def total(arrived: float) -> NDArray[np.float64]:
    return np.array([[1000.0 * arrived], [1.0]])


class World:
    """Windows whose changes show by and by; errors of the looks and of the end share what they share."""

    def __init__(
        self,
        seed: int,
        se: float = 0.01,
        shown: NDArray[np.float64] = SHOWN,
        arrived: NDArray[np.float64] = ARRIVED,
    ) -> None:
        self.rng, self.se, self.shown, self.arrived = np.random.default_rng(seed), se, shown, arrived

    def window(self) -> tuple[NDArray[np.float64], list[Changes], Changes]:
        truth = self.rng.normal(0.05, 0.06, ARMS)
        noise = self.se * self.rng.standard_normal(ARMS)
        final = said(truth + noise, self.se)
        looks = []
        for age, shown in enumerate(self.shown):
            se = self.se / np.sqrt(min(self.arrived[age], 1.0 / self.arrived[age]))
            more = np.sqrt(se**2 - self.se**2) * self.rng.standard_normal(ARMS)
            looks.append(said(shown * truth + noise + more, se))
        return truth, looks, final

    def taught(self, windows: int) -> Late:
        known = late.nothing(1)
        for k in range(windows):
            _, looks, final = self.window()
            for age, look in enumerate(looks):
                known = late.looked(known, k, k, age, total(self.arrived[age]), saying(look))
            known = late.sealed(known, k, k, total(1.0), saying(final))
        return known


@pytest.mark.parametrize(
    ("shown", "arrived"),
    [(SHOWN, ARRIVED), (np.array([1.4, 1.3, 1.1]), np.array([1.6, 1.4, 1.1]))],
    ids=["purchases", "refunds"],
)
def test_what_is_foretold_is_unbiased_and_its_intervals_cover(
    shown: NDArray[np.float64], arrived: NDArray[np.float64]
) -> None:
    """2,400 arm-looks an age, whose plain intervals would cover less than half of the first ones."""
    misses = np.zeros((3, 2))
    errors: list[list[float]] = [[], [], []]
    for seed in range(30):
        world = World(seed, shown=shown, arrived=arrived)
        known = world.taught(20)
        for _ in range(10):
            truth, looks, _ = world.window()
            for age, look in enumerate(looks):
                found = late.foretold(known, look, [(age, total(arrived[age]))])
                error = found.change[0, 0] - truth
                z = error / np.sqrt(np.diagonal(found.covariance[0, 0]))
                errors[age] += error.tolist()
                misses[age] += (z < -1.96).sum(), (z > 1.96).sum()
    misses /= len(errors[0])
    assert len(errors[0]) == 2400
    assert (np.abs([np.mean(e) for e in errors]) < 0.004).all()
    assert (misses.sum(axis=1) < 0.07).all()
    assert (misses.sum(axis=1) > 0.02).all()
    assert (misses < 0.045).all()


@pytest.mark.parametrize("windows", [3, 20])
def test_intervals_are_no_wider_than_errors_where_noise_is_as_large_as_changes(windows: int) -> None:
    """What a few windows of much noise cannot tell apart must not be counted twice, as spread and as error."""
    z = []
    for seed in range(40):
        world = World(seed, se=0.04)
        known = world.taught(windows)
        for _ in range(5):
            truth, looks, _ = world.window()
            found = late.foretold(known, looks[1], [(1, total(ARRIVED[1]))])
            z += ((found.change[0, 0] - truth) / np.sqrt(np.diagonal(found.covariance[0, 0]))).tolist()
    assert 0.93 <= np.mean(np.abs(z) < 1.96) <= 0.97
    assert 0.88 <= np.std(z) <= 1.08


@pytest.mark.parametrize(("windows", "shown"), [(3, np.ones(3)), (20, np.ones(3)), (3, SHOWN), (20, SHOWN)])
def test_a_window_says_something_also_where_noise_hides_all_changes(windows: int, shown: NDArray[np.float64]) -> None:
    """What cannot be told must not come out as nothing that shows, and intervals cover all the same."""
    z, mute = [], []
    for seed in range(40):
        world = World(seed, se=0.2, shown=shown)
        known = world.taught(windows)
        for _ in range(5):
            truth, looks, _ = world.window()
            found = late.foretold(known, looks[0], [(0, total(ARRIVED[0]))])
            mute.append(np.isnan(found.change).all())
            z += ((found.change[0, 0] - truth) / np.sqrt(np.diagonal(found.covariance[0, 0]))).tolist()
    assert np.mean(mute) < (0.05 if shown[0] == 1.0 else 0.15)
    assert 0.93 <= np.mean(np.abs(z)[np.isfinite(z)] < 1.96) <= 0.98


def lam(missing: float, rows: NDArray[np.float64]) -> float:
    expected = late._expected(Late({}, np.full((AGES, 1), missing), rows))
    assert expected is not None
    return float(expected[0][0, 0])


def test_what_little_is_to_come_changes_little() -> None:
    noise = np.array([100.0, 4.0, 3.0, 3.5, 4.4, 4.0, 4.0])[:, None, None] * np.ones((7, AGES, 1))
    assert lam(0.002, noise) == 1.0 - late.APART * 0.002


def test_where_changes_are_known_the_share_is_the_regression_with_its_prior() -> None:
    rows = np.array([100.0, 1.0, 1.2, 2.5, 0.3, 0.2, 0.2])[:, None, None] * np.ones((7, AGES, 1))
    prior = late.PRIOR_ROWS * late.PRIOR_CHANGE**2
    assert lam(0.5, rows) == pytest.approx((1.2 - 0.2 + prior) / (2.5 - 0.2 + prior))


def test_noise_that_look_and_end_share_says_nothing_of_what_is_to_come() -> None:
    found = []
    for noise in (0.0, 4.0):
        rows = np.array([100.0, 0.0, 0.0, 0.0, noise, noise, noise])[:, None, None] * np.ones((7, AGES, 1))
        expected = late._expected(Late({}, np.full((AGES, 1), 0.5), rows))
        assert expected is not None
        found.append([part[0, 0] for part in expected[:2]])
    assert found[0] == found[1]
    assert found[0][0] == 1.0
    assert found[0][1] > 0.0


def test_how_unsure_the_share_is_widens_changes_and_not_luck() -> None:
    known, look = World(5).taught(2), said(np.array([0.011, -0.009, 0.01, -0.01]), 0.01)
    one = late.foretold(known, look, [(0, total(0.5))])
    large = late.foretold(known, said(10.0 * look.change[0, 0], 0.01), [(0, total(0.5))])
    lam, tau, sd = (part[0, 0] for part in late._expected(known) or ())
    luck = (0.01**2 + tau**2) / lam**2
    assert sd / lam > 0.05
    assert np.diagonal(one.covariance[0, 0]) == pytest.approx(luck)
    assert np.diagonal(large.covariance[0, 0]) == pytest.approx(luck + (large.change[0, 0] * sd / lam) ** 2, rel=0.1)
    half = lam * np.sqrt(2.0 * luck) * np.array([1.0, -1.0, 1.0, 1.0])  # squares of which half is luck
    middle = late.foretold(known, said(half, 0.01), [(0, total(0.5))])
    assert np.diagonal(middle.covariance[0, 0]) == pytest.approx(luck + luck * (sd / lam) ** 2)


@pytest.mark.parametrize("now", [[10.0, 5.0], [5.0, 10.0], [8.0, 5.0], [-5.0, 20.0]])
def test_what_is_missing_is_that_of_numerator_or_denominator_whichever_lacks_more(now: list[float]) -> None:
    end = [-10.0 if now[0] < 0.0 else 10.0, 10.0]
    assert late._missing(np.array(now)[:, None], np.array(end)[:, None]) == pytest.approx([0.5])


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_the_square_of_changes_without_their_luck_is_that_of_the_truth(noise: float) -> None:
    """Changes of a size, half of them measured twice as well as the others; also of those that look large."""
    rng, count, size = np.random.default_rng(8), 100_000, 0.05
    variance = (noise * size) ** 2 * np.tile([1.0, 4.0], count // 2)
    truth = size * rng.standard_normal(count)
    change = truth + np.sqrt(variance) * rng.standard_normal(count)
    found = late._without_luck(change, variance)
    for half in (slice(0, None, 2), slice(1, None, 2)):
        assert found[half].mean() == pytest.approx(size**2, rel=0.05)
        large = np.abs(change[half]) > 2.0 * np.sqrt(variance[half] + size**2)
        assert found[half][large].mean() == pytest.approx((truth[half][large] ** 2).mean(), rel=0.05)


def test_without_late_data_nothing_is_touched() -> None:
    world, known = World(1), late.nothing(1)
    for k in range(5):
        _, _, final = world.window()
        for age in range(4):
            known = late.looked(known, k, k, age, total(1.0), saying(final))
        assert late.foretold(known, final, [(0, total(1.0))]) is final
        known = late.sealed(known, k, k, total(1.0), saying(final))
    assert late.foretold(known, final, [(0, total(1.0))]) is final


def test_the_changes_of_sums_that_stand_still_are_not_asked_for_again() -> None:
    known = late.looked(late.nothing(1), 1, 1, 0, total(1.0), lambda: said(np.zeros(2), 0.01))
    known = late.looked(known, 1, 1, 1, total(1.0), lambda: pytest.fail("asked"))
    assert [look.age for look in known.looks[1]] == [0, 1]
    assert late.sealed(known, 1, 1, total(1.0), lambda: pytest.fail("asked")).looks == {}


def test_before_any_window_is_sealed_a_change_is_widened_by_what_has_come_since() -> None:
    known, look = late.nothing(1), said(np.array([0.1, -0.05]), 0.01)
    known = late.looked(known, 1, 1, 0, total(0.5), lambda: look)
    assert late.foretold(known, look, [(0, total(0.5))]) is look, "nothing has come late yet"
    known = late.looked(known, 1, 1, 1, total(0.8), lambda: look)
    known = late.looked(known, 2, 2, 0, total(0.5), lambda: look)
    found = late.foretold(known, look, [(0, total(0.5))])
    assert found.change == pytest.approx(look.change)
    missing = 1 - (0.5 / 0.8) ** 2
    assert np.diagonal(found.covariance[0, 0]) == pytest.approx(0.01**2 + (late.PRIOR_SPREAD * missing) ** 2)


def test_a_sealed_window_says_what_it_says_and_half_of_it_is_half_late() -> None:
    known = World(2).taught(20)
    look = said(np.array([0.1, -0.05]), 0.01)
    whole = late.foretold(known, look, [(-1, total(1.0))])
    young = late.foretold(known, look, [(0, total(1.0))])
    both = late.foretold(known, look, [(-1, total(1.0)), (0, total(1.0))])
    assert same(whole, look)
    assert look.change[0, 0, 0] / both.change[0, 0, 0] == pytest.approx(0.5 + 0.5 * 0.1 / young.change[0, 0, 0])
    assert whole.covariance[0, 0, 0, 0] < both.covariance[0, 0, 0, 0] < young.covariance[0, 0, 0, 0]


def test_a_look_that_shows_next_to_nothing_says_nothing() -> None:
    known = World(3, shown=np.array([0.05, 0.7, 0.9])).taught(20)
    found = late.foretold(known, said(np.array([0.1]), 0.01), [(0, total(0.5))])
    assert np.isnan(found.change).all()


def test_what_never_changed_anything_teaches_nothing_wrong() -> None:
    """With no effect at all there is no slope to learn: a change stays, and its interval grows but little."""
    world = World(4, shown=np.ones(3))
    known = late.nothing(1)
    for k in range(20):
        final = said(0.01 * world.rng.standard_normal(ARMS), 0.01)
        known = late.looked(known, k, k, 0, total(0.5), saying(final))
        known = late.sealed(known, k, k, total(1.0), saying(final))
    found = late.foretold(known, said(np.array([0.01]), 0.01), [(0, total(0.5))])
    assert 0.005 < found.change[0, 0, 0] < 0.02
    assert 0.01 < np.sqrt(found.covariance[0, 0, 0, 0]) < 0.03


def test_another_deal_s_looks_are_not_compared_with_a_window_s_end() -> None:
    known = late.looked(late.nothing(1), 1, 7, 0, total(0.5), lambda: said(np.zeros(2), 0.01))
    known = late.sealed(known, 1, 8, total(1.0), lambda: said(np.zeros(3), 0.01))
    assert known.looks == {}
    assert not known.rows.any()


def test_totals_are_those_of_the_metrics() -> None:
    sums = np.arange(12, dtype=np.int64).reshape(2, 3, 2)
    metrics = (Metric("ctr", "clicks", "shown"), Metric("watch", "shown", BUCKETS))
    assert late.totals(metrics, ("clicks", "shown"), sums).tolist() == [[30.0, 36.0], [36.0, 1.0]]


def test_totals_of_what_was_held_for_long_do_not_wrap() -> None:
    sums = np.full((1, 1000, 1), 2**62, np.int64)
    assert late.totals((Metric("watch", "watch", BUCKETS),), ("watch",), sums)[0, 0] == 1000.0 * 2.0**62


def tardy(hours: int) -> Loop:
    """A study whose watch time comes half an hour late, the more of it the better an arm is."""
    loop = Loop()
    held: list[Row] = []
    for _ in range(hours):
        rows, coming = loop.rows(), []
        for row in rows:
            shown = min(1.0, 0.5 * (row.values[2] / 5000.0) ** -0.7)
            coming.append(row._replace(unit=row.unit + 10**6, values=(0.0, 0.0, row.values[2] * (1 - shown))))
            rows[len(coming) - 1] = row._replace(values=(*row.values[:2], row.values[2] * shown))
        loop.poll([*held, *rows])
        held = coming
        loop.poll([loop.settles()])
        loop.hour += 1
    return loop


def test_a_study_learns_it_carries_it_and_decides_the_same_again() -> None:
    loop = tardy(9)
    experiment = loop.state.experiment
    assert experiment.late.missing[0].tolist() == pytest.approx([0.5, 0.0], abs=0.05)
    assert set(experiment.late.looks) == {end for end, _ in loop.state.windows.cells}
    live = live_evidence(loop.plan, experiment, loop.state.windows.cells)
    plain = live_evidence(
        loop.plan, msgspec.structs.replace(experiment, late=late.nothing(2)), loop.state.windows.cells
    )
    newest, blind = live[-1].changes, plain[-1].changes
    assert (newest.covariance[0, 0].diagonal() > blind.covariance[0, 0].diagonal()).all()
    assert same(newest.change[1], blind.change[1]), "clicks are never late"
    assert {checked.outcome for checked in replay(journalled(loop.records))} == {"exact"}
    rows = checkpointed(None, loop.state)[0].put
    assert same(restore(dict(rows)).experiment.late, experiment.late)
    assert len(codec.encode(experiment.late)) < 20_000


def test_ages_are_bounded() -> None:
    known = late.nothing(1)
    for age in range(100):
        known = late.looked(known, 1, 1, age, total(age + 1.0), lambda: said(np.zeros(2), 0.01))
    assert len(known.looks[1]) == AGES
