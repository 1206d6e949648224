from controller.shell.health import Health


def test_news_of_a_part_is_told_and_its_details_are_not() -> None:
    told: list[dict[str, str]] = []
    health = Health(told.append)
    health.set("start", None)
    health.set("redis", "down")
    health.set("source", "gone")
    health.set("source", "gone for longer")
    assert health.faults == {"redis": "down", "source": "gone for longer"}
    health.set("redis", None)
    health.set("source", None)
    assert health.faults == {}
    assert told == [{}, {"redis": "down"}, {"redis": "down", "source": "gone"}, {"source": "gone for longer"}, {}]
