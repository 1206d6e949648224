"""Idleness and health of a reader, against the clock."""

from controller.shell.sources_standing import Newest, Standing


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def standing(idle_after_s: float | None = 60.0) -> tuple[Standing, Clock]:
    clock = Clock()
    return Standing({0: 5, 1: 0}, idle_after_s, clock), clock


def test_idle_takes_answers_over_the_whole_while() -> None:
    at, clock = standing()
    clock.now = 100.0
    assert at.idle() == frozenset()
    at.answered({0: 5, 1: 3})
    clock.now = 160.0
    assert at.idle() == {0}
    at.advance(1, 3)
    at.answered({0: 6, 1: 3})
    assert at.idle() == frozenset()
    clock.now = 220.0
    at.answered({0: 6, 1: 3})
    assert at.idle() == {1}


def test_idleness_ends_with_a_record_and_with_silence() -> None:
    at, clock = standing()
    at.answered({0: 5, 1: 0})
    clock.now = 60.0
    assert at.idle() == {0, 1}
    at.advance(0, 6)
    assert at.idle() == {1}
    at.advance(1, 0)
    assert at.idle() == {1}
    at.silent("no broker")
    assert at.idle() == frozenset()
    at.answered({0: 6, 1: 0})
    assert at.idle() == frozenset()


def test_health_tells_of_silence_and_of_late_faults() -> None:
    at, clock = standing()
    assert at.health() is None
    at.silent("no broker")
    clock.now = 7.0
    at.silent("still no broker")
    assert at.health() == "still no broker (for 7 s)"
    at.answered({0: 5, 1: 0})
    assert at.health() is None
    at.failed("bad checksum")
    at.answered({0: 5, 1: 0})
    assert at.health() == "bad checksum"
    clock.now = 18.0
    assert at.health() is None


def test_how_far_behind() -> None:
    at, _ = standing(idle_after_s=None)
    assert at.behind() == {0: 0, 1: 0}
    at.answered({0: 9, 1: 4})
    assert at.behind() == {0: 4, 1: 4}
    at.answered({0: 9, 1: 0})
    assert not at.at_end()
    at.advance(0, 9)
    assert at.at_end()


def test_asking_again_is_due_after_a_second_or_a_quarter_of_the_wait() -> None:
    at, clock = standing(idle_after_s=2.0)
    assert at.due()
    at.answered({})
    assert not at.due()
    clock.now = 0.5
    assert at.due()
    at.silent("no broker")
    assert not at.due()


HOUR = 3_600_000
NOW = 1_700_000_000_000
OLD = NOW - 2 * HOUR


def test_the_broker_s_own_timestamp_says_how_far_behind_a_reader_is() -> None:
    at, _ = standing()
    at.answered({0: 9, 1: 0})
    assert at.backlog(Newest(OLD, by_broker=True), HOUR, NOW)
    assert not at.backlog(Newest(NOW - HOUR // 2, by_broker=True), HOUR, NOW)
    at.advance(0, 9)
    assert not at.backlog(Newest(OLD, by_broker=True), HOUR, NOW), "nothing is left"


def test_a_producer_s_timestamp_is_believed_only_of_what_lay_there_at_the_first_answer() -> None:
    at, clock = standing()
    at.answered({0: 9, 1: 0})
    assert at.backlog(Newest(OLD), HOUR, NOW)
    assert not at.backlog(Newest(NOW), HOUR, NOW)
    at.advance(0, 9)
    for offset in range(10, 200):  # a product that stamps its records with the exposure's time: always one left
        clock.now += 60.0
        at.answered({0: offset + 1, 1: 0})
        assert not at.backlog(Newest(OLD), HOUR, NOW)
        at.advance(0, offset)
    at.silent("no answer")
    at.answered({0: 500, 1: 0})
    assert at.backlog(Newest(OLD), HOUR, NOW), "what came while nobody answered"


def test_an_end_that_is_not_passed_for_a_window_is_a_backlog_whatever_the_producers_say() -> None:
    at, clock = standing()
    at.answered({0: 5, 1: 0})
    at.answered({0: 1000, 1: 0})
    for _ in range(60):
        clock.now += 60.0
        at.advance(0, at.positions[0] + 1)
        at.answered({0: 1000 + int(clock.now), 1: 0})
        assert not at.backlog(Newest(NOW), HOUR, NOW)
    clock.now += 1.0
    assert at.backlog(Newest(NOW), HOUR, NOW)
    at.advance(0, 1000)
    assert not at.backlog(Newest(NOW), HOUR, NOW)
