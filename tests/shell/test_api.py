import json
from pathlib import Path
from typing import Any

import pytest

from controller.shell.access import Rate
from controller.shell.admin import PortTaken, serve
from controller.shell.api import HEADERS, MAX_BODY, MAX_WAITING, app
from controller.shell.journal import Journal
from tests.shell.interface import ANN, BOB, Interface, blank_site, serving, serving_world
from tests.shell.loop import Hand, World, entries

PAUSE = {"command": "pause", "why": "a sale begins"}
CLOSED = ("/api/v1/me", "/api/v1/study", "/api/v1/history", "/api/v1/orders/1")


def inbox(path: Path) -> list[dict[str, Any]]:
    with Journal.read_only(path) as journal:
        return [order.command for order in journal.inbox()]


def test_an_order_is_carried_out_and_the_ledger_says_who_and_why(world: World) -> None:
    with serving_world(world) as (rig, interface):
        sent = interface.ask("/api/v1/orders", PAUSE, ANN)
        assert sent.status == 202
        assert sent.json == {"id": 1, "applied": False, "said": "", "entry": None}
        where = sent.headers["location"]
        assert interface.ask(where, token=BOB).json["applied"] is False
        rig.turn()
        done = interface.ask(where, token=BOB).json
        assert (done["applied"], done["said"]) == (True, "stage is paused")
        order = world.last("operator")["order"]
        assert order == {"command": "pause", "who": "ann", "why": "a sale begins"}
        assert done["entry"] >= entries(world.path, "operator")[-1].seq
        seen = interface.ask("/api/v1/study", token=BOB).json
        assert (seen["stage"], seen["reason"]) == ("paused", "pause by ann: a sale begins")
        told = interface.ask("/api/v1/history", token=BOB).json["events"][-1]
        assert told["what"] == "pause by ann (a sale begins): stage is paused" or told["kind"] == "stage_changed"


def test_an_order_that_was_answered_outlives_the_daemon(world: World) -> None:
    with serving_world(world) as (rig, interface):
        assert interface.ask("/api/v1/orders", PAUSE, ANN).status == 202
        rig.drop()  # killed before its loop has seen it
    assert world.table.stage == "explore"
    world.start().settle()
    assert world.table.stage == "paused"
    assert [entry.body["order"]["who"] for entry in entries(world.path, "operator")] == ["ann"]


def test_without_the_right_token_no_action_is_possible(world: World) -> None:
    with serving_world(world) as (rig, interface):
        assert [
            interface.ask("/api/v1/orders", PAUSE).status,
            interface.ask("/api/v1/orders", PAUSE, "wrong").status,
        ] == [401, 401]
        refused = interface.ask("/api/v1/orders", PAUSE, BOB)
        assert refused.status == 403
        assert refused.json == {"error": "bob is a viewer: orders need an operator's token"}
        assert inbox(world.path) == []
        for path in CLOSED:
            assert interface.ask(path).status == 401
            assert interface.ask(path, token="wrong").headers["www-authenticate"] == "Bearer"
        rig.turn()
        assert world.table.stage == "explore"


def test_where_no_token_is_configured_this_machine_may_look_and_not_act(world: World) -> None:
    with serving_world(world, tokens=()) as (_, interface):
        assert interface.ask("/api/v1/me").json == {"name": "loopback", "role": "viewer"}
        assert interface.ask("/api/v1/study").json["stage"] == "explore"
        assert interface.ask("/api/v1/orders", PAUSE).status == 403
        assert interface.ask("/api/v1/orders", PAUSE, ANN).status == 401
        proxied = interface.ask("/api/v1/study", x_forwarded_for="203.0.113.9")
        assert proxied.status == 401, "a proxy on this machine speaks for somebody else"
        assert "none is configured" in proxied.json["error"]
        assert inbox(world.path) == []


def test_this_machine_may_look_by_a_socket_for_both_versions(tmp_path: Path) -> None:
    try:
        server = serve("::", 0, app(blank_site(tmp_path / "none.journal")))
    except PortTaken:
        pytest.skip("this machine has no version 6")
    try:
        answer = Interface(server, f"http://127.0.0.1:{server.address[1]}").ask("/api/v1/me")
        assert (answer.status, answer.json["name"]) == (200, "loopback")
    finally:
        server.close()


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "is no order"),
        (b"[]", 400, "is no order"),
        ({"command": "pause"}, 400, "`why`"),
        ({"command": "pause", "why": ""}, 400, "`$.why`"),
        ({"command": "pause", "why": " \n"}, 400, "`$.why`"),
        ({"command": "pause", "why": "x" * 501}, 400, "`$.why`"),
        ({"command": "freeze", "why": "x"}, 400,
         "'freeze' - at `$.command`; accepted: a command (pause, resume, rollback, approve, reject), a why (a text"),
        ({**PAUSE, "who": "root"}, 400, "`who`"),
        ({**PAUSE, "study": "another"}, 409, "'another'"),
        (b" " * (MAX_BODY + 1), 413, "bytes"),
        (b"\xff\xfe", 400, "is no order"),
    ],
)  # fmt: skip
def test_what_is_no_order_is_refused_and_told(world: World, body: object, status: int, said: str) -> None:
    with serving_world(world) as (_, interface):
        answer = interface.ask("/api/v1/orders", body, ANN)
        assert answer.status == status
        assert said in answer.json["error"]
        assert inbox(world.path) == []


