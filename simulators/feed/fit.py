"""Fit the response law to what is known of real people: `python -m simulators.feed.fit` prints `calibrated.py`.

What is fitted, each to one figure of `simulators.feed.targets`, as seen on the pages that the baseline serves: 7
rates, 21 pairs of signals, 24 hourly click rates, 24 hours' and 7 weekdays' volume, the share of gaps of one day.
Chances are known, so nothing is drawn but people, times and candidates.
"""

import pprint
import sys

import msgspec
import numpy as np

from simulators.feed import targets
from simulators.feed.calibration import tally
from simulators.feed.clock import LONGER_DAYS
from simulators.feed.pages import EXAMINED, leaving, now, ordered, true_chances
from simulators.feed.product import Feed, Law
from simulators.feed.response import COMMON, RARE, together
from simulators.feed.shipped import CLICKBAIT, SHORTVIDEO
from simulators.feed.targets import hourly_clicks, real_together, weekly
from simulators.feed.traffic import TURN_MS
from simulators.feed.truth import Truth, page_means
from simulators.worlds import Floats

ROUNDS, REFINED = 14, 10
GAIN = 0.6  # of a correction that is itself noisy
PEOPLE, PAGES = 40_000, 6  # of the sample: few people do most of what is rare, so it takes many
VISITS_OF_A_DAY = 1.5  # assumed: of an active day
GRID = 96  # quarters of an hour


class Seen(msgspec.Struct, frozen=True, eq=False):
    """What the baseline shows and what comes of it, by expectation: of each person's pages, as often as they come."""

    together: Floats  # (7, 7) P(both signals) of an impression
    hourly: Floats  # (24,) P(click) of an impression
    enjoyment: float  # mean, of an item seen
    pages_per_day: float  # of a person
    tomorrow: float  # share of gaps of one day
    visit_s: float  # mean seconds from a visit's begin to one of its pages


def fitted(feed: Feed, rounds: int = ROUNDS) -> Feed:
    """The feed with `law`, `loyalty` and `pages_per_day` fitted; progress goes to standard error."""
    again = tuple((1.0 - 1.0 / (VISITS_OF_A_DAY * weekly())).tolist())
    feed = msgspec.structs.replace(feed, law=msgspec.structs.replace(feed.law, again=again))
    for number in range(rounds):
        seen = seen_of(feed)
        error = np.abs(np.log(seen.together / real_together())).max()
        sys.stderr.write(f"round {number}: the pair of signals that is furthest off is so by {error:.1%}\n")
        feed = _nearer(feed, seen)
    return feed


def seen_of(feed: Feed) -> Seen:
    """Look at a feed under its baseline."""
    truth = Truth(feed, PEOPLE, PAGES)
    shelf, people = truth.shelf, truth.people
    theta = np.tile(feed.baseline.astype(np.float32), (len(people.segment), 1))
    means = np.mean([page_means(shelf, people, r, theta) for r in truth.requests], axis=0)
    L, tomorrow = means[:, -2], means[:, -1] / means[:, -2]
    active = 1.0 / (tomorrow + (1.0 - tomorrow) * LONGER_DAYS)
    pages = active * np.mean(1.0 / (1.0 - np.array(feed.law.again))) / L
    both, clicks, shown, enjoyed = np.zeros((7, 7)), np.zeros(24), np.zeros(24), 0.0
    for request in truth.requests:
        order = ordered(request.predictions, theta)
        items = np.take_along_axis(request.candidates, order, axis=1)
        at, enjoyment = true_chances(
            shelf, people, now(shelf, request.at_ms), np.arange(len(theta), dtype=np.int32), items, request.hour
        )
        left = np.cumprod(1.0 - leaving(shelf, enjoyment), axis=1)
        weight = pages[:, None] * np.concatenate([np.ones((len(theta), 1)), left[:, :-1]], axis=1)
        examined = (weight * EXAMINED).astype(np.float32)
        both += together(feed.law, at, examined) * examined.sum()
        clicks += np.bincount(request.hour, (examined * at.click).sum(axis=1), minlength=24)
        shown += np.bincount(request.hour, weight.sum(axis=1), minlength=24)
        enjoyed += float((weight * enjoyment).sum())
    page_s = means[:, 8] + TURN_MS / 1000
    return Seen(
        together=both / shown.sum(),
        hourly=clicks / shown,
        enjoyment=enjoyed / float(shown.sum()),
        pages_per_day=float(pages.mean()),
        tomorrow=float(active @ tomorrow / active.sum()),
        visit_s=float((pages * page_s * (1.0 - L) / L).sum() / pages.sum()),
    )


def refined(feed: Feed, seed: int) -> Feed:
    """The feed with hours nearer to the real ones: by what it does when it runs, where long visits cross midnight."""
    found = tally(feed, seed=seed)
    target = np.array(targets.HOURLY_IMPRESSIONS) / sum(targets.HOURLY_IMPRESSIONS)
    share = np.array(feed.law.clock) * (target / (found.hourly / found.hourly.sum())) ** GAIN
    hour = np.array(feed.law.hour) + GAIN * (_logit(hourly_clicks()) - _logit(found.clicks / found.hourly))
    law = msgspec.structs.replace(
        feed.law, clock=tuple((share / share.sum()).tolist()), hour=tuple((hour - hour.mean()).tolist())
    )
    sys.stderr.write(
        f"hours: volume off by {np.abs(found.hourly / found.hourly.sum() / target - 1).max():.1%} at most\n"
    )
    return msgspec.structs.replace(feed, law=law)


