import json
from pathlib import Path

import pytest
from msgspec.structs import replace
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from controller import cli
from controller.shell.admin import serve
from controller.shell.api import app
from controller.shell.client import CA, TOKEN, Refused, Remote, Unreachable, live_view, of_journal
from controller.shell.journal import Journal
from controller.shell.messages import Order
from controller.shell.publisher import MemoryPublisher
from controller.shell.recorder import Recorder
from controller.shell.story import moment
from simulators.study import Services, study_text
from tests.services.process import free_port
from tests.shell.interface import ANN, BOB, Interface, blank_site, serving, serving_world, site_of
from tests.shell.loop import PLAN, START_MS, WORLD, World
from tests.shell.test_admin import certificate

NOWHERE = Services(bootstrap="127.0.0.1:1", redis_url="redis://127.0.0.1:1/0")


def test_a_study_is_asked_for_with_the_token_of_the_environment(world: World) -> None:
    with serving_world(world) as (_, interface):
        assert Remote(interface.url + "/", {TOKEN: BOB}).study()["study"] == "quick"
        with pytest.raises(Refused, match=rf"{interface.url}: a token is needed"):
            Remote(interface.url, {}).study()
        with pytest.raises(Refused, match="bob is a viewer"):
            Remote(interface.url, {TOKEN: BOB}).order(Order("pause", "x"), 0.0)


def test_an_order_is_waited_for_no_longer_than_asked(world: World) -> None:
    with serving_world(world) as (rig, interface):
        remote = Remote(interface.url, {TOKEN: ANN})
        assert remote.order(Order("pause", "x"), 0.0).applied is False
        rig.turn()
        assert world.table.stage == "explore", "the table is published at the turn after"


