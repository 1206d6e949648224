"""What the console's page says of a study, in a real Chromium, of studies that a test has made by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace
from playwright.sync_api import Browser, Page, expect
from prometheus_client import CollectorRegistry

from controller.core import step as core
from controller.shell.api import Site
from controller.shell.board import Board, StudyView
from controller.shell.health import Health
from controller.shell.journal import Journal
from tests.core.loop import Loop, at_stage
from tests.shell.interface import ANN, TOKENS, serving
from tests.shell.test_findings import journalled


class Console(NamedTuple):
    """The page, and the board that it shows."""

    page: Page
    board: Board
    journal: Path

    def says(self, part: str, words: str) -> None:
        expect(self.page.locator(f"#{part}")).to_contain_text(words)


@contextmanager
def console(browser: Browser, loop: Loop, path: Path, **changes: Any) -> Iterator[Console]:
    """The console of a run by hand as an operator sees it; `changes` are of its view."""
    board, errors = Board(loop.plan, "wall"), []
    with Journal.read_only(journalled(loop, path)) as journal:
        board.recall(journal)
    board.show(loop.state, {}, core.event_clock_ms(loop.state))
    board.study = replace(seen(board), **changes)
    site = Site(loop.plan.study, path, board, Health(lambda faults: None), CollectorRegistry(), TOKENS)
    page = browser.new_context().new_page()
    page.add_init_script(f"sessionStorage.setItem('trimtab-token', '{ANN}')")
    page.on("pageerror", lambda error: errors.append(str(error)))
    try:
        with serving(site) as interface:
            page.goto(interface.url)
            expect(page.locator("#content")).to_be_visible()
            yield Console(page, board, path)
            expect(page.locator("#stale")).to_be_hidden()
    finally:
        page.context.close()
    assert errors == []


def seen(board: Board) -> StudyView:
    assert board.study is not None
    return board.study


DRAWN = """async (decisions) => {
  const made = [], own = window.uPlot;
  window.uPlot = class { constructor(options, data) { made.push(data); } destroy() {} };
  const { gainOverTime } = await import("/console/charts.js");
  gainOverTime(document.createElement("div"), decisions);
  window.uPlot = own;
  return made[0];
}"""


def test_the_curve_has_no_line_where_no_vector_was_known(browser: Browser, tmp_path: Path) -> None:
    def decision(hour: int, gain: float | None, objective: object = None) -> dict[str, object]:
        return {"window_end_ms": hour * 3_600_000, "stage": "explore", "gain_mean": gain, "gain_sd": gain and 0.01,
                "objective": objective}  # fmt: skip

    gains = [0.01, 0.02, None, 0.03, 0.03, None]
    with console(browser, at_stage("explore"), tmp_path / "j") as shown:
        told = [decision(hour, gain) for hour, gain in enumerate(gains)]
        hours, _, _, line = shown.page.evaluate(DRAWN, told)
        assert hours == [3600 * hour for hour in range(6)]
        assert line == [None if gain is None else pytest.approx(100 * gain) for gain in gains]
        told = [decision(0, 0.01), decision(1, 0.01), decision(2, 0.05, {"ctr": 1.0})]
        assert [y is None for y in shown.page.evaluate(DRAWN, told)[3]] == [False, False, True, False]
