"""The console in a real browser, on a running daemon with real Kafka and Redis: a person clicks, and it happens."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from controller.shell.access import TOKENS
from controller.shell.client import TOKEN, Remote
from controller.shell.journal import Journal
from controller.shell.messages import Order
from simulators.catalog import world_named
from simulators.study import Services, study_text
from tests.integration.processes import PATIENT, DaemonProcess, Process, trimtab
from tests.services import kafka_broker
from tests.services.redis_server import MakeRedis
from tests.waiting import wait_until

ANN, BOB = "the-token-of-ann-who-operates", "the-token-of-bob-who-looks-on"
TOKEN_LINES = {TOKENS: f"ann operator {ANN}\nbob viewer {BOB}"}
ROLLOUT = """
[rollout]
explore_min = "12h"
explore_max = "14h"
confirm = "8h"
ramp_step = "1h"
require_approval = true
"""
HOURS = 120  # at most: the run ends when a candidate awaits approval
RUN = ("--clock", "events", "--from", "earliest")


class Running(NamedTuple):
    """A daemon whose study has come to a candidate that awaits approval."""

    daemon: DaemonProcess
    study: Path
    journal: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.daemon.port}"

    def orders(self) -> list[dict[str, Any]]:
        with Journal.read_only(self.journal) as journal:
            return [entry.body for entry in journal.entries(("operator",))]

    def wait_for_orders(self, count: int) -> None:
        wait_until(lambda: len(self.orders()) == count, f"{count} orders are carried out, each once")


def status(study: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(trimtab("status", str(study), "--json").stdout)
    return found


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, kafka_bootstrap: str, redis_server: MakeRedis
) -> Iterator[Running]:
    """One study for all tests here, which follow each other: look, approve, kill."""
    folder, topic = tmp_path_factory.mktemp("console"), f"console-{uuid4().hex[:12]}"
    kafka_broker.create_topic(kafka_bootstrap, topic, 2)
    study = folder / "quick.toml"
    services = Services(bootstrap=kafka_bootstrap, topic=topic, redis_url=redis_server().url)
    study.write_text(study_text(world_named("quick"), services) + ROLLOUT)
    with ExitStack() as ends:
        daemon = DaemonProcess(study, folder / "daemon.log", *RUN, env=TOKEN_LINES)
        ends.callback(daemon.kill)
        hours = ("--hours", str(HOURS), "--lockstep", *PATIENT)
        world = Process(folder / "world.log", "simulate", "quick", "--study", str(study), *hours)
        ends.callback(world.kill)
        daemon.wait_until_ready()
        remote = Remote(f"http://127.0.0.1:{daemon.port}", {TOKEN: BOB})

        def awaits() -> bool:
            running = world.running  # before it is asked: an awaited approval is one also where all hours are over
            found = bool(remote.study()["awaiting_approval"])
            assert found or running, world.text[-3000:] + daemon.text[-3000:]
            return found

        wait_until(awaits, "a candidate awaits approval", 600, every_s=0.3)
        world.kill()
        yield Running(daemon, study, folder / "quick.journal")
    kafka_broker.delete_topics(kafka_bootstrap, [topic])


def opened(browser: Browser, url: str, token: str, **options: Any) -> Page:
    """The console as somebody sees it who has signed in."""
    page = browser.new_context(**options).new_page()
    page.goto(url)
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", level=2, name="awaits approval")).to_be_visible()
    return page


def serious(page: Page) -> list[str]:
    """What axe-core finds that keeps people out."""
    found = Axe().run(page).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html']}" for v in found if v["impact"] in ("serious", "critical")]


@pytest.mark.slow
def test_the_console_can_be_used_without_a_mouse_and_by_those_who_do_not_see(
    running: Running, browser: Browser
) -> None:
    for scheme in ("light", "dark"):
        for width in (1440, 390):
            page = opened(browser, running.url, ANN, color_scheme=scheme, viewport={"width": width, "height": 900})
            for summary in page.locator("summary").all():
                summary.click()
            assert serious(page) == []
            assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing sticks out"
            if (scheme, width) == ("light", 1440):
                _rejected_by_keyboard_and_thought_better_of(page)
            page.context.close()
    viewer = opened(browser, running.url, BOB)
    assert serious(viewer) == []
    assert not any(button.is_enabled() for button in viewer.locator("#buttons button").all())
    expect(viewer.locator("#actions-note")).to_contain_text("You are a viewer")
    stranger = browser.new_context().new_page()
    stranger.goto(running.url)
    stranger.get_by_label("Token").fill("wrong")
    stranger.keyboard.press("Enter")
    expect(stranger.get_by_text("this token is not known")).to_be_visible()
    assert serious(stranger) == []
    assert running.orders() == []


def _rejected_by_keyboard_and_thought_better_of(page: Page) -> None:
    page.reload()
    expect(page.get_by_role("heading", level=2, name="awaits approval")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to what the study does")).to_be_focused()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "act-reject":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert serious(page) == []
    page.keyboard.type("because")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).not_to_be_visible()
    expect(page.locator("#act-reject")).to_be_focused()


@pytest.mark.slow
def test_a_person_approves_a_promotion_by_clicking_and_it_happens(running: Running, browser: Browser) -> None:
    candidate = status(running.study)["candidate"]["arm"]
    page = opened(browser, running.url, ANN)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    assert not page.get_by_role("button", name="Resume").is_enabled()
    expect(page.locator("#rows")).to_contain_text("rows accepted")
    page.get_by_role("button", name="Approve").click()
    dialog = page.get_by_role("dialog", name=f"Approve {candidate}?")
    expect(dialog.get_by_label("Reason, for the ledger")).to_be_focused()
    dialog.get_by_role("button", name="Approve the promotion").click()
    expect(dialog.get_by_role("alert")).to_contain_text("A reason is needed")
    assert running.orders() == []
    dialog.get_by_label("Reason, for the ledger").fill("gain and guardrails look right")
    dialog.get_by_role("button", name="Approve the promotion").click()
    expect(page.get_by_role("heading", level=2, name=f"Ramping up {candidate}")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("Ramping")
    order = running.orders()[-1]
    assert order["order"] == {
        "command": "approve", "who": "ann", "why": "gain and guardrails look right", "candidate": candidate,
    }  # fmt: skip
    assert status(running.study)["stage"] == "ramp"
    expect(page.locator("#timeline")).to_contain_text("approve by ann")
    assert errors == []


@pytest.mark.slow
def test_an_order_survives_a_kill_between_its_answer_and_the_next_window(running: Running, tmp_path: Path) -> None:
    """The kill follows the answer at once: mostly before the loop, which looks every 0.2 s, has seen the order."""
    daemon, before = running.daemon, len(running.orders())
    verbs: tuple[Literal["pause", "resume"], ...] = ("pause", "resume")
    waited = given = 0
    while given < 3 or (not waited and given < 30):  # on a busy machine a kill may come late
        verb = verbs[given % 2]
        given += 1
        remote = Remote(f"http://127.0.0.1:{daemon.port}", {TOKEN: ANN})
        assert not remote.order(Order(verb, f"order {given}"), 0.0).applied
        daemon.kill()
        waited += len(running.orders()) < before + given
        daemon = DaemonProcess(running.study, tmp_path / "daemon.log", *RUN, env=TOKEN_LINES)
        try:
            daemon.wait_until_ready()
            running.wait_for_orders(before + given)
        except BaseException:
            daemon.kill()
            raise
    daemon.kill()
    assert waited, "no kill came before the loop had seen the order: the test shows nothing"
    assert [(o["order"]["who"], o["order"]["why"], o["said"]) for o in running.orders()[before:]] == [
        ("ann", f"order {number}", "stage is ramp" if number % 2 == 0 else "stage is paused")
        for number in range(1, given + 1)
    ]
    assert trimtab("verify", str(running.journal)).returncode == 0
