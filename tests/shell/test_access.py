import hashlib
import re
from pathlib import Path

import msgspec
import pytest

from controller.shell.access import (
    MAX_PEERS,
    TOKENS,
    Admin,
    Caller,
    Limiter,
    Rate,
    TokensRefused,
    address,
    caller_of,
    check_admin,
    load_tokens,
    new_token,
)
from tests.shell.loop import Hand

ANN = "ann operator sha256:" + hashlib.sha256(b"the token of ann").hexdigest()
CLEAR = "in-the-clear-but-long-enough"


def test_a_made_token_lets_its_bearer_in_and_is_not_kept(tmp_path: Path) -> None:
    token, line = new_token("ann@example.org", "operator")
    assert token not in line
    file = tmp_path / "tokens"
    file.write_text(f"# who may act\n{line}  # since Monday\n\n")
    tokens = load_tokens(file, {})
    assert caller_of(tokens, f"Bearer {token}", loopback=False) == Caller("ann@example.org", "operator")
    assert caller_of(tokens, f"bearer {token}", loopback=False) == Caller("ann@example.org", "operator")
    assert new_token("ann", "viewer")[0] != new_token("ann", "viewer")[0]


def test_tokens_come_from_the_environment_too_hashed_or_not() -> None:
    tokens = load_tokens(None, {TOKENS: f"{ANN}; bob viewer {CLEAR}\neve viewer {CLEAR}-2"})
    assert [token.caller for token in tokens] == [
        Caller("ann", "operator"),
        Caller("bob", "viewer"),
        Caller("eve", "viewer"),
    ]
    assert caller_of(tokens, f"Bearer {CLEAR}", loopback=False) == Caller("bob", "viewer")
    assert caller_of(tokens, "Bearer the token of ann", loopback=False) == Caller("ann", "operator")


def test_a_token_in_the_clear_may_hold_the_sign_of_a_comment() -> None:
    tokens = load_tokens(None, {TOKENS: f"#nobody\nbob viewer {CLEAR}#rest  # since Monday"})
    assert caller_of(tokens, f"Bearer {CLEAR}#rest", loopback=False) == Caller("bob", "viewer")
    assert caller_of(tokens, f"Bearer {CLEAR}", loopback=False) is None


def test_bytes_that_are_no_text_in_the_environment_are_refused() -> None:
    with pytest.raises(TokensRefused, match=f"{TOKENS}, line 1: bob: what stands last cannot be used"):
        load_tokens(None, {TOKENS: f"bob viewer {CLEAR}\udcff"})


@pytest.mark.parametrize(
    "line",
    ["ann operator", "ann king sha256:" + 64 * "0", "a/b viewer sha256:" + 64 * "0", "ann viewer sha256:12",
     "ann viewer short", f"ann viewer {CLEAR} extra", f"ann viewer {CLEAR}-\u00e4"],
)  # fmt: skip
def test_what_is_no_token_is_refused_by_its_place_and_not_repeated(tmp_path: Path, line: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"\n{line}\n")
    with pytest.raises(TokensRefused, match=rf"{re.escape(str(file))}, line 2: .*accepted: NAME viewer\|operator"):
        load_tokens(file, {})
    with pytest.raises(TokensRefused, match=f"{TOKENS}, line 1") as refused:
        load_tokens(None, {TOKENS: line})
    assert not any(secret in str(refused.value) for secret in line.split()[2:])


def test_a_file_holds_no_token_in_the_clear(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"bob viewer {CLEAR}")
    with pytest.raises(TokensRefused, match="line 1: bob: what stands last cannot be used"):
        load_tokens(file, {})


def test_a_name_that_stands_twice_and_a_file_that_is_not_there_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    said = r"admin\.tokens_file: found {}; accepted: a file of tokens \(trimtab token makes a line\)"
    with pytest.raises(TokensRefused, match=said.format(f"no such file: {file}")):
        load_tokens(file, {})
    with pytest.raises(TokensRefused, match=said.format(rf"what cannot be read: {tmp_path} \(Is a directory\)")):
        load_tokens(tmp_path, {})
    file.write_bytes(b"\xff")
    with pytest.raises(TokensRefused, match=said.format(rf"what cannot be read: {file} \(.*can't decode.*\)")):
        load_tokens(file, {})
    file.write_text(ANN)
    with pytest.raises(TokensRefused, match="'ann' stands twice"):
        load_tokens(file, {TOKENS: ANN})


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Bearer x", "Basic the token of ann", "the token of ann"])
def test_nobody_comes_in_by_another_header(header: str) -> None:
    tokens = load_tokens(None, {TOKENS: ANN})
    assert caller_of(tokens, header, loopback=True) is None
    assert caller_of((), header, loopback=True) is None


def test_without_any_token_this_machine_may_look() -> None:
    tokens = load_tokens(None, {TOKENS: ANN})
    assert caller_of((), None, loopback=True) == Caller("loopback", "viewer")
    assert caller_of((), None, loopback=False) is None
    assert caller_of(tokens, None, loopback=True) is None


def test_a_caller_may_ask_so_many_times_at_once_and_then_at_the_rate() -> None:
    clock = Hand()
    limiter = Limiter(Rate(3, 0.5), clock)
    assert [limiter.wait_s("ann") for _ in range(4)] == [0.0, 0.0, 0.0, 2.0]
    assert limiter.wait_s("bob") == 0.0, "others are not held up"
    clock.now_s = 2.0
    assert limiter.wait_s("ann") == 0.0
    assert limiter.wait_s("ann") == pytest.approx(2.0)
    clock.now_s = 1000.0
    assert [limiter.wait_s("ann") == 0.0 for _ in range(4)] == [True, True, True, False], "no more is saved up"


def test_callers_that_are_invented_take_no_memory() -> None:
    limiter = Limiter(Rate(1, 1e-9), Hand())
    for i in range(3 * MAX_PEERS):
        limiter.wait_s(f"peer {i}")
    assert len(limiter._buckets) == MAX_PEERS
    assert limiter.wait_s(f"peer {3 * MAX_PEERS - 1}") > 0.0


def test_an_address_is_a_host_and_a_port() -> None:
    assert address("127.0.0.1:9464") == ("127.0.0.1", 9464)
    assert address("[::1]:0") == ("::1", 0)
    for text in ("", ":1", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "127.0.0.1:²", "é..b:1", 70 * "é" + ":1"):
        assert address(text) is None


def test_what_is_wrong_with_the_table_is_named() -> None:
    assert list(check_admin(Admin())) == []
    found = check_admin(Admin(listen="9464", cert_file="cert.pem", hosts=("https://trimtab.example.org", "ok.example")))
    assert [mistake.path for mistake in found] == ["admin.listen", "admin.key_file", "admin.hosts[0]"]
    assert [m.path for m in check_admin(msgspec.structs.replace(Admin(), key_file="k"))] == ["admin.cert_file"]
