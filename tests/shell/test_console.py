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
from controller.core.estimate import Metric
from controller.shell.api import Site
from controller.shell.board import Board, StudyView
from controller.shell.effects import UNKNOWN
from controller.shell.health import Health
from controller.shell.journal import Journal
from controller.shell.story import moment
from tests.core.loop import START, Loop, at_stage, indifferent, varied
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
    board, errors = Board(loop.plan, "wall"), list[str]()
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


LABELLED = """async (decisions) => {
  const own = window.uPlot, made = [], pen = document.createElement("canvas").getContext("2d");
  window.uPlot = class { constructor(options) { made.push(options.axes[1]); } destroy() {} };
  const { gainOverTime } = await import("/console/charts.js"), box = document.createElement("div");
  gainOverTime(box, decisions);
  window.uPlot = own;
  if (!made.length) return box.textContent;
  const said = made[0].values(null, [-2.5, 0, 12.5]);
  pen.font = made[0].font;
  return made[0].size(null, said) - Math.max(...said.map((one) => pen.measureText(one).width));
}"""


def test_the_curve_s_labels_have_room_and_one_decision_is_no_curve(browser: Browser, tmp_path: Path) -> None:
    known = {"window_end_ms": 3_600_000, "stage": "explore", "gain_mean": 0.125, "gain_sd": 0.01, "objective": None}
    unknown = known | {"window_end_ms": 7_200_000, "gain_mean": None}
    with console(browser, at_stage("explore"), tmp_path / "j") as shown:
        assert shown.page.evaluate(LABELLED, [known, known | {"window_end_ms": 7_200_000}]) >= 15, "tick and gap"
        assert shown.page.evaluate(LABELLED, [unknown]) == "No vector is known to gain anything yet."
        assert shown.page.evaluate(LABELLED, [known, unknown]).startswith("One decision knew a vector")


def test_an_objective_of_many_metrics_leaves_the_changes_in_sight(browser: Browser, tmp_path: Path) -> None:
    names = ("watch_time", "likes", "shares", "comments", "follows", "reports", "returns_next_day", "completions")
    metrics = tuple(Metric(name, "clicks", "impressions") for name in names)
    plan = varied(metrics=metrics, objective=dict.fromkeys(names, 0.25), guardrails=())
    loop = Loop(plan, indifferent)
    loop.windows(3)
    with console(browser, loop, tmp_path / "j") as shown:
        shown.says("metrics", "0.25 \u00d7 completions")
        hidden = "box => box.scrollWidth - box.clientWidth"
        assert shown.page.locator(".scroll", has=shown.page.locator("#metrics")).evaluate(hidden) == 0


def test_an_expired_table_is_not_shown_as_live_traffic(browser: Browser, tmp_path: Path) -> None:
    loop = at_stage("explore")
    loop.windows(2)
    until = loop.carry.valid_until_ms
    with console(browser, loop, tmp_path / "j", now_ms=until + 3_600_000) as shown:
        for part in ("headline", "faults"):
            shown.says(part, f"The table expired at {moment(until)[:16]} UTC: clients serve control")
        shown.says("traffic", "control, the baseline: 100")
        expect(shown.page.locator("#traffic")).not_to_contain_text("exploring")
        shown.board.study = replace(seen(shown.board), now_ms=until)
        shown.says("headline", "Exploring 4 vectors on 40")
        shown.says("traffic", "exploring: 40")


def test_segments_come_before_those_who_are_in_none(browser: Browser, tmp_path: Path) -> None:
    loop = Loop(varied(segments=("constructor", "new")))
    loop.windows(1)
    with console(browser, loop, tmp_path / "j") as shown:
        options = shown.page.locator("#segment option")
        expect(options).to_have_text(["constructor", "new", "no segment"])
        arm = seen(shown.board).arms[1]
        for segment in ("constructor", "new", "all"):
            shown.page.locator("#segment").select_option(segment)
            expect(shown.page.locator("#arms tbody tr").nth(1)).to_contain_text(f"{arm.theta[segment][1]:.4g}")


