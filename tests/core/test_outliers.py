"""A lone bad hour loses its weight; noise as usual, a change that lasts and a held vector keep theirs."""

import numpy as np
from scipy import stats

from controller.core.kernel import Floats, Hyper, Places, kernel
from controller.core.outliers import (
    LEVELS,
    PRIOR,
    SUSPECT,
    badness,
    discounted,
    inflated,
    precision,
    rows_of_deals,
    with_noise,
)
from controller.core.posterior import NUGGET, Observations, condition, join, select

BASELINE = np.array([0.4, 0.5])
HYPERS = (Hyper((0.9, 1.2), 0.08, 0.3, 120.0, 0.8),)
ARMS, DEALS, SE = 6, 10, 0.006


def study(seed: int, deals: int = DEALS, arms: int = ARMS, groups: int = 1) -> Observations:
    """Hourly deals that the model itself made: a shared control, a function drawn from the prior."""
    rng, made = np.random.default_rng(seed), []
    n = arms * groups
    group = np.repeat(np.arange(groups), arms)
    noise = SE**2 * (np.eye(n) + 0.5 * (group[:, None] == group))
    for hour in range(deals):
        unit = np.tile(rng.random((arms, 2)), (groups, 1))
        made.append(Observations(unit, group, np.full(n, float(hour)), np.zeros((1, n)), noise[None]))
    o = join(made)
    places = Places(o.unit, o.group, o.hour)
    C = kernel(HYPERS[0], BASELINE, places, places) + o.noise[0] + NUGGET * np.eye(o.rows)
    return Observations(o.unit, o.group, o.hour, (np.linalg.cholesky(C) @ rng.standard_normal(o.rows))[None], o.noise)


def spoiled(o: Observations, hours: tuple[float, ...], shift: float = 0.05) -> Observations:
    """Control was counted wrongly in some hours: all arms move together."""
    return Observations(o.unit, o.group, o.hour, o.change + shift * np.isin(o.hour, hours), o.noise)


def weights(o: Observations) -> Floats:
    """Of every deal, from how its noise has grown."""
    now, before = (np.diagonal(made.noise[0])[::ARMS] for made in (discounted(o, BASELINE, HYPERS), o))
    return np.asarray(before / now)


def test_noise_as_usual_costs_next_to_nothing() -> None:
    found = np.concatenate([weights(study(seed)) for seed in range(40)])
    assert found.mean() > 0.99
    assert (found < 0.5).mean() < 0.005


def test_a_lone_bad_hour_loses_its_weight_wherever_it_is() -> None:
    for hour in (2, 5, DEALS - 1):
        found = weights(spoiled(study(3), (float(hour),)))
        assert found[hour] < 0.01
        assert np.delete(found, hour).min() > 0.8


def test_a_bad_hour_so_bad_that_its_neighbours_look_bad_too_is_judged_with_theirs_as_said() -> None:
    """If they were set aside with it, nothing near would be left to contradict it, and it would keep its say."""
    o = spoiled(study(1), (1.0,), 0.4)
    bad, found = badness(o, rows_of_deals(o), 0, *precision(o, BASELINE, HYPERS, 0)), weights(o)
    assert bad[[0, 2]].min() > SUSPECT
    assert found[1] < 0.1
    assert np.delete(found, 1).min() > 0.99


def test_a_bad_hour_moves_the_posterior_no_more_than_its_absence() -> None:
    unit, bad = np.random.default_rng(1).random((50, 2)), spoiled(study(4), (6.0,))
    without = condition(select(bad, np.flatnonzero(bad.hour != 6.0)), BASELINE, HYPERS).mean(unit, 0, float(DEALS))
    taken, robust = (
        np.abs(condition(o, BASELINE, HYPERS).mean(unit, 0, float(DEALS)) - without).max()
        for o in (bad, discounted(bad, BASELINE, HYPERS))
    )
    assert taken > 0.008
    assert robust < 0.02 * taken


def test_two_deals_that_contradict_each_other_keep_their_say_and_a_third_tells() -> None:
    two = spoiled(study(3, deals=2), (1.0,), 0.4)
    assert discounted(two, BASELINE, HYPERS) is two
    found = weights(spoiled(study(3, deals=3), (1.0,), 0.4))
    assert found[1] < 0.1


def test_two_in_a_row_are_a_change_of_the_world() -> None:
    found = weights(spoiled(study(5), (8.0, 9.0)))
    assert found.min() > 0.8


def test_a_test_that_contradicts_all_deals_is_set_aside_and_a_true_one_is_not() -> None:
    """One vector, measured ten times as surely as a deal's, where ten deals foretell it."""
    o, unit = study(6), BASELINE[None] + 0.1
    told = condition(o, BASELINE, HYPERS).mean(unit, 0, float(DEALS))[:, 0]

    def tested(error: float) -> float:
        held = Observations(
            unit, np.zeros(1, np.int64), np.full(1, float(DEALS)), told[:, None] + error, np.full((1, 1, 1), 1e-6)
        )
        return float(discounted(join([o, held]), BASELINE, HYPERS).noise[0, -1, -1] / 1e-6)

    assert tested(0.0) < 1.05
    assert tested(0.003) < 1.2
    assert tested(0.05) > 100.0


def test_a_deal_is_judged_over_all_its_groups() -> None:
    o = study(7, groups=2)
    assert [len(rows) for rows in rows_of_deals(o)] == [2 * ARMS] * DEALS
    assert np.diagonal(discounted(spoiled(o, (4.0,)), BASELINE, HYPERS).noise[0])[o.hour == 4.0].min() > 30 * SE**2


def test_how_bad_a_deal_is_follows_from_all_other_deals() -> None:
    """By the textbook: each deal against the conditional density that the others leave it, once per level."""
    o = spoiled(study(8, deals=4), (2.0,), 0.01)
    bad = badness(o, rows_of_deals(o), 0, *precision(o, BASELINE, HYPERS, 0))
    places = Places(o.unit, o.group, o.hour)
    C = kernel(HYPERS[0], BASELINE, places, places) + o.noise[0] + NUGGET * np.eye(o.rows)
    for b in range(4):
        own, rest = np.flatnonzero(o.hour == b), np.flatnonzero(o.hour != b)
        gain = C[np.ix_(own, rest)] @ np.linalg.inv(C[np.ix_(rest, rest)])
        mean, S = gain @ o.change[0, rest], C[np.ix_(own, own)] - gain @ C[np.ix_(rest, own)]
        E = o.noise[0][np.ix_(own, own)]
        density = PRIOR * [stats.multivariate_normal(mean, S + (1 / w - 1) * E).pdf(o.change[0, own]) for w in LEVELS]
        np.testing.assert_allclose(bad[b], 1 - density[0] / density.sum(), rtol=1e-6)


def test_noise_added_to_some_deals_is_as_if_it_had_been_there() -> None:
    o = study(9, deals=5, groups=2)
    deals = rows_of_deals(o)
    weights = np.ones((len(HYPERS), 5))
    weights[:, [1, 3]] = 0.001
    noisy, rows = inflated(o, deals, weights), np.concatenate((deals[1], deals[3]))
    P, a = with_noise(*precision(o, BASELINE, HYPERS, 0), rows, (noisy.noise - o.noise)[0][np.ix_(rows, rows)])
    expected_P, expected_a = precision(noisy, BASELINE, HYPERS, 0)
    np.testing.assert_allclose(P, expected_P, rtol=1e-6, atol=1e-9 * expected_P.max())
    np.testing.assert_allclose(a, expected_a, rtol=1e-6, atol=1e-9 * np.abs(expected_a).max())
