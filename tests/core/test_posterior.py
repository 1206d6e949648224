"""The process against dense formulas, and its hyperparameters against finite differences."""

import msgspec
import numpy as np
import pytest

from controller.core import learn
from controller.core.kernel import DAILY, EVEN, STEPS, Floats, Hyper, Places, fading, kernel
from controller.core.learn import EXPOSURES, RESPONSE, objective
from controller.core.posterior import (
    NUGGET,
    Observations,
    Posterior,
    _root,
    condition,
    extend,
    fit,
    further,
    join,
    paths,
    prior,
    problem,
    select,
    thin,
    unfitted,
)

BUSY = (0.05, 0.05, 0.1, 0.2, 0.3, 0.15, 0.1, 0.05)  # shares of a day's traffic
BASELINE, SCALES = np.array([0.4, 0.5, 0.3]), (RESPONSE, RESPONSE)
HYPERS = (Hyper((0.6, 1.0, 0.8), 0.1, 0.3, 60.0, 0.7), Hyper((1.5, 0.5, 0.9), 0.05, 0.3, 200.0, 0.4))


def deal(
    rng: np.random.Generator, hour: float, arms: int = 6, groups: int = 2, d: int = 3, noise: float = 0.02
) -> Observations:
    """A deal of `arms` random vectors in each of `groups`, with a shared control."""
    n = arms * groups
    group = np.repeat(np.arange(groups), arms)
    shared = np.where(group[:, None] == group, noise**2 / 2, 0.0)
    covariance = np.stack([shared + noise**2 * np.eye(n)] * 2)
    return Observations(rng.random((n, d)), group, np.full(n, hour), 0.05 * rng.standard_normal((2, n)), covariance)


def study(seed: int, deals: int = 5) -> Observations:
    rng = np.random.default_rng(seed)
    return join([deal(rng, 1.5 * hour) for hour in range(deals)])


def hours_of(places: Places, i: int) -> Floats:
    """A place's hours: one, or those that stand for its span."""
    return np.asarray(places.hour[i]) + (
        (np.arange(STEPS) + 0.5) * places.span_h / STEPS if places.span_h else np.zeros(1)
    )


def dense(o: Observations, new: Places, m: int) -> tuple[Floats, Floats]:
    """Mean and covariance by the textbook's inverse, with the kernel written out point by point and hour by hour."""
    hyper = HYPERS[m]

    def k(u: Floats, v: Floats) -> float:
        r = np.sqrt(5 * (((u - v) / np.array(hyper.lengthscale)) ** 2).sum())
        return float((1 + r + r * r / 3) * np.exp(-r))

    def f(a: Places, b: Places, i: int, j: int) -> float:
        k0 = k(a.unit[i], b.unit[j]) - k(a.unit[i], BASELINE) * k(b.unit[j], BASELINE) / k(BASELINE, BASELINE)
        pooled = 1.0 if a.group[i] == b.group[j] else hyper.pooling
        fades = 0.0
        for s, share in zip(hours_of(a, i), a.traffic if a.span_h else (1.0,), strict=True):
            for t, other in zip(hours_of(b, j), b.traffic if b.span_h else (1.0,), strict=True):
                r = np.sqrt(3) * abs(s - t) / hyper.memory_h
                moving = (1 - DAILY) * (1 + r) * np.exp(-r) + DAILY * np.cos(2 * np.pi * (s - t) / 24)
                fades += share * other * (1.0 - hyper.drift + hyper.drift * moving)
        return float(hyper.scale**2 * k0 * pooled * fades)

    def gram(a: Places, b: Places) -> Floats:
        return np.array([[f(a, b, i, j) for j in range(len(b.unit))] for i in range(len(a.unit))])

    seen = Places(o.unit, o.group, o.hour)
    inverse = np.linalg.inv(gram(seen, seen) + o.noise[m] + NUGGET * np.eye(o.rows))
    cross = gram(new, seen)
    return cross @ inverse @ o.change[m], gram(new, new) - cross @ inverse @ cross.T


