"""A bad hour in a test neither stops a good vector nor spoils its claim; what is bad all the time is stopped."""

from collections.abc import Callable

import msgspec

from controller.core import late
from controller.core.evidence import trial_sums
from controller.core.looks import looked
from controller.core.replay import replay
from controller.core.worst import Look, Looks
from tests.core.loop import HOUR, PLAN, Loop, Row, at_stage, journalled, varied


def worse(loop: Loop, clicks: float, watch: float = 0.0) -> Callable[[Row], Row]:
    """The candidate's people click and watch less by so much."""
    name = loop.carry.candidate.arm

    def bend(row: Row) -> Row:
        if row.arm != name:
            return row
        impressions, clicked, watched = row.values
        return row._replace(values=(impressions, clicked * (1.0 - clicks), watched * (1.0 - watch)))

    return bend


def test_each_window_of_a_test_is_known_by_itself() -> None:
    loop = at_stage("confirm")
    loop.windows(3)
    looks = loop.state.experiment.looks
    assert looks.trial == loop.state.experiment.trial.id  # type: ignore[union-attr]
    assert [look.end_ms for look in looks.windows] == sorted({look.end_ms for look in looks.windows})
    assert len(looks.windows) == 3
    assert all(abs(look.change[0] - looks.windows[0].change[0]) < 0.03 for look in looks.windows)
    assert all(0.001 < look.se[0] < 0.01 for look in looks.windows)  # 1 % of noise a bucket, 24 buckets and more


def test_windows_of_a_backlog_are_known_as_well() -> None:
    """The daemon is down for longer than the lateness: what was served is in the test's sums and looks."""
    loop = Loop(plan=varied(rollout={"confirm_ms": 10 * HOUR}))
    loop.until("confirm")
    loop.windows(3)
    first = loop.hour
    rows = [row for hour in range(first, first + 3) for row in loop.rows(hour=hour)]
    loop.poll([*rows, loop.settles(first + 2)], backlog=True)
    loop.poll([loop.settles(first + 6)], backlog=True)
    loop.hour = first + 7
    loop.windows(1)
    experiment = loop.state.experiment
    sums = trial_sums(experiment, loop.state.windows.cells)
    assert sums is not None
    assert experiment.trial is not None
    weight = late.totals(
        loop.plan.metrics, ("impressions", "clicks", "watch_s"), sums.sums[:, experiment.trial.buckets == 0]
    )
    assert len(experiment.looks.windows) == 7
    assert sum(look.weight[0] for look in experiment.looks.windows) == weight[0, 0]
    assert {checked.outcome for checked in replay(journalled(loop.records))} == {"exact"}


def test_one_bad_hour_does_not_stop_a_good_vector() -> None:
    loop = at_stage("hold")
    loop.windows(3)
    loop.window(worse(loop, clicks=0.25))
    loop.windows(3)
    assert loop.carry.stage == "hold"
    assert {checked.outcome for checked in replay(journalled(loop.records))} == {"exact"}


def test_a_vector_that_turns_bad_is_stopped_by_its_second_bad_hour_or_third() -> None:
    loop = at_stage("hold")
    loop.windows(3)
    for _ in range(3):
        if loop.carry.stage == "hold":
            loop.window(worse(loop, clicks=0.25))
    assert loop.carry.stage == "explore"
    assert any("guardrail: c" in line or "the world has changed" in line for line in loop.story()[-3:])


def test_a_vector_that_is_bad_from_the_start_is_stopped_in_its_second_hour() -> None:
    loop = at_stage("confirm")
    stopped = []
    for _ in range(2):
        loop.window(worse(loop, clicks=0.25))
        stopped.append(loop.carry.stage == "explore")
    assert stopped == [False, True]
    assert "guardrail: c" in loop.carry.reason or "guardrail: c" in loop.story()[-1]


def test_a_share_s_first_window_that_is_bad_is_looked_at_twice_before_the_share_grows() -> None:
    loop = at_stage("ramp")
    share = loop.carry.ramp_step
    loop.window(worse(loop, clicks=0.25))
    assert (loop.carry.stage, loop.carry.ramp_step) == ("ramp", share)
    good = loop.clone()
    good.window()
    assert (good.carry.stage, good.carry.ramp_step) == ("ramp", share + 1)
    loop.window(worse(loop, clicks=0.25))
    assert loop.carry.stage == "explore"


def test_every_window_of_a_long_test_is_known_until_it_is_judged() -> None:
    """And of a vector that is held for longer the older ones by their weight together."""
    experiment = at_stage("confirm").state.experiment
    trial = experiment.trial.id  # type: ignore[union-attr]
    windows = tuple(Look(end, (0.0, 0.0), (2.0, 1.0)) for end in range(150))
    experiment = msgspec.structs.replace(experiment, looks=Looks(trial, windows))
    assert looked(varied(rollout={"confirm_ms": 100 * HOUR}), experiment, {}).looks.windows == windows
    assert looked(PLAN, experiment, {}).looks == Looks(trial, windows[54:], (108.0, 54.0))