def test_until_the_next_decision_the_headline_names_what_has_the_traffic(browser: Browser, tmp_path: Path) -> None:
    loop = at_stage("hold")
    loop.windows(2)
    held = loop.carry.candidate.arm
    loop.order("choose", theta={"all": (1.0, 2.0, 0.0)}, objective={"watch": 0.5, "ctr": 0.5})
    with console(browser, loop, tmp_path / "j") as shown:
        new = loop.carry.candidate.arm
        shown.says("headline", f"The test of {new} begins at the next decision; {held} still on 90")
    loop.order("choose")
    with console(browser, loop, tmp_path / "k") as shown:
        shown.says("headline", f"Exploring begins at the next decision; {held} still on 90")
    resumed = at_stage("ramp")
    resumed.window()
    resumed.order("pause")
    resumed.order("resume")
    with console(browser, resumed, tmp_path / "l") as shown:
        shown.says("headline", "begins at the next decision; all traffic is on control")


def test_what_is_not_there_is_said_as_it_is(browser: Browser, tmp_path: Path) -> None:
    with console(browser, Loop(), tmp_path / "j") as shown:
        shown.says("glance", "no event has come; 0 records behind")
        shown.says("glance", "no guardrail has been measured yet")
    ramp = at_stage("ramp")
    ramp.window()
    with console(browser, ramp, tmp_path / "l") as shown:
        shown.says("glance", "no guardrail has been measured yet of what is tried now")
    loop = Loop(varied(guardrails=()))
    loop.windows(2)
    with console(browser, loop, tmp_path / "k") as shown:
        shown.says("glance", "the study has no guardrail")


def test_the_keyboard_stays_where_it_was_when_an_order_changes_the_buttons(browser: Browser, tmp_path: Path) -> None:
    loop = at_stage("explore")
    with console(browser, loop, tmp_path / "j") as shown:
        page, board = shown.page, shown.board
        page.locator("#act-rollback").focus()
        loop.order("pause")
        board.show(loop.state, {}, core.event_clock_ms(loop.state))
        shown.says("headline", "Paused")
        expect(page.locator("#act-rollback")).to_be_focused()
        page.locator("#act-resume").focus()
        loop.order("resume")
        board.show(loop.state, {}, core.event_clock_ms(loop.state))
        shown.says("headline", "Exploring")
        expect(page.locator("#act-pause")).to_be_focused()


def test_a_gain_that_cannot_be_measured_is_said_to_be_unknown(browser: Browser, tmp_path: Path) -> None:
    loop = at_stage("explore")
    loop.windows(2)
    with console(browser, loop, tmp_path / "j") as shown:
        measured = seen(shown.board).measured
        assert measured is not None
        effects = replace(measured.effects, gain=UNKNOWN)
        shown.board.study = replace(seen(shown.board), measured=replace(measured, effects=effects), now_ms=START)
        tile = shown.page.locator("#glance .tile").first
        expect(tile.locator("dd")).to_have_text(["unknown", "exploring traffic against control"])


LATE = """() => {
  const own = window.fetch;
  window.fetch = (path, told) => told.method !== "POST" ? own(path, told) : new Promise((done) => {
    window.refuse = () => done(new Response('{"error": "too many requests"}', { status: 429 }));
  });
}"""


def ordered(page: Page, verb: str, why: str) -> None:
    """An order as far as its button in the dialog."""
    page.locator(f"#act-{verb}").click()
    page.locator("#confirm-why").fill(why)


def test_an_order_refused_after_its_dialog_was_closed_is_said_to_be_refused(browser: Browser, tmp_path: Path) -> None:
    with console(browser, at_stage("explore"), tmp_path / "j") as shown:
        page = shown.page
        page.evaluate(LATE)
        ordered(page, "pause", "first")
        page.locator("#confirm-yes").click()
        page.keyboard.press("Escape")
        ordered(page, "rollback", "second")
        page.evaluate("window.refuse()")
        shown.says("acted", "Pause: Refused: too many requests")
        expect(page.locator("#confirm-title")).to_have_text("Roll back study hand?")
        expect(page.locator("#confirm-why")).to_have_value("second")
        expect(page.locator("#confirm-fault")).to_have_text("")


def test_an_order_can_be_given_while_another_waits_for_the_daemon(browser: Browser, tmp_path: Path) -> None:
    with console(browser, at_stage("explore"), tmp_path / "j") as shown:
        ordered(shown.page, "pause", "first")
        shown.page.locator("#confirm-yes").click()
        shown.says("acted", "Pause: safe in the journal, waiting for the daemon.")
        ordered(shown.page, "rollback", "second")
        shown.page.locator("#confirm-yes").click(timeout=15_000)  # the other is followed for 30 s
        shown.says("acted", "Roll back: safe in the journal, waiting for the daemon.")
    with Journal.read_only(tmp_path / "j") as journal:
        assert [waiting.command["why"] for waiting in journal.inbox()] == ["first", "second"]
