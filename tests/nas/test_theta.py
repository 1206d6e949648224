import json
from pathlib import Path

import pytest
from redis import Redis

from nas.schema import DataError
from nas.theta import from_assignment, from_file, from_redis, from_weights
from nas.value import ValueModel

HEADS = ("click", "like")
TABLE = json.dumps(
    {
        "schema": 1, "study": "feed", "form": "linear", "weights": ["p_click", "p_like", "p_hate"], "version": 12000418,
        "arms": [
            {"arm": "control", "role": "control", "theta": {"all": [1.0, 2.0, -9.0], "new": [1.0, 3.0, -9.0]}},
            {"arm": "e1", "role": "explore", "theta": {"all": [1.0, 2.6, -9.0]}},
        ],
    }
).encode()  # fmt: skip
NAMES = {"p_click": "click", "p_like": "like"}


def test_the_control_arm_serves_unless_another_is_named() -> None:
    assert from_assignment(TABLE, HEADS, NAMES) == ValueModel("linear", (1.0, 2.0))
    assert from_assignment(TABLE, HEADS, NAMES, arm="e1").weights == (1.0, 2.6)
    assert from_assignment(TABLE, HEADS, NAMES, segment="new").weights == (1.0, 3.0)
    assert from_assignment(TABLE, HEADS, NAMES, arm="e1", segment="new").weights == (1.0, 2.6)
    alone = TABLE.replace(b', "new": [1.0, 3.0, -9.0]', b"")
    assert from_assignment(alone, HEADS, NAMES, segment="new").weights == (1.0, 2.0), "control alone names no segment"
    assert from_assignment(TABLE, HEADS, {"p_hate": "like"}).weights == (0.0, -9.0)


def test_live_from_redis(redis_url: str) -> None:
    Redis.from_url(redis_url).set("trimtab:feed:assignment", TABLE)
    assert from_redis(redis_url, "feed", HEADS, NAMES).weights == (1.0, 2.0)
    with pytest.raises(DataError, match=r"holds no key trimtab:other:assignment; is the daemon"):
        from_redis(redis_url, "other", HEADS, NAMES)


def test_a_redis_that_does_not_answer_is_named() -> None:
    with pytest.raises(DataError, match=r"value\.redis: redis://127\.0\.0\.1:1"):
        from_redis("redis://127.0.0.1:1/0", "feed", HEADS, NAMES)
    with pytest.raises(DataError, match=r"value\.redis: found 'localhost:6379': .*redis://"):
        from_redis("localhost:6379", "feed", HEADS, NAMES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arm": "e9"}, "found 'e9'; the assignment has control, e1"),
        ({"names": {"p_share": "click"}}, "no weight 'p_share'; the assignment has p_click"),
        ({"names": {"p_click": "views"}}, "no head 'views'; heads are click, like"),
        ({"names": {"p_click": "click", "p_like": "click"}}, "found p_click and p_like for head 'click'; expected one"),
        ({"raw": b"{}"}, "cannot be read"),
        ({"segment": "nwe"}, "found 'nwe'; the assignment has all, new"),
        ({"raw": TABLE.replace(b"2.6, ", b""), "arm": "e1"}, "gives 'e1' 2 values for its 3 weights"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, object], message: str) -> None:
    given = {"raw": TABLE, "heads": HEADS, "names": NAMES, **change}
    with pytest.raises(DataError, match=message):
        from_assignment(**given)  # type: ignore[arg-type]


def test_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "theta.json"
    path.write_text('{"form": "power", "weights": {"like": 0.5}}')
    assert from_file(path, HEADS) == ValueModel("power", (0.0, 0.5))
    path.write_text('{"weight": {}}')
    with pytest.raises(DataError, match="no weights by head"):
        from_file(path, HEADS)
    with pytest.raises(DataError, match="no such file"):
        from_file(tmp_path / "none.json", HEADS)
    with pytest.raises(DataError, match="every weight is 0"):
        from_weights({"click": 0.0}, "linear", HEADS)
