"""Whether a vector that is served for long still gains what it gained: its newest windows beside the ones before.

While vectors change at every deal the posterior sees the world change (`jump`). In confirm, ramp and hold one vector
is served, and its deal's sums grow: what the newest windows say drowns in what was. So they are judged by themselves.
"""

import math

import msgspec

from controller.core.advance import measured_gain
from controller.core.control import Control, Statistics, deal_sums
from controller.core.plan import Plan
from controller.core.rollout import Deal

RECENT = 6  # windows; fewer where windows are sealed sooner
LOST = 0.5  # of the gain before, that counts as a change: effects swing with the hour of the day
SURE = 4.5  # standard errors beyond that: 30 days of hourly looks at one vector cry wolf in .25 % of studies


def faded(plan: Plan, control: Control, seen: Statistics, deal: Deal) -> str | None:
    """Why the deal's vector is to be given up, or None.

    Both parts share the buckets' traits, so the difference is surer than the standard error that is taken, as of
    independent parts.
    """
    if deal.stage == "explore" or len(deal.arms) != 2:
        return None
    newest = {key for key in seen.cells if key[0] > seen.end_ms - RECENT * plan.window.length_ms}
    before = deal_sums(control, {key: seen.cells[key] for key in seen.cells.keys() - newest}, deal.id)
    unsealed = msgspec.structs.replace(control, totals={})
    after = deal_sums(unsealed, {key: seen.cells[key] for key in newest}, deal.id)
    if before is None or after is None:
        return None
    (was, was_se), (now, now_se) = (measured_gain(plan, deal, cell) for cell in (before, after))
    lost = was - now - LOST * max(was, 0.0)
    if not lost > SURE * math.hypot(was_se, now_se):  # what is no number says nothing
        return None
    windows = len({end for end, _ in newest})
    return (
        f"the world has changed: {deal.arms[1].arm} gains {now:+.2%} +- {now_se:.2%} in the last {windows} windows, "
        f"{was:+.2%} +- {was_se:.2%} before"
    )