@pytest.mark.parametrize(("span_h", "traffic"), [(0.0, BUSY), (24.0, EVEN), (24.0, BUSY)])
def test_mean_and_sd_equal_the_dense_formula(span_h: float, traffic: tuple[float, ...]) -> None:
    o, unit = study(1), np.random.default_rng(2).random((7, 3))
    posterior = msgspec.structs.replace(condition(o, BASELINE, HYPERS), traffic=traffic)
    for group in (0, 1):
        new = Places(unit, np.full(7, group), np.full(7, 9.0), span_h, traffic)
        mean, sd = posterior.mean_sd(unit, group, 9.0, span_h)
        for m in range(2):
            expected, covariance = dense(o, new, m)
            np.testing.assert_allclose(mean[m], expected, atol=1e-12)
            np.testing.assert_allclose(sd[m], np.sqrt(np.diag(covariance)), rtol=1e-8)


def test_points_may_have_groups_of_their_own() -> None:
    posterior, unit = condition(study(3), BASELINE, HYPERS), np.random.default_rng(4).random((4, 3))
    mixed, _ = posterior.mean_sd(unit, np.array([0, 1, 0, 1]), 9.0)
    for j, group in enumerate((0, 1, 0, 1)):
        np.testing.assert_allclose(mixed[:, j], posterior.mean_sd(unit, group, 9.0)[0][:, j])


def test_the_mean_alone_and_some_of_the_metrics_agree_with_the_whole() -> None:
    posterior = msgspec.structs.replace(condition(study(3), BASELINE, HYPERS), traffic=BUSY)
    unit = np.random.default_rng(4).random((4, 3))
    mean, _ = posterior.mean_sd(unit, 1, 9.0, 24.0)
    np.testing.assert_allclose(posterior.mean(unit, 1, 9.0, 24.0), mean, atol=1e-12)
    np.testing.assert_allclose(posterior.only([1]).mean(unit, 1, 9.0, 24.0), mean[1:], atol=1e-12)


def test_the_baseline_does_not_change_in_any_group_at_any_time() -> None:
    posterior = condition(study(5), BASELINE, HYPERS)
    for group, hour in ((0, 0.0), (1, 5.0), (7, 500.0)):
        mean, sd = posterior.mean_sd(BASELINE[None], group, hour)
        np.testing.assert_allclose(mean, 0.0, atol=1e-12)
        np.testing.assert_allclose(sd, 0.0, atol=1e-8)


