"""How long an item is watched, given the signals.

Log-normal, by what happened: passed over, clicked but left early, or watched long. The medians and spreads are those of
the 41,828 impressions of KuaiRand-27K that ended in a like or a hate (CC BY-SA 4.0; durations in seconds); that other
impressions are watched alike is assumed.
"""

import numpy as np

from simulators.feed.items import Singles
from simulators.feed.response import Bits

PASSED, PASSED_SD = 1.16, 0.53  # log seconds without a click
EARLY, EARLY_SD = 1.85, 1.0  # clicked, no long view
LONG, LONG_SLOPE, LONG_SD = 1.43, 0.578, 0.45  # a long view: LONG + LONG_SLOPE log(duration)
MOST_S = 3_600.0
PASSED_S = float(np.exp(PASSED + PASSED_SD**2 / 2))  # mean, also of what is seen and not examined


def watched(duration_s: Singles, seen: Bits, signals: Bits, rng: np.random.Generator) -> Singles:
    """Seconds (n, p), given what was seen (n, p) and the signals (7, n, p); milliseconds are the finest step."""
    log_s, sd = _laws(duration_s, signals[0], signals[1])
    sd *= rng.standard_normal(seen.shape, dtype=np.float32)
    log_s += sd
    seconds = np.minimum(np.exp(log_s, out=log_s), np.float32(MOST_S))
    seconds *= seen
    return seconds


def _laws(duration_s: Singles, click: Bits, long_view: Bits) -> tuple[Singles, Singles]:
    """Mean and standard deviation of the log of seconds."""
    state = click.view(np.uint8) + np.uint8(2) * long_view.view(np.uint8)
    mean = np.array([PASSED, EARLY, LONG, LONG], np.float32).take(state)
    mean += np.log(duration_s) * (np.float32(LONG_SLOPE) * long_view)
    sd = np.array([PASSED_SD, EARLY_SD, LONG_SD, LONG_SD], np.float32).take(state)
    return mean, sd


def expected_s(duration_s: Singles, click: Singles, long_view: Singles, both: Singles) -> Singles:
    """Mean seconds of an item that is examined, given P(click), P(long view) and P(both)."""
    neither = np.float32(1.0) - click - long_view + both
    long_s = np.float32(np.exp(LONG + LONG_SD**2 / 2)) * duration_s ** np.float32(LONG_SLOPE)
    early_s = np.float32(np.exp(EARLY + EARLY_SD**2 / 2))
    return np.asarray(long_view * long_s + (click - both) * early_s + neither * np.float32(PASSED_S))
