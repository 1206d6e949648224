"""The A/A stage and the look for carry-over, through the production step."""

from collections.abc import Callable

import numpy as np
import pytest

from controller.core.carryover import Carryover
from controller.core.experiment import Statistics, carrying
from controller.core.replay import replay
from controller.core.soundness import followed_on
from controller.core.windows import Quality
from tests.core.loop import HOUR, PLAN, START, Loop, Row, journalled, varied

VERIFYING = varied(PLAN, rollout={"verify_ms": 3 * HOUR})


def lossy(share: float, arm: int) -> Callable[[Loop], Callable[[Row], Row]]:
    """A pipeline that loses a share of an arm's watch time."""

    def of(loop: Loop) -> Callable[[Row], Row]:
        name = loop.table.arms[arm].arm if len(loop.table.arms) > arm else ""

        def bend(row: Row) -> Row:
            if row.arm != name:
                return row
            return row._replace(values=(*row.values[:2], row.values[2] * (1.0 - share)))

        return bend

    return of


def test_a_sound_pipeline_is_verified_and_explored() -> None:
    loop = Loop(VERIFYING)
    assert loop.table.stage == "verify"
    loop.windows(3)
    assert loop.table.stage == "verify"
    assert {arm.role for arm in loop.table.arms[1:]} == {"verify"}
    assert all(arm.theta == loop.table.arms[0].theta for arm in loop.table.arms)
    assert "every arm serves the baseline" in loop.story()[-1]
    loop.window()  # the first was all control: it showed nothing of arms
    assert loop.carry.stage == "explore"
    assert loop.table.stage == "explore"
    assert "A/A: no arm differs; s.e. of an arm in a window / of the confirm test: watch" in loop.carry.reason
    assert loop.state.experiment.evidence == ()


def test_the_noise_is_told_and_kept() -> None:
    loop = Loop(VERIFYING, noise=0.05)
    loop.windows(5)
    noise = {n.metric: n for n in loop.carry.noise}
    assert set(noise) == {"watch", "ctr"}
    # 12 of 120 buckets an arm, 72 on control
    assert noise["ctr"].arm_se == pytest.approx(0.05 * np.sqrt(1 / 12 + 1 / 72), rel=0.25)
    # the candidate has half of the share at risk, what goes on exploring the other
    assert noise["ctr"].test_se == pytest.approx(0.05 * np.sqrt((1 / 0.2 + 1 / 0.6) / (120 * 3)), rel=0.25)


@pytest.mark.parametrize("arm", [0, 2])
def test_a_broken_pipeline_is_paused_with_the_reason(arm: int) -> None:
    loop = Loop(VERIFYING)
    for _ in range(4):
        loop.window(lossy(0.1, arm)(loop))
    assert loop.carry.stage == "paused"
    who = "control" if arm == 0 else f"arm {arm}"
    assert loop.carry.reason.startswith(f"A/A: watch of {who} differs from the others'")
    assert len(loop.table.arms) == 1
    loop.order("resume", "repaired")
    assert loop.carry.stage == "verify"
    loop.until("explore")


def test_the_breaker_does_not_ban_the_baseline() -> None:
    loop = Loop(VERIFYING)
    loop.window()
    name = loop.table.arms[1].arm
    rows = [row._replace(values=(row.values[0], 1.0, row.values[2])) if row.arm == name else row for row in loop.rows()]
    loop.poll(rows)
    loop.poll([loop.beat(rows[-1].ts_ms + 2 * 60_000)])
    assert loop.carry.stage == "paused"
    assert "A/A: " in loop.carry.reason
    assert loop.carry.banned == ()
    assert len(loop.table.arms) == 1


def test_without_the_stage_exploring_begins_at_once() -> None:
    loop = Loop()
    assert loop.table.stage == "explore"
    assert loop.carry.noise == ()


def test_verify_s_decisions_are_made_again() -> None:
    loop = Loop(VERIFYING)
    loop.windows(6)
    assert {checked.outcome for checked in replay(journalled(loop.records))} == {"exact"}


class Remembering(Loop):
    """A product whose buckets keep a share of what their last arm did to watch time."""

    share = 0.0

    def rows(self, hour: int | None = None, minute: float = 30.0) -> list[Row]:
        rows = super().rows(hour, minute)
        if len(self.tables) > 1:
            before = {b: self.tables[-2].arms[a] for b, a in enumerate(self.tables[-2].buckets)}
            left = [self.truth(before[row.bucket].theta["all"], "all").get("watch_s", 0.0) for row in rows]
            rows = [
                row._replace(values=(*row.values[:2], row.values[2] * (1.0 + self.share * x)))
                for row, x in zip(rows, left, strict=True)
            ]
        return rows


def exploring(share: float, hours: int) -> Loop:
    plan = varied(PLAN, rollout={"explore_min_ms": 99 * HOUR, "explore_max_ms": 99 * HOUR})
    loop = Remembering(plan, noise=0.03)
    loop.share = share
    loop.windows(hours)
    return loop


def test_what_carries_over_is_said_with_every_decision() -> None:
    loop = exploring(0.5, 12)
    assert "; carry-over: +" in loop.story()[-1]
    assert "of what an arm did to watch still shows" in loop.story()[-1]
    assert {checked.outcome for checked in replay(journalled(loop.records))} == {"exact"}


def test_where_nothing_carries_over_nothing_is_said() -> None:
    loop = exploring(0.0, 12)
    assert not any("carry-over" in line for line in loop.story())
    assert loop.carry.carryover.deal > 5
    assert max(loop.carry.carryover.information) > 0.0


def test_each_pair_of_deals_is_looked_at_once() -> None:
    loop = Loop()
    loop.windows(4)
    experiment, cells = carrying(loop.state.experiment, carryover=Carryover()), loop.state.windows.cells
    seen = Statistics(START + loop.hour * HOUR, cells, np.zeros(PLAN.buckets, np.int64), Quality())
    newest = max(experiment.versions[version] for _, version in cells)
    once = followed_on(PLAN, experiment, seen, experiment.deals[newest])
    assert once.carry.carryover.deal == newest
    assert max(once.carry.carryover.information) > 0.0
    assert followed_on(PLAN, once, seen, experiment.deals[newest]) is once
    assert followed_on(PLAN, once, seen, experiment.deals[newest - 1]) is once
