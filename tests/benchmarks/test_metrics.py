"""The daemon whose metrics are timed takes every event in, and its registry is scraped."""

import pytest

from benchmarks import metrics


def test_every_event_is_taken_in_and_every_call_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SCRAPE_EVERY_S", 0.01)
    run = metrics.measure(6_000)
    assert 5_000 < run.events < 7_000
    assert run.scrapes >= 1
    assert 0 < run.scrapes_s < run.total_s
    assert 0 < run.metrics_s < run.total_s
    assert run.share == (run.metrics_s + run.scrapes_s) / run.total_s
