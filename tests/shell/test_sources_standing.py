"""Idleness and health of a reader, against the clock."""

from controller.shell.sources_standing import Standing


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