def test_conditioning_in_two_steps_equals_conditioning_in_one() -> None:
    rng = np.random.default_rng(6)
    first, second = join([deal(rng, 0.0), deal(rng, 1.0)]), deal(rng, 2.0)
    once = condition(join([first, second]), BASELINE, HYPERS)
    twice = extend(condition(first, BASELINE, HYPERS), second)
    unit = rng.random((5, 3))
    for a, b in zip(once.mean_sd(unit, 1, 3.0), twice.mean_sd(unit, 1, 3.0), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    assert twice.rows == once.rows == 36


def test_without_observations_the_posterior_is_the_prior() -> None:
    nothing = select(study(7), np.empty(0, dtype=np.int64))
    posterior = condition(nothing, BASELINE, HYPERS)
    unit = np.random.default_rng(8).random((4, 3))
    mean, sd = posterior.mean_sd(unit, 0, 1.0)
    places = Places(unit, np.zeros(4, dtype=np.int64), np.ones(4))
    np.testing.assert_allclose(mean, 0.0)
    np.testing.assert_allclose(sd[0] ** 2, np.diag(kernel(HYPERS[0], BASELINE, places, places)))


def test_draws_have_the_mean_and_the_covariance_of_the_posterior() -> None:
    o, rng = study(9), np.random.default_rng(10)
    unit = rng.random((5, 3))
    samples = condition(o, BASELINE, HYPERS).draw(unit, 1, 8.0, rng, 20_000)
    assert samples.shape == (20_000, 2, 5)
    for m in range(2):
        mean, covariance = dense(o, Places(unit, np.ones(5, dtype=np.int64), np.full(5, 8.0)), m)
        sd = np.sqrt(np.diag(covariance))
        assert (np.abs(samples[:, m].mean(axis=0) - mean) < 4 * sd / np.sqrt(20_000)).all()
        np.testing.assert_allclose(np.cov(samples[:, m].T) / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=0.04)


def test_draws_that_go_on_are_one_joint_draw() -> None:
    o, rng = study(9), np.random.default_rng(10)
    unit = rng.random((5, 3))
    posterior = condition(o, BASELINE, HYPERS)
    begun, first = further(paths(posterior, 20_000), posterior.told(unit[:2], 1, 8.0, 24.0), rng)
    grown, rest = further(begun, posterior.told(unit[2:], 1, 8.0, 24.0), rng)
    samples = np.concatenate((first, rest), axis=2)
    np.testing.assert_array_equal(grown.told.places.unit, unit)
    for m in range(2):
        mean, covariance = dense(o, Places(unit, np.ones(5, dtype=np.int64), np.full(5, 8.0), 24.0), m)
        sd = np.sqrt(np.diag(covariance))
        assert (np.abs(samples[:, m].mean(axis=0) - mean) < 4 * sd / np.sqrt(20_000)).all()
        np.testing.assert_allclose(np.cov(samples[:, m].T) / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=0.04)


def test_a_day_hides_what_swings_with_the_hour() -> None:
    """A response that only swings with the hour of the day: known at an hour, it says nothing of a day's mean."""
    hyper, places = HYPERS[0], Places(np.ones((1, 3)), np.zeros(1, dtype=np.int64), np.array([5.0]))
    day = msgspec.structs.replace(places, span_h=24.0)
    fixed = msgspec.structs.replace(hyper, drift=1.0 - 1e-12, memory_h=1e-6)
    assert fading(fixed, places, places)[0, 0] == pytest.approx(1.0)
    assert fading(fixed, day, places)[0, 0] == pytest.approx(0.0, abs=1e-9)


def test_a_metric_is_the_product_of_its_factors() -> None:
    o, rng = study(9), np.random.default_rng(10)
    apart, product = condition(o, BASELINE, HYPERS), condition(o, BASELINE, HYPERS, ((0, 1), (1,)))
    unit = rng.random((4, 3))
    (mean, sd), (joint, joint_sd) = apart.mean_sd(unit, 0, 8.0), product.mean_sd(unit, 0, 8.0)
    np.testing.assert_allclose(joint[0], (1 + mean[0]) * (1 + mean[1]) - 1)
    np.testing.assert_allclose(joint_sd[0], np.hypot(sd[0] * (1 + mean[1]), sd[1] * (1 + mean[0])))
    np.testing.assert_allclose((joint[1], joint_sd[1]), (mean[1], sd[1]))
    np.testing.assert_allclose(product.mean(unit, 0, 8.0), joint, atol=1e-12)
    samples = product.draw(unit, 0, 8.0, rng, 20_000)
    np.testing.assert_allclose(samples.std(axis=0), joint_sd, rtol=0.03)
    alone = product.only([1])
    assert len(alone.hypers) == 1
    np.testing.assert_allclose(alone.mean_sd(unit, 0, 8.0)[1][0], sd[1])
    np.testing.assert_allclose(product.only([0]).mean(unit, 0, 8.0), joint[:1], atol=1e-12)


def test_draws_bear_the_same_point_twice_and_the_baseline() -> None:
    posterior, rng = condition(study(11), BASELINE, HYPERS), np.random.default_rng(12)
    unit = np.stack([BASELINE, BASELINE + 0.1, BASELINE + 0.1])
    samples = posterior.draw(unit, 0, 8.0, rng, 50)
    np.testing.assert_allclose(samples[..., 0], 0.0, atol=1e-4)
    np.testing.assert_allclose(samples[..., 1], samples[..., 2], atol=1e-4)


def test_a_root_bears_rounding_and_nothing_worse() -> None:
    root = _root(np.ones((3, 3)) - 3e-8 * np.eye(3), 1.0)
    np.testing.assert_allclose(root @ root.T, np.ones((3, 3)), atol=1e-6)
    with pytest.raises(np.linalg.LinAlgError, match="3 points is not positive definite"):
        _root(np.ones((3, 3)) - 0.1 * np.eye(3), 1.0)


def test_intervals_cover_the_truth_of_the_model() -> None:
    """200 worlds drawn from the prior itself: z-scores at new points are standard normal."""
    rng, scores = np.random.default_rng(13), []
    start = condition(select(study(14), np.empty(0, dtype=np.int64)), BASELINE, HYPERS)
    for _ in range(200):
        o = deal(rng, 0.0, arms=10, groups=1)
        unit = np.concatenate((o.unit, rng.random((4, 3))))
        truth = start.draw(unit, 0, 0.0, rng, 1)[0]  # (M, 14)
        noise = np.stack([np.linalg.cholesky(e) @ rng.standard_normal(10) for e in o.noise])
        seen = Observations(o.unit, o.group, o.hour, truth[:, :10] + noise, o.noise)
        mean, sd = condition(seen, BASELINE, HYPERS).mean_sd(unit[10:], 0, 0.0)
        scores.append((truth[:, 10:] - mean) / sd)
    z = np.array(scores)
    assert abs(z.std() - 1.0) < 0.06
    assert abs((np.abs(z) < 1.96).mean() - 0.95) < 0.02


def test_old_windows_fade() -> None:
    posterior = condition(study(15, deals=1), BASELINE, HYPERS)
    unit = posterior.seen.unit[:1]
    soon, late = posterior.mean_sd(unit, 0, 1.0), posterior.mean_sd(unit, 0, 300.0)
    assert (np.abs(late[0]) < np.abs(soon[0])).all()
    assert (late[1] > soon[1]).all()


def test_joined_deals_have_independent_noise() -> None:
    rng = np.random.default_rng(16)
    first, second = deal(rng, 0.0, arms=2), deal(rng, 1.0, arms=3)
    both = join([first, second])
    np.testing.assert_array_equal(both.noise[:, :4, :4], first.noise)
    np.testing.assert_array_equal(both.noise[:, 4:, 4:], second.noise)
    assert not both.noise[:, :4, 4:].any()


def test_thinning_keeps_whole_deals_and_the_newest() -> None:
    o = study(18, deals=12)
    kept = thin(o, 50)
    assert kept.rows == 48
    assert kept.hour.max() == o.hour.max()
    assert kept.hour.min() == o.hour.min()


@pytest.mark.parametrize("seed", range(3))
def test_the_gradient_equals_finite_differences(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = problem(study(seed), BASELINE, 0)
    p = learn.pack(HYPERS[0]) + 0.3 * rng.standard_normal(7)
    _, gradient = objective(p, data)
    step = 1e-5
    for j, e in enumerate(np.eye(7) * step):
        numeric = (objective(p + e, data)[0] - objective(p - e, data)[0]) / (2 * step)
        assert gradient[j] == pytest.approx(numeric, rel=1e-5, abs=1e-6)


def test_the_objective_is_the_log_density() -> None:
    """Differences of J are differences of the log normal density of the data and of the prior."""
    o = study(19)
    o = msgspec.structs.replace(o, noise=1e-4 * o.noise)  # no larger than what is added to it
    data = problem(o, BASELINE, 1)

    def dense_objective(hyper: Hyper) -> float:
        seen = Places(o.unit, o.group, o.hour)
        C = kernel(hyper, BASELINE, seen, seen) + o.noise[1] + NUGGET * np.eye(o.rows)
        likelihood = 0.5 * data.y @ np.linalg.solve(C, data.y) + 0.5 * np.linalg.slogdet(C)[1]
        offset = (learn.pack(hyper) - learn.median(3, RESPONSE)) / learn._spread(3, RESPONSE)
        return float(likelihood + 0.5 * offset @ offset)

    values = [objective(learn.pack(h), data)[0] for h in HYPERS]
    assert values[0] - values[1] == pytest.approx(dense_objective(HYPERS[0]) - dense_objective(HYPERS[1]))


def world(posterior: Posterior, seed: int) -> Observations:
    """Observations of a function drawn from a prior."""
    rng = np.random.default_rng(seed)
    o = join([deal(rng, 2.0 * hour, arms=10, groups=1, noise=0.01) for hour in range(10)])
    truth = posterior.draw(o.unit, 0, 0.0, rng, 1)[0]
    noise = np.stack([np.linalg.cholesky(e) @ rng.standard_normal(o.rows) for e in o.noise])
    return Observations(o.unit, o.group, o.hour, truth + noise, o.noise)


def test_a_fit_finds_the_relevant_weight_and_the_scale() -> None:
    hypers = (Hyper((0.3, 4.0, 4.0), 0.1, 0.3, 1e4, 0.5),) * 2
    nothing = select(study(20), np.empty(0, dtype=np.int64))
    found = fit(world(condition(nothing, BASELINE, hypers), 21), BASELINE)
    for hyper in found:
        assert hyper.lengthscale[0] < 0.6 * min(hyper.lengthscale[1:])
        assert 0.04 < hyper.scale < 0.25


def test_a_fit_is_never_worse_than_the_previous_one() -> None:
    o = study(22)
    start = prior(3, SCALES)
    first = fit(o, BASELINE, start)
    second = fit(o, BASELINE, first)
    for m in range(2):
        data = problem(o, BASELINE, m)
        values = [objective(learn.pack(h[m]), data)[0] for h in (start, first, second)]
        assert values[0] >= values[1] >= values[2]
        assert values[0] - values[1] > 0.1


def test_a_fit_ignores_hyperparameters_of_another_study() -> None:
    o = study(23)
    assert fit(o, BASELINE, prior(5, SCALES)) == fit(o, BASELINE)


def test_a_fit_of_nothing_is_the_priors_median() -> None:
    nothing = select(study(24), np.empty(0, dtype=np.int64))
    assert fit(nothing, BASELINE) == tuple(learn.unpack(np.round(learn.median(3, scale), 2)) for scale in SCALES)


@pytest.mark.parametrize(("size", "rises"), [(0.05, False), (0.2, True)])
def test_the_scale_of_few_rows_is_the_likeliest_that_is_no_smaller_than_the_prior_s(size: float, rises: bool) -> None:
    o = study(25, deals=1)
    o = msgspec.structs.replace(o, change=o.change * size / 0.05)
    begin = prior(3, SCALES)
    found = unfitted(o, BASELINE, begin, SCALES, {1: np.arange(o.rows)})
    assert found[0] == begin[0]
    assert found[1].lengthscale == begin[1].lengthscale
    data, tried = problem(o, BASELINE, 1), begin[1].scale * np.arange(1.0, 8.0, 0.002)
    values = [objective(learn.pack(msgspec.structs.replace(begin[1], scale=s)), data)[0] for s in tried]
    assert found[1].scale == pytest.approx(tried[np.argmin(values)], rel=0.01)
    assert (found[1].scale > 1.2 * begin[1].scale) == rises


def test_before_any_row_a_change_varies_as_it_does_over_all_scales() -> None:
    drawn = np.exp(np.log(RESPONSE.median) + RESPONSE.sd * np.random.default_rng(0).standard_normal(400_000))
    (hyper,) = prior(3, (RESPONSE,))
    assert hyper.scale == pytest.approx(np.sqrt((drawn**2).mean()), rel=0.01)


def test_each_process_has_a_scale_of_its_own() -> None:
    nothing = select(study(24), np.empty(0, dtype=np.int64))
    assert [h.scale for h in fit(nothing, BASELINE, None, (RESPONSE, EXPOSURES))] == pytest.approx(
        [0.12, 0.03], rel=0.01
    )