def test_an_order_that_was_left_is_not_given_again_when_the_daemon_ends(
    world: World, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving_world(world) as (_, interface):
        known(world, interface)
        monkeypatch.setenv(TOKEN, ANN)
        monkeypatch.setattr("controller.shell.client.time.sleep", lambda _: interface.server.close())
        assert cli.main(["pause", str(study), "--why", "x", "--wait", "1s"]) == 1
    assert "waits in the inbox" in capsys.readouterr().out
    with Journal.read_only(world.path) as journal:
        assert [order.command["who"] for order in journal.inbox()] == ["ann"]


def test_a_token_is_shown_to_the_address_that_was_named_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    async def elsewhere(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["path"])
        await RedirectResponse("/stolen")(scope, receive, send)

    server = serve("127.0.0.1", 0, elsewhere)
    try:
        with pytest.raises(Refused, match="status 307"):
            Remote(server.url, {TOKEN: ANN}).study()
        assert seen == ["/api/v1/study"]
        monkeypatch.setenv("http_proxy", server.url)
        monkeypatch.setenv("no_proxy", "")
        with pytest.raises(Unreachable):
            Remote(f"http://127.0.0.1:{free_port()}", {TOKEN: ANN}).study()
        assert seen == ["/api/v1/study"], "a proxy is not asked"
    finally:
        server.close()


def test_what_does_not_answer_is_told_from_what_refuses(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="Connection refused"):
        Remote(f"http://127.0.0.1:{free_port()}", {}).study()
    for address in ("http://localhost:abc", "http://exa mple", "http://[::1"):
        with pytest.raises(Unreachable, match="no daemon answers at"):
            Remote(address, {}).study()
    with pytest.raises(Refused, match=f"{CA}: .*none.pem"):
        Remote("https://127.0.0.1:1", {CA: str(tmp_path / "none.pem")})


@pytest.mark.parametrize("said", ["{}", "[1]", "<html>", "\xff", '{"study": 3}'])
def test_what_answers_something_else_is_no_daemon(said: str, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve("127.0.0.1", 0, Response(said.encode("latin-1")))
    try:
        for argv in (["status", server.url], ["pause", server.url, "--why", "x"]):
            assert cli.main(argv) == 1
            assert f"what answers at {server.url} does not speak this interface" in capsys.readouterr().err
    finally:
        server.close()


def test_a_certificate_is_trusted_by_the_environment_only(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    site = blank_site(tmp_path / "none.journal")
    server = serve("127.0.0.1", 0, app(site), cert, key)
    try:
        with pytest.raises(Unreachable, match=f"its certificate is not trusted .*: name who signed it in {CA}"):
            Remote(server.url, {}).study()
        with pytest.raises(Refused, match="has not shown anything yet"):
            Remote(server.url, {CA: str(cert)}).study()
    finally:
        server.close()


def test_a_journal_names_the_daemon_that_wrote_it_last(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", PLAN.study) as journal:
        assert of_journal(journal) is None
        Recorder.take_over(PLAN, journal, MemoryPublisher(), START_MS, "wall")
        assert of_journal(journal) is None
        Recorder.take_over(PLAN, journal, MemoryPublisher(), START_MS, "wall", admin="http://127.0.0.1:9")
        found = of_journal(journal)
        assert found is not None
        assert found.url == "http://127.0.0.1:9"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study file beside the world's journal."""
    path = tmp_path / "quick.toml"
    path.write_text(study_text(WORLD, NOWHERE))
    return path


def known(world: World, interface: Interface) -> None:
    """Enter the interface's address as the daemon's own start does."""
    with Journal.open(world.path, PLAN.study) as journal:
        Recorder.take_over(PLAN, journal, MemoryPublisher(), START_MS, "events", admin=interface.url)


def test_commands_use_the_interface_with_a_token_and_the_inbox_without(
    world: World, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving_world(world) as (_, interface):
        known(world, interface)
        monkeypatch.setenv(TOKEN, ANN)
        assert cli.main(["pause", str(study), "--wait", "0s"]) == 1
        assert 'asks for a reason: --why "..."' in capsys.readouterr().err
        assert cli.main(["pause", str(study), "--who", "eve", "--why", "x", "--wait", "0s"]) == 1
        assert "--who is not for the admin interface" in capsys.readouterr().err
        cli.main(["pause", str(study), "--why", "by interface", "--wait", "0s"])
        cli.main(["approve", interface.url, "--why", "by address", "--candidate", "c3", "--wait", "0s"])
        monkeypatch.setenv(TOKEN, BOB)
        assert cli.main(["reject", str(study), "--why", "x", "--wait", "0s"]) == 1
        assert "bob is a viewer" in capsys.readouterr().err
        monkeypatch.delenv(TOKEN)
        cli.main(["resume", str(study), "--who", "root", "--why", "by inbox", "--wait", "0s"])
    with Journal.read_only(world.path) as journal:
        assert [order.command for order in journal.inbox()] == [
            {"command": "pause", "who": "ann", "why": "by interface"},
            {"command": "approve", "who": "ann", "why": "by address", "candidate": "c3"},
            {"command": "resume", "who": "root", "why": "by inbox"},
        ]


def test_an_order_goes_into_the_journal_where_no_daemon_answers(
    world: World, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving_world(world) as (_, interface):
        known(world, interface)
    monkeypatch.setenv(TOKEN, ANN)
    assert cli.main(["pause", str(study), "--why", "x", "--wait", "0s"]) == 1
    said = capsys.readouterr()
    assert "no daemon answers" in said.err
    assert "waits in the inbox" in said.out
    with Journal.read_only(world.path) as journal:
        assert [(order.command["command"], order.command["why"]) for order in journal.inbox()] == [("pause", "x")]


def test_another_studys_daemon_at_the_address_is_not_obeyed_by(
    world: World, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving_world(world) as (rig, _), serving(replace(site_of(rig, world.path), study="other")) as other:
        known(world, other)
        monkeypatch.setenv(TOKEN, ANN)
        cli.main(["pause", str(study), "--why", "x", "--wait", "0s"])
        assert "runs study 'other', the order is for 'quick'; leaving it in the journal" in "".join(capsys.readouterr())
    with Journal.read_only(world.path) as journal:
        assert [order.command["command"] for order in journal.inbox()] == ["pause"]


def test_status_has_the_daemons_word_where_one_answers(
    world: World, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving_world(world) as (_, interface):
        known(world, interface)
        monkeypatch.setenv(TOKEN, BOB)
        assert cli.main(["status", str(study)]) == 0
        assert "the daemon answers: ready, 0 records behind" in capsys.readouterr().out
        assert cli.main(["status", interface.url]) == 0
        assert "study quick: explore (the study begins)" in capsys.readouterr().out
        monkeypatch.setenv(TOKEN, "wrong")
        assert cli.main(["status", str(study)]) == 0
        said = capsys.readouterr().out
        assert "the daemon answers" not in said
        assert f"a daemon answers, but refuses to tell: {interface.url}: this token is not known" in said
        assert cli.main(["status", interface.url]) == 1
        assert "this token is not known" in capsys.readouterr().err
    assert cli.main(["status", str(study)]) == 0
    assert cli.main(["status", interface.url]) == 1
    assert "trimtab status: no daemon answers at http://127.0.0.1" in capsys.readouterr().err


def test_a_token_is_made_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["token", "ann", "--role", "operator"]) == 0
    out = capsys.readouterr().out
    assert "shown this once:  trimtab_" in out
    assert "ann operator sha256:" in out
    assert cli.main(["token", "a b"]) == 1
    assert "'a b' is no name; accepted: 1 to 64 of the letters" in capsys.readouterr().err


def test_status_says_why_no_daemon_does(
    world: World, study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    with serving_world(world) as (_, interface):
        assert live_view(world.path, "quick") == (None, "no daemon is asked: the journal names no address of one")
        known(world, interface)
        asked = f"a daemon answers at {interface.url} but asks for a token: set {TOKEN}"
        assert cli.main(["status", str(study)]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == asked
        assert cli.main(["status", str(study), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["live"], told["silent"]) == (None, asked)
        monkeypatch.setenv(TOKEN, ANN)
        seen, silent = live_view(world.path, "quick")
        assert (seen is not None, silent) == (True, "")
        assert live_view(world.path, "slow")[1] == "the daemon at the address in the journal runs another study, quick"
    assert live_view(world.path, "quick") == (None, f"no daemon answers at {interface.url}: Connection refused")


def test_status_names_a_table_that_expired_with_its_daemon(
    tmp_path: Path, study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Journal.open(tmp_path / "quick.journal", PLAN.study) as journal:
        Recorder.take_over(PLAN, journal, MemoryPublisher(), START_MS, "wall", admin=f"http://127.0.0.1:{free_port()}")
    assert cli.main(["status", str(study)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-2].startswith("no daemon answers at http://127.0.0.1:")
    until = moment(START_MS + PLAN.window.validity_ms)
    assert told[-1] == f"the table expired at {until} UTC: clients serve control"