def _nearer(feed: Feed, seen: Seen) -> Feed:
    law, loyalty = feed.law, feed.loyalty
    real, sim = real_together(), seen.together
    intercept = np.array(law.intercept)
    intercept[0] += _logit(real[0, 0]) - _logit(sim[0, 0])
    intercept[1] += _logit(real[0, 1] / real[0, 0]) - _logit(sim[0, 1] / sim[0, 0])
    intercept[COMMON:] += np.log(real[1, COMMON:] / sim[1, COMMON:])
    cells = _cells(real) / _cells(sim)  # (2, 5) relative to the rate after a long view
    pairs = np.array(law.pairs)
    for j in range(RARE):
        pairs[j, :j] *= real[COMMON + j, COMMON : COMMON + j] / sim[COMMON + j, COMMON : COMMON + j]
    hour = np.array(law.hour) + _logit(hourly_clicks()) - _logit(seen.hourly)
    tomorrow = targets.RETURN_GAP_DAYS[0] / sum(targets.RETURN_GAP_DAYS)
    stray = (real[1, 1] - real[0, 1]) / (1.0 - real[0, 0])
    return msgspec.structs.replace(
        feed,
        law=Law(
            intercept=tuple(intercept.tolist()),
            stray=float(law.stray * stray * (1.0 - sim[0, 0]) / (sim[1, 1] - sim[0, 1])),
            clicked=tuple((np.array(law.clicked) * cells[0]).tolist()),
            passed=tuple((np.array(law.passed) * cells[1]).tolist()),
            pairs=tuple(map(tuple, pairs.tolist())),
            hour=tuple((hour - hour.mean()).tolist()),
            clock=tuple(clock(law.again, seen.visit_s).tolist()),
            again=law.again,
        ),
        loyalty=msgspec.structs.replace(
            loyalty,
            offset=loyalty.offset + seen.enjoyment,
            back=loyalty.back + float(_logit(tomorrow) - _logit(seen.tomorrow)),
        ),
        pages_per_day=seen.pages_per_day,
    )


def _cells(both: Floats) -> Floats:
    """Joint chance of each rare signal with a click alone, and without a click, over that with a long view (2, 5)."""
    rare = both[COMMON:]
    after_long = rare[:, 1]
    return np.stack([rare[:, 0] - rare[:, 1], np.diagonal(both)[COMMON:] - rare[:, 0]]) / after_long


def clock(again: tuple[float, ...], visit_s: float) -> Floats:
    """(24,) shares of a day's first visits, so that impressions have the real hours.

    A later visit of the day falls anywhere in what the clock has left of it; a page lies an exponential time after its
    visit's begin. Found by scaling each hour by what it lacks.
    """
    target = np.array(targets.HOURLY_IMPRESSIONS) / sum(targets.HOURLY_IMPRESSIONS)
    stay = np.exp(-np.arange(GRID) * 900.0 / visit_s) * -np.expm1(-900.0 / visit_s)
    share = target.copy()
    for _ in range(200):
        share *= target / _hours(share, float(np.mean(again)), stay)
        share /= share.sum()
    return share


def _hours(share: Floats, again: float, stay: Floats) -> Floats:
    """Impressions by hour that first visits at these hours lead to."""
    first = np.repeat(share, GRID // 24) / (GRID // 24)
    left = 1.0 - np.cumsum(first) + first / 2  # of the clock, from the middle of each quarter on
    visits = now_at = first
    for _ in range(12):  # visits of a day
        reach = np.cumsum(now_at / left) - now_at / left / 2
        now_at = again * first * reach
        visits = visits + now_at
    late = np.convolve(visits, stay)
    pages = late[:GRID] + np.append(late[GRID:], 0.0)
    return np.asarray(pages.reshape(24, -1).sum(axis=1) / pages.sum())


def _logit(p: float | Floats) -> Floats:
    return np.asarray(np.log(p) - np.log1p(-np.asarray(p)))


HEAD = '''"""What is fitted: printed by `python -m simulators.feed.fit`, and the best vectors by `simulators.feed.best`.

Derived from KuaiRand (Gao et al. 2022, CIKM), CC BY-SA 4.0: see `simulators.feed.targets`.
"""

from simulators.feed.product import Law, Level

'''


def main() -> None:
    """Fit what ships: the law on `shortvideo`, the levels of each feed under it."""
    feed = fitted(SHORTVIDEO)
    for seed in range(REFINED):
        feed = refined(feed, seed)
    trap = msgspec.structs.replace(CLICKBAIT, law=feed.law)
    for _ in range(ROUNDS):
        trap = msgspec.structs.replace(_nearer(trap, seen_of(trap)), law=feed.law)
    lines = [f"{name}={pprint.pformat(_rounded(value), width=100)}," for name, value in _fields(feed.law)]
    sys.stdout.write(HEAD + "LAW = Law(\n" + "\n".join(lines) + "\n)\n")
    for name, one in (("SHORTVIDEO", feed), ("CLICKBAIT", trap)):
        level = [_rounded(x) for x in (one.loyalty.offset, one.loyalty.back, one.pages_per_day)]
        sys.stdout.write(f"{name} = Level(offset={level[0]}, back={level[1]}, pages_per_day={level[2]})\n")


def _fields(law: Law) -> list[tuple[str, object]]:
    return list(msgspec.structs.asdict(law).items())


def _rounded(value: object) -> object:
    return tuple(map(_rounded, value)) if isinstance(value, tuple) else round(float(str(value)), 6)


if __name__ == "__main__":
    main()
