"""Which weight vectors to try next, and which one to recommend.

| symbol | shape | meaning |
|---|---|---|
| M, L | | metrics, limits (`goal`) |
| k, d, G' | | candidate points, free weights, groups that have weights of their own (1 when unsegmented) |

Exploration is constrained Thompson sampling (Eriksson and Poloczek 2021, "Scalable constrained
Bayesian optimization"): each arm takes one joint draw of all metrics and the candidate that the draw
likes best among those it finds feasible. The arms share a budget of risk: the sum of their P(a guardrail is broken) is
at most `risk` an arm, so that this part of the traffic is expected to break one. A few bold arms beside safe ones show
more than many lukewarm ones: where all must be probably feasible, a direction that looked bad by chance is never tried
again. P(a guardrail is broken by far) is within `TAIL_RISK` for each. The anchor at the baseline (`kernel`) makes what
can be borne a neighbourhood of the baseline at first, which grows as evidence comes in. Groups choose independently of
one another.

Where nothing is within the risk, control's vector is what is left, and nothing is dealt. Unless it is the baseline that
breaks a guardrail ("ctr must rise by 1 %"): then the arms go to what has the largest chance to be feasible, which finds
a feasible region soonest.
"""

from typing import Literal

import msgspec
import numpy as np
from msgspec.structs import astuple
from numpy.typing import NDArray
from scipy.special import ndtr

from controller.core.candidates import around, initial, pool, rms_distance
from controller.core.goal import TAIL_RISK, Goal, Limit, margins, outermost, p_kept, part, tolerant
from controller.core.kernel import Floats
from controller.core.posterior import Posterior, Told, further, paths

Reason = Literal["initial", "repeat", "thompson", "safe"]

AHEAD_H = 24.0  # a vector is chosen for the coming day: what it does in the mean of its hours is what counts
REPEAT_SHARE = 0.25  # of the arms: evidence on the best known vectors is what a pick, and a claim, is made of
UNSURE = 0.4  # largest P(a guardrail is broken) of a vector that is dealt again
BOLDEST = 0.85  # largest P(a guardrail is broken) of a vector that the risk may be spent on
MIN_MOVE = 0.01  # root mean square distance: closer to the baseline, or to another arm, an arm tells nothing
BANNED_RADIUS = 0.05  # root mean square distance that is kept from vectors that broke a guardrail
DRAWN = 256  # candidates in a joint draw: the cost is their number cubed
REFINED, NEAR_BEST = 2, 12  # rounds in which draws go on around what each likes best; points for each draw
ANCHORS = 6  # vectors that local candidates are spread around
CAUTION = 0.25  # standard deviations off the mean, so that the pick is not the luckiest candidate
MIN_FEASIBLE = 0.8  # P(every guardrail is kept) below which nothing is recommended: less is believed too readily
MIN_GAIN = 0.001  # of the objective, per unit of its coefficients: less is not worth a rollout
REGRET_DRAWS = 64
ROUNDING = 1e-12  # a standard deviation below this, per unit of the objective's coefficients, is none
SCREENED = 64  # earlier vectors, best by mean, whose standard deviations are looked at
SPARE = 8  # vectors drawn for each of a first deal beside bans
CLIMBS, CLIMB_POINTS = 4, 96  # rounds of local search for the pick, and points in each
TOLD = 3  # digits of a P(every guardrail is kept) by which what can be borne nowhere is told apart
ROUNDED = 9  # digits of a point: what is decided should not hang on the last ones


class Proposal(msgspec.Struct, frozen=True, eq=False):
    """Vectors for the arms, and why each was chosen."""

    unit: Floats  # (arms, G', d)
    reasons: tuple[Reason, ...]  # arms


class Pick(msgspec.Struct, frozen=True, eq=False):
    """The vector to be promoted if the study ended now. The gain is of the objective, over all groups."""

    unit: Floats  # (G', d)
    gain_mean: float
    gain_sd: float
    p_feasible: float  # every guardrail is kept in every group
    p_better: float  # the gain is positive
    regret: float  # expected gain of the best feasible vector over this one


