"""The whole loop in virtual time, on the production step, recorder and journal."""

from pathlib import Path

import numpy as np
import pytest

from controller.assignment import decode
from controller.core.replay import window_sums
from controller.core.windows import WindowPlan
from controller.shell.fingerprint import single_threaded
from controller.shell.journal import Journal
from controller.shell.verify import verify
from simulators.closed_loop import START_MS, Turn, run, spans
from simulators.handmade import FEED, QUICK
from simulators.optimum import best_feasible
from simulators.report import report
from simulators.study import study_of
from simulators.worlds import HOUR_MS, gain, margins, true_change

PLAN = study_of(QUICK).plan
HOURS = 18  # after which no pick of 24 seeds was beyond its limit by a tenth of it or more; after 12, four were


@pytest.fixture(scope="module")
def eighteen_hours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Turn]]:
    path = tmp_path_factory.mktemp("loop") / "quick.journal"
    turns: list[Turn] = []
    run(PLAN, QUICK, HOURS, seed=0, journal=path, watch=turns.append)
    return path, turns


def test_every_window_is_decided_once_in_order(eighteen_hours: tuple[Path, list[Turn]]) -> None:
    ends = [decision.end_ms for turn in eighteen_hours[1] for decision in turn.info.decisions]
    assert ends == [START_MS + h * HOUR_MS for h in range(1, HOURS + 1)]


def test_events_are_believed_or_counted(eighteen_hours: tuple[Path, list[Turn]]) -> None:
    counts: dict[str, int] = {}
    for turn in eighteen_hours[1]:
        for result, count in turn.info.ingested.counts.items():
            counts[result] = counts.get(result, 0) + count
    assert sum(counts.values()) == eighteen_hours[1][-1].events
    assert 0 < counts["duplicate"] < 0.01 * counts["accepted"]
    assert {result for result, count in counts.items() if count} == {"accepted", "duplicate"}


def test_the_pick_is_better_than_the_baseline(eighteen_hours: tuple[Path, list[Turn]]) -> None:
    pick = eighteen_hours[1][-1].state.experiment.carry.pick
    assert pick is not None
    change = true_change(QUICK, pick.theta)
    assert gain(QUICK, change) > 0.02
    assert margins(QUICK, change).min() > 0


def test_the_journal_verifies_and_holds_every_table(eighteen_hours: tuple[Path, list[Turn]]) -> None:
    with single_threaded():
        verdict = verify(eighteen_hours[0])
    assert verdict.ok, verdict
    with Journal.read_only(eighteen_hours[0]) as journal:
        decided = [decode(entry.body["table"].encode()) for entry in journal.entries(kinds=("decided",))]
        published = [entry.body["version"] for entry in journal.entries(kinds=("published",))]
        sealed = [end for end, _ in window_sums(journal.entries())]
    assert published[1:] == [table.version for table in decided]  # the first is the all-control table of the start
    assert [table.decided_through_ms for table in decided] == [START_MS + h * HOUR_MS for h in range(1, HOURS + 1)]
    assert sealed == [START_MS + h * HOUR_MS for h in range(1, HOURS - 5)]  # the lateness is six hours


def test_the_same_seed_gives_the_same_study(eighteen_hours: tuple[Path, list[Turn]], tmp_path: Path) -> None:
    again = run(PLAN, QUICK, 4, seed=0, journal=tmp_path / "again.journal")
    first = next(turn.state for turn in eighteen_hours[1] if len(turn.state.experiment.versions) == 5)
    assert again.experiment.carry.pick == first.experiment.carry.pick
    assert np.array_equal(again.experiment.deals[5].buckets, first.experiment.deals[5].buckets)


def test_spans_follow_each_other_and_end_with_the_grace() -> None:
    window = WindowPlan(HOUR_MS, 300_000, 6 * HOUR_MS, 6 * HOUR_MS, 3 * HOUR_MS)
    cut = list(spans(window, START_MS + 5, 3, polls=4))
    assert cut[0][0] == START_MS
    assert [begin for begin, _, _ in cut[1:]] == [end for _, end, _ in cut[:-1]]
    assert [end for _, end, settles in cut if settles] == [START_MS + h * HOUR_MS + 300_000 for h in (1, 2, 3)]
    assert len(cut) == 12


@pytest.mark.slow
def test_a_day_of_the_feed_finds_half_of_what_can_be_gained_inside_the_guardrails(tmp_path: Path) -> None:
    turns: list[Turn] = []
    run(study_of(FEED).plan, FEED, 24, seed=0, journal=tmp_path / "feed.journal", watch=turns.append)
    best = best_feasible(FEED)
    found = report(FEED, 0, 24, turns[-1], 0.0, best, "", "")
    assert found.feasible, found
    assert found.true_gain >= 0.5 * best.gain, found
