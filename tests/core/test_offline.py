"""A biased source beside the study: believed as far as it agrees, and no further."""

import msgspec
import numpy as np
from scipy import stats

from controller.core.belief import believe
from controller.core.experiment import initial
from controller.core.kernel import Floats, Hyper, Places, kernel
from controller.core.offline import MISTAKES, ROUGH, SEEN, Prediction, informed, reliability
from controller.core.posterior import NUGGET, Observations, Posterior, condition, join
from tests.core.loop import PLAN, Loop, pleasant, varied

BASELINE = np.array([0.4, 0.5])
HYPERS = (Hyper((0.9, 1.2), 0.08, 0.95, 120.0, 0.8),)
SE = 0.005


def deal(unit: Floats, change: Floats, hour: float, se: float = SE) -> Observations:
    n = len(unit)
    return Observations(unit, np.zeros(n, np.int64), np.full(n, hour), change[None], se**2 * np.eye(n)[None])


def world(seed: int, predicted: int = 40, online: int = 40) -> tuple[Floats, Floats, Floats, Floats]:
    """Vectors of the source and of the study, and what is true there."""
    rng = np.random.default_rng(seed)
    unit = rng.random((predicted + online, 2))
    places = Places(unit, np.zeros(len(unit), np.int64), np.zeros(len(unit)))
    root = np.linalg.cholesky(kernel(HYPERS[0], BASELINE, places, places) + NUGGET * np.eye(len(unit)))
    truth = root @ rng.standard_normal(len(unit))
    return unit[:predicted], truth[:predicted], unit[predicted:], truth[predicted:]


def study(unit: Floats, truth: Floats, deals: int) -> Posterior:
    """Hourly deals of 4 vectors."""
    rng = np.random.default_rng(9)
    rows = [
        deal(unit[4 * h : 4 * h + 4], truth[4 * h : 4 * h + 4] + SE * rng.standard_normal(4), float(h))
        for h in range(deals)
    ]
    nothing = condition(deal(unit[:0], truth[:0], 0.0), BASELINE, HYPERS)
    return condition(join(rows), BASELINE, HYPERS) if rows else nothing


def error(posterior: Posterior, unit: Floats, truth: Floats) -> float:
    return float(np.sqrt(np.mean((posterior.mean(unit, 0, 0.0)[0] - truth) ** 2)))


def test_before_any_traffic_a_good_source_tells_much_and_the_doubt_is_honest() -> None:
    gains, z = [], []
    for seed in range(30):
        predicted, said, unit, truth = world(seed)
        alone = study(unit, truth, 0)
        told = informed(alone, deal(predicted, said, 0.0))
        gains.append(error(told, unit, truth) / error(alone, unit, truth))
        mean, sd = told.mean_sd(unit, 0, 0.0)
        z.append((truth - mean[0]) / sd[0])
    assert np.mean(gains) < 0.75
    assert 0.4 < np.std(z) < 1.1  # a source without mistakes is better than what is feared


def test_one_that_says_the_opposite_does_no_lasting_harm() -> None:
    ratio = []
    for seed in range(20):
        predicted, said, unit, truth = world(seed)
        alone = study(unit, truth, 8)
        ratio.append(error(informed(alone, deal(predicted, -said, 0.0)), unit[32:], truth[32:]))
        ratio[-1] /= error(alone, unit[32:], truth[32:])
    assert np.median(ratio) < 1.1


def test_noise_that_claims_to_be_sure_does_no_lasting_harm() -> None:
    rng, ratio = np.random.default_rng(1), []
    for seed in range(20):
        predicted, said, unit, truth = world(seed)
        alone = study(unit, truth, 8)
        noise = deal(predicted, 0.08 * rng.standard_normal(len(said)), 0.0)
        ratio.append(error(informed(alone, noise), unit[32:], truth[32:]) / error(alone, unit[32:], truth[32:]))
    assert np.median(ratio) < 1.1


def test_it_learns_how_much_the_source_sees() -> None:
    predicted, said, _, _ = world(3)
    places = Places(predicted, np.zeros(40, np.int64), np.zeros(40))
    K = kernel(HYPERS[0], BASELINE, places, places)
    B = K + ROUGH * np.diag(np.diag(K))
    sure = 1e-4 * K
    seen = {r: reliability(r * said, SE**2 * np.eye(40), said, sure, B)[0] for r in (-1.0, 0.25, 1.0)}
    assert seen[1.0] > 0.8  # the belief takes about r^2 / (r^2 + q^2) of what such a source says
    assert seen[-1.0] < 0.4
    assert seen[-1.0] < seen[0.25] < seen[1.0]
    noise = 0.3 * np.random.default_rng(0).standard_normal(40)
    assert reliability(noise, SE**2 * np.eye(40), said, sure, B)[1] > 2.0


def test_reliability_is_the_mean_over_the_grid_by_the_textbook() -> None:
    rng = np.random.default_rng(4)
    y, mean, E = rng.normal(0, 0.05, 5), rng.normal(0, 0.05, 5), SE**2 * np.eye(5)
    root = rng.normal(0, 0.03, (2, 5, 5))
    S, B = (a @ a.T for a in root)
    weights = {
        (r, q): a * b * stats.multivariate_normal(r * mean, r**2 * S + q**2 * B + E + NUGGET * np.eye(5)).pdf(y)
        for r, a in SEEN.items()
        for q, b in MISTAKES.items()
    }
    total = sum(weights.values())
    expected = sum(w * r for (r, _), w in weights.items()) / total
    log_q = sum(w * np.log(q) for (_, q), w in weights.items()) / total
    np.testing.assert_allclose(reliability(y, E, mean, S, B), (expected, np.exp(log_q)), rtol=1e-8)


def test_predictions_fade_like_old_evidence() -> None:
    predicted, said, unit, truth = world(5)
    told = informed(study(unit, truth, 0), deal(predicted, said, 0.0))
    now, later = (np.abs(told.mean(unit, 0, hour, 24.0)).mean() for hour in (0.0, 480.0))
    assert later < 0.2 * now


def test_a_study_with_predictions_begins_where_they_are_good() -> None:
    """The first deal is no space-filling set any more; metrics that were not predicted stay at their prior."""
    space = np.exp(np.linspace(-1.5, 1.5, 12))
    offline = tuple(
        Prediction((1.0, float(x), 0.0), "watch", float(pleasant((1.0, float(x), 0.0), "")["watch_s"]), SE)
        for x in space
    )
    plan = varied(offline=offline)
    believed = believe(plan, initial(plan), (), 0.0)
    assert believed.posterior.rows == 12
    high, low = (believed.space.to_unit(np.array([[1.0, x, 0.0]])) for x in (4.0, 0.25))
    assert believed.posterior.mean(high, 0, 0.0)[0, 0] > 0.02 > believed.posterior.mean(low, 0, 0.0)[0, 0]
    np.testing.assert_allclose(believed.posterior.mean(high, 0, 0.0)[1], 0.0, atol=1e-6)
    loop = Loop(plan)
    loop.windows(1)
    assert "initial" not in loop.story()[0]
    assert msgspec.convert(msgspec.to_builtins(plan), type(PLAN)) == plan