@pytest.mark.parametrize(
    ("name", "why"),
    [(name, "none of this number was given") for name in ("0", "7", str(2**63), "9" * 5000)]
    + [(name, "orders have numbers") for name in ("-1", "x", "%D9%A3")],
)
def test_an_order_that_nobody_gave_is_not_found(world: World, name: str, why: str) -> None:
    with serving_world(world) as (_, interface):
        answer = interface.ask(f"/api/v1/orders/{name}", token=BOB)
        assert answer.status == 404
        assert answer.json["error"].startswith("there is no order")
        assert answer.json["error"].endswith(f": {why}")
        assert interface.ask(f"/api/v1/orders/{name}").status == 401


def test_a_page_of_another_site_cannot_give_orders(world: World) -> None:
    with serving_world(world, hosts=("Trimtab.example.org",)) as (_, interface):

        def status(**headers: str) -> int:
            return interface.ask("/api/v1/orders", PAUSE, ANN, **headers).status

        assert status(content_type="text/plain") == 415  # what a form of another site can send without asking first
        assert status(origin="https://evil.example") == 403
        assert status(origin="null") == 403
        assert status(origin="http://[") == 403
        assert status(sec_fetch_site="cross-site") == 403
        assert status(host="evil.example") == 421, "a name that was pointed at this machine"
        assert interface.ask("/", host="evil.example").status == 421
        assert inbox(world.path) == []
        assert status(origin=interface.url, sec_fetch_site="same-origin") == 202
        assert status(host="trimtab.example.org:9464", origin="https://trimtab.example.org:9464") == 202
        preflight = interface.ask("/api/v1/orders", origin="https://evil.example")
        assert not any(name.startswith("access-control") for name in preflight.headers)


def test_every_answer_tells_the_browser_what_not_to_do(world: World) -> None:
    with serving_world(world) as (_, interface):
        for path in ("/", "/livez", "/console/console.js", "/nowhere", *CLOSED):
            found = interface.ask(path).headers
            assert {name: found[name] for name in HEADERS} == dict(HEADERS)
            assert "server" not in found
        assert "unsafe" not in HEADERS["content-security-policy"]


def test_a_caller_who_asks_too_often_waits(world: World) -> None:
    still = Hand()  # strangers are let in again after a second
    with serving_world(world, reads=Rate(3, 0.001), orders=Rate(1, 0.001), monotonic=still) as (_, interface):
        assert interface.ask("/api/v1/orders", PAUSE, ANN).status == 202
        assert interface.ask("/api/v1/orders", PAUSE, ANN).status == 429
        assert interface.ask("/api/v1/me", token=ANN).status == 200
        limited = interface.ask("/api/v1/me", token=ANN)
        assert limited.status == 429
        assert int(limited.headers["retry-after"]) > 1
        assert interface.ask("/api/v1/me", token=BOB).status == 200
        assert [interface.ask("/api/v1/me", token="guess").status for _ in range(22)][-1] == 429
        assert interface.ask("/livez").status == 200
        assert len(inbox(world.path)) == 1


def test_an_inbox_that_nobody_empties_is_not_filled_for_ever(world: World) -> None:
    with serving_world(world) as (_, interface):
        found = [interface.ask("/api/v1/orders", PAUSE, ANN) for _ in range(MAX_WAITING + 1)]
        assert [answer.status for answer in found] == MAX_WAITING * [202] + [429]
        assert "loop does not take them" in found[-1].json["error"]


def test_an_order_that_nobody_sent_is_not_there(world: World) -> None:
    with serving_world(world) as (_, interface):
        for id_ in (0, 1, 2**63, 10**30):
            assert interface.ask(f"/api/v1/orders/{id_}", token=BOB).status == 404


def test_a_candidate_that_is_not_meant_is_left_alone(world: World) -> None:
    with serving_world(world) as (rig, interface):
        order = {"command": "approve", "why": "looks good", "candidate": "c7", "study": "quick"}
        where = interface.ask("/api/v1/orders", order, ANN).headers["location"]
        rig.turn()
        assert interface.ask(where, token=ANN).json["said"] == "refused: nothing awaits approval in stage explore"
        assert world.last("operator")["order"]["candidate"] == "c7"


def test_before_the_daemon_has_a_journal_nothing_breaks(tmp_path: Path) -> None:
    with serving(blank_site(tmp_path / "none.journal")) as interface:
        early = interface.ask("/api/v1/study")
        assert (early.status, early.json["error"][:40]) == (409, "the daemon has not shown anything yet; a")
        lost = interface.ask("/api/v1/orders/1")
        assert (lost.status, lost.headers["retry-after"]) == (503, "5")
        assert interface.ask("/api/v1/history").json == {"revision": 0, "decisions": [], "events": []}


def test_the_page_and_all_that_it_names_are_served(world: World) -> None:
    with serving_world(world) as (_, interface):
        page = interface.ask("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        named = [part.split('"')[0] for part in page.body.decode().replace('href="', 'src="').split('src="')[1:]]
        own = [path for path in named if path.startswith("/")]
        assert len(own) >= 5
        assert all(path.startswith(("/", "#")) for path in named), "nothing comes from elsewhere"
        for path in {*own, "/console/parts.js", "/console/charts.js"}:
            assert interface.ask(path).status == 200
        assert "<script>" not in page.body.decode()
        assert interface.ask("/console/../api.py").status == 404
        assert interface.ask("/console/uplot/LICENSE").status == 404


def test_the_description_is_served_to_anybody(interface_free: Interface) -> None:
    kept = json.loads((Path(__file__).parents[2] / "docs" / "openapi.json").read_text())
    assert interface_free.ask("/api/v1/openapi.json").json == kept


@pytest.fixture
def interface_free(tmp_path: Path) -> Any:
    with serving(blank_site(tmp_path / "none.journal")) as running:
        yield running