class _Belief(msgspec.Struct, frozen=True, eq=False):
    """What is believed of the goal at k points."""

    gain: Floats  # (k,) mean of the objective
    sd: Floats  # (k,)
    feasible: Floats  # (k,) P(every guardrail is kept)
    bounded: Floats  # (k,) P(no guardrail is broken by more than `TAIL`)
    violation: Floats  # (k,) total of the expected changes

    @property
    def score(self) -> Floats:
        """(k,) cautious gain x P(feasible) (as in Gelbart, Snoek and Adams 2014, with the gain for its improvement)."""
        return (self.gain - CAUTION * self.sd) * self.feasible

    def bearable(self, risk: float) -> NDArray[np.bool_]:
        """(k,) whether exploration may deal the point."""
        return np.asarray((self.feasible >= 1.0 - risk) & (self.bounded >= 1.0 - TAIL_RISK))


class _View(msgspec.Struct, frozen=True, eq=False):
    """The posterior as one group sees it now, through the goal."""

    posterior: Posterior
    goal: Goal
    group: int
    hour: float

    def believe(self, unit: Floats) -> _Belief:
        """Marginals at (k, d) points."""
        return self.marginals(self.told(unit))

    def told(self, unit: Floats) -> Told:
        """What the evidence says of (k, d) points, for `marginals` and draws."""
        return self.posterior.told(unit, self.group, self.hour, AHEAD_H)

    def marginals(self, told: Told) -> _Belief:
        """Marginals at points."""
        return _believed(self.goal, *self.posterior.marginals(told))

    def draw(self, unit: Floats, draws: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Joint draws at (k, d) points: gains and total violations, (draws, k) each."""
        return self.judge(self.posterior.draw(unit, self.group, self.hour, rng, draws, AHEAD_H))

    def promising(self, unit: Floats) -> Floats:
        """The few points with the best means: what bounds the cost when the history is long."""
        if len(unit) <= SCREENED:
            return unit
        gain, violation = self.judge(self.posterior.mean(unit, self.group, self.hour, AHEAD_H))
        return unit[_order(gain, violation)[:SCREENED]]

    def judge(self, f: Floats) -> tuple[Floats, Floats]:
        """Gains and total violations, (..., k) each, of relative changes (..., M, k)."""
        violation = np.maximum(-margins(self.goal, f), 0.0).sum(axis=-2)
        return np.array(self.goal.objective) @ f, violation


def propose(
    posterior: Posterior,
    goal: Goal,
    groups: tuple[int, ...],
    hour: float,
    *,
    arms: int,
    risk: float,
    previous: Floats,
    banned: Floats,
    rng: np.random.Generator,
    shares: Floats | None = None,
) -> Proposal:
    """Vectors for the next deal's explore arms.

    Args:
        posterior: the belief; without any row, a space-filling set around the baseline is dealt.
        goal: the objective and the guardrails, by metric index.
        groups: G' groups that get weights of their own: `(0,)`, or the segments `(1, ..., K)`.
        hour: from which on, for a day, the vectors are to be good, in hours since the study's start.
        arms: how many vectors.
        risk: largest mean over the arms, in each group, of P(a guardrail is broken), while anything is within it.
        previous: (A', G', d) vectors dealt earlier, of which a share of the arms repeats the best.
        banned: (b, G', d) vectors that no arm may come near, in each group to that group's point.
        rng: the decision's randomness.
        shares: (M, G') what each group makes of each metric in all traffic; equal parts when not given.
    """
    goals = _parts(goal, groups, shares)
    if posterior.rows == 0:
        drawn = [_first(posterior.baseline, arms, banned[:, j], rng) for j in range(len(groups))]
        fewest = min(len(unit) for unit in drawn)
        first: list[Reason] = ["initial"] * fewest
        return Proposal(np.stack([unit[:fewest] for unit in drawn], axis=1), tuple(first))
    views = [_view(posterior, goals[j], group, hour) for j, group in enumerate(groups)]
    chosen = [
        _propose_group(view, arms, risk, apart(previous[:, j], posterior.baseline, banned[:, j]), banned[:, j], rng)
        for j, view in enumerate(views)
    ]
    most = max(len(unit) for unit, _ in chosen)
    chosen = [_padded(view, *own, most, risk * arms) for view, own in zip(views, chosen, strict=True)]
    arms = min(len(unit) for unit, _ in chosen)  # bans, or a narrow region, may leave room for fewer
    unit = np.stack([unit[:arms] for unit, _ in chosen], axis=1)
    reasons: list[Reason] = [_arm_reason([own[a] for _, own in chosen]) for a in range(arms)]
    return Proposal(unit, tuple(reasons))


def recommend(
    posterior: Posterior,
    goal: Goal,
    groups: tuple[int, ...],
    hour: float,
    *,
    candidates: Floats,
    rng: np.random.Generator,
    shares: Floats | None = None,
    banned: Floats | None = None,
) -> Pick | None:
    """The vector with the largest expected feasible gain, or None when none is both better and probably feasible.

    Feasible is what keeps every limit within `TOLERANCE`.

    Args:
        posterior: the belief.
        goal: the objective and the guardrails, by metric index.
        groups: G' groups that get weights of their own.
        hour: from which on, for a day, the vector is to be good, in hours since the study's start.
        candidates: (k, G', d) vectors dealt earlier; points around the best of them compete too, and in each
            group the baseline.
        rng: the decision's randomness.
        shares: (M, G') what each group makes of each metric in all traffic, of which the rest keeps the baseline; equal
            parts when not given.
        banned: (b, G', d) vectors that the pick may not come near, in each group to that group's point.
    """
    goals = _parts(tolerant(goal), groups, shares)
    kept_off = np.empty((0, *candidates.shape[1:])) if banned is None else banned
    sure = least(len(groups))
    picks = [
        _pick_group(_view(posterior, goals[j], group, hour), candidates[:, j], kept_off[:, j], sure, rng)
        for j, group in enumerate(groups)
    ]
    unit = np.stack([u for u, _, _ in picks])
    if (unit == posterior.baseline).all() or any(belief.feasible[0] < sure for _, belief, _ in picks):
        return None  # the latter: a group kept an infeasible baseline
    gain = float(sum(belief.gain[0] for _, belief, _ in picks))
    least_sd = ROUNDING * float(np.abs(goal.objective).sum())
    weights = np.array([own.objective for own in goals]).T  # (M, G')
    sd = posterior.sum_sd(weights, unit, np.array(groups), hour, AHEAD_H)
    return Pick(
        unit=unit,
        gain_mean=gain,
        gain_sd=sd,
        p_feasible=float(np.prod([belief.feasible[0] for _, belief, _ in picks])),
        p_better=float(ndtr(gain / max(sd, least_sd))),
        regret=sum(regret for _, _, regret in picks),
    )


def apart(unit: Floats, baseline: Floats, banned: Floats) -> Floats:
    """The points (k, d) that are neither the baseline nor near a banned one (b, d).

    A group whose point of a banned vector is the baseline had no part in what it was banned for.
    """
    moved, banned_moved = (rms_distance(at, baseline[None])[:, 0] >= MIN_MOVE for at in (unit, banned))
    return unit[moved & (rms_distance(unit, banned[banned_moved]) >= BANNED_RADIUS).all(axis=1)]


def distinct(unit: Floats) -> Floats:
    """The points (k, d), each once, in an order of their own; what differs by rounding is the same."""
    return np.asarray(unit[np.unique(np.round(unit, ROUNDED), axis=0, return_index=True)[1]])


def least(groups: int) -> float:
    """P(every guardrail is kept) below which nothing is recommended in any of so many groups, as all together count."""
    return float(MIN_FEASIBLE ** (1.0 / groups))


def worth(goal: Goal, mean: Floats, sd: Floats, sure: float) -> Floats:
    """(k,) what `recommend` looks for the largest of, at k points of these marginals, (M, k) each; `sure`: `least`."""
    return _worth(_believed(goal, mean, sd), sure)


def p_violation(posterior: Posterior, goal: Goal, unit: Floats, group: int, hour: float) -> Floats:
    """(k,) P(a guardrail is broken) at (k, d) points."""
    return 1.0 - _view(posterior, goal, group, hour).believe(unit).feasible


def _parts(goal: Goal, groups: tuple[int, ...], shares: Floats | None) -> list[Goal]:
    """Each group's goal: the objective is the sum over groups of what each of them makes of it, metric by metric."""
    equal = np.full((len(goal.objective), len(groups)), 1.0 / len(groups))
    return [part(goal, share) for share in (equal if shares is None else shares).T]


def _believed(goal: Goal, mean: Floats, sd: Floats) -> _Belief:
    coefficient = np.array(goal.objective)
    violation = np.maximum(-margins(goal, mean), 0.0).sum(axis=0)
    return _Belief(
        gain=coefficient @ mean,
        sd=np.sqrt(coefficient**2 @ sd**2),
        feasible=p_kept(goal, mean, sd),
        bounded=p_kept(outermost(goal), mean, sd),
        violation=violation,
    )


def _view(posterior: Posterior, goal: Goal, group: int, hour: float) -> _View:
    """Only the metrics that the goal names are looked at."""
    named = {m for m, coefficient in enumerate(goal.objective) if coefficient} | {own.metric for own in goal.limits}
    metrics = sorted(named)
    objective = tuple(goal.objective[m] for m in metrics)
    limits = tuple(Limit(metrics.index(own.metric), own.sign, own.limit) for own in goal.limits)
    return _View(posterior.only(metrics), Goal(objective, limits), group, hour)


def _order(gain: Floats, violation: Floats) -> NDArray[np.intp]:
    """Indices, best first: the feasible by gain, then the others by how little they violate."""
    return np.lexsort((-gain, violation))


def _propose_group(
    view: _View, arms: int, risk: float, previous: Floats, banned: Floats, rng: np.random.Generator
) -> tuple[Floats, list[Reason]]:
    """(arms, d) vectors of one group: repeats first, then draws; the safest where not even the baseline can be borne.

    Fewer where no more can be borne, or are `MIN_MOVE` apart: their traffic stays control's.
    """
    baseline = view.posterior.baseline
    chosen = _repeats(view, previous, round(REPEAT_SHARE * arms), min(risk, UNSURE))
    reasons: list[Reason] = ["repeat"] * len(chosen)
    unit = rng.permutation(apart(pool(baseline, _anchors(view), rng), baseline, banned))
    budget = risk * arms - float((1.0 - view.believe(chosen).feasible).sum())
    drawn = _searched(view, unit, arms - len(chosen), min(budget, BOLDEST), banned, rng)
    chosen = _thompson(drawn, chosen, budget)
    reasons += ["thompson"] * (len(chosen) - len(reasons))
    if not len(chosen) and not view.believe(baseline[None]).bearable(risk)[0]:
        belief = view.believe(unit)
        # P is next to 0 far from what is feasible: there the expected violation says what is nearer.
        # Where all that is known breaks a limit, P is largest of what is least known: what may break it by far is last.
        far = belief.bounded < 1.0 - UNSURE
        safest = unit[np.lexsort((belief.violation, -np.round(belief.feasible, TOLD), far))]
        chosen = _fill(chosen, safest, arms)
    return chosen, reasons + ["safe"] * (len(chosen) - len(reasons))


def _padded(view: _View, unit: Floats, reasons: list[Reason], arms: int, budget: float) -> tuple[Floats, list[Reason]]:
    """A group's vectors with the least risky of them again, as the risk pays for it, in the arms that others have.

    A group that has none keeps the baseline in them.
    """
    more = arms - len(unit)
    if not more:
        return unit, reasons
    if not len(unit):
        return np.repeat(view.posterior.baseline[None], more, axis=0), ["repeat"] * more
    risk = 1.0 - view.believe(unit).feasible
    safest = int(np.argmin(risk))
    paid = min(more, int(max(budget - risk.sum(), 0.0) / max(risk[safest], 1e-9)))
    again: list[Reason] = ["repeat"] * paid
    return np.concatenate((unit, np.repeat(unit[[safest]], paid, axis=0))), reasons + again


def _first(baseline: Floats, arms: int, banned: Floats, rng: np.random.Generator) -> Floats:
    """(arms, d) vectors of one group before anything is known; fewer where bans leave no room."""
    if not len(banned):
        return initial(baseline, arms, rng)
    return apart(initial(baseline, SPARE * arms, rng), baseline, banned)[:arms]


def _anchors(view: _View) -> Floats:
    """The most promising vectors that were ever dealt to the group (to any, where the group has seen none)."""
    seen = view.posterior.seen
    own = seen.group == view.group
    unit = view.promising(distinct(seen.unit[own] if own.any() else seen.unit))
    return unit[np.argsort(-view.believe(unit).score, kind="stable")[:ANCHORS]]


def _repeats(view: _View, previous: Floats, count: int, risk: float) -> Floats:
    """Up to `count` of the most promising earlier vectors, distinct and within the risk: so they leave some of it."""
    if not len(previous) or not count:
        return previous[:0]
    known = view.promising(distinct(previous))
    belief = view.believe(known)
    order = np.argsort(-belief.score, kind="stable")
    return _fill(previous[:0], known[order[belief.bearable(risk)[order]]], count)


class _Drawn(msgspec.Struct, frozen=True, eq=False):
    """What draws make of k points."""

    unit: Floats  # (k, d)
    risk: Floats  # (k,) P(a guardrail is broken)
    gain: Floats  # (draws, k)
    violation: Floats  # (draws, k)


def _searched(view: _View, unit: Floats, draws: int, risk: float, banned: Floats, rng: np.random.Generator) -> _Drawn:
    """So many joint draws of all metrics, at points that can be borne.

    A few hundred points at random hold no draw's optimum once there are more than three weights. So every draw goes
    on around the point that it likes best, again and again: a local search on one sample path.
    """
    path = paths(view.posterior, draws)
    p, gain, violation = np.empty(0), np.empty((draws, 0)), np.empty((draws, 0))
    for _ in range(1 + REFINED):
        told = view.told(unit)
        belief = view.marginals(told)
        borne = np.flatnonzero(belief.bearable(risk))[:DRAWN]
        if not len(borne):
            break
        path, f = further(path, told.only(borne), rng)
        more_gain, more_violation = view.judge(f)
        p = np.append(p, 1.0 - belief.feasible[borne])
        gain, violation = np.append(gain, more_gain, axis=1), np.append(violation, more_violation, axis=1)
        best = [_order(*own)[0] for own in zip(gain, violation, strict=True)]
        if best:
            near = around(path.told.places.unit[best], NEAR_BEST * draws, rng)
            unit = apart(near, view.posterior.baseline, banned)
    return _Drawn(path.told.places.unit, p, gain, violation)


def _thompson(drawn: _Drawn, chosen: Floats, budget: float) -> Floats:
    """For each draw one arm more: what it likes best of that which no other arm has and the risk left can pay for."""
    for own in zip(drawn.gain, drawn.violation, strict=True):
        order = _order(*own)
        order = order[drawn.risk[order] <= budget]
        count = len(chosen)
        chosen = _fill(chosen, drawn.unit[order], count + 1)
        if len(chosen) > count:
            budget -= float(drawn.risk[(drawn.unit == chosen[-1]).all(axis=1)].max())
    return chosen


def _fill(chosen: Floats, ranked: Floats, count: int) -> Floats:
    """`chosen` filled up to `count` with the first of `ranked` that are apart from all chosen before."""
    for unit in ranked:
        if len(chosen) >= count:
            break
        if not len(chosen) or rms_distance(unit[None], chosen).min() >= MIN_MOVE:
            chosen = np.concatenate((chosen, unit[None]))
    return chosen


def _arm_reason(own: list[Reason]) -> Reason:
    """One word for an arm whose groups chose each for themselves: the most cautious of theirs."""
    return min(own, key=("safe", "thompson", "repeat").index)


def _pick_group(
    view: _View, candidates: Floats, banned: Floats, sure: float, rng: np.random.Generator
) -> tuple[Floats, _Belief, float]:
    """The best point of one group, its marginals (k = 1), and its regret."""
    baseline = view.posterior.baseline
    unit = np.concatenate((baseline[None], view.promising(apart(candidates, baseline, banned))))
    belief = view.believe(unit)
    for _ in range(CLIMBS):
        best = unit[np.argsort(-_worth(belief, sure), kind="stable")[:ANCHORS]]
        near = apart(around(best, CLIMB_POINTS, rng), baseline, banned)
        unit, belief = np.concatenate((unit, near)), _joined(belief, view.believe(near))
    best_index = int(np.argmax(_worth(belief, sure)))
    if _worth(belief, sure)[best_index] < MIN_GAIN * np.abs(view.goal.objective).sum():
        best_index = 0  # the baseline
    pick = unit[best_index]
    return pick, view.believe(pick[None]), _regret(view, pick, unit, belief, rng)


def _joined(a: _Belief, b: _Belief) -> _Belief:
    return _Belief(*(np.concatenate(both) for both in zip(astuple(a), astuple(b), strict=True)))


def _worth(belief: _Belief, sure: float) -> Floats:
    """(k,) the score where the guardrails are probably kept; below every score elsewhere."""
    return np.where(belief.feasible >= sure, belief.score, belief.feasible - 1e3)


def _regret(view: _View, pick: Floats, unit: Floats, belief: _Belief, rng: np.random.Generator) -> float:
    """Mean over joint draws of the best feasible gain minus the pick's; a gain counts as 0 when infeasible."""
    rivals = np.argsort(-(belief.gain + belief.sd) * belief.feasible, kind="stable")[: DRAWN // 2]
    gain, violation = view.draw(np.concatenate((pick[None], unit[rivals])), REGRET_DRAWS, rng)
    feasible_gain = np.where(violation <= 0.0, gain, 0.0)
    return float((np.maximum(feasible_gain.max(axis=1), 0.0) - feasible_gain[:, 0]).mean())
