"""The study file: the contract's example is a study; every mistake is named with what is accepted."""

import copy
import json
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.estimate import Metric, at_cap
from controller.core.events import Component
from controller.core.plan import Plan, digest
from controller.core.rollout import RolloutPlan
from controller.core.windows import WindowPlan
from controller.shell.config import ConfigError, Study, load
from controller.shell.connections import Tls, password
from controller.shell.journal import Journal
from controller.shell.toml_records import parse_duration
from simulators.catalog import WORLDS
from simulators.study import study_of

EXAMPLE = Path(__file__).parents[2] / "deploy" / "studies" / "feed.toml"
HOUR = 3_600_000

SMALL = """
study = "feed"
[window]
length = "1h"
[[weights]]
name = "p_click"
low = 0.2
high = 5.0
baseline = 1.0
scale = "log"
fixed = true
[[weights]]
name = "p_like"
low = 0
high = 20
baseline = 2
[metrics]
ctr = { numerator = "clicks", denominator = "impressions" }
watch = { numerator = "watch_s", denominator = "buckets" }
[objective]
watch = 1.0
[[guardrails]]
metric = "ctr"
min_change = -0.005
[kafka]
bootstrap = "localhost:9092"
topic = "engagement"
[redis]
url = "redis://localhost:6379/0"
[journal]
path = "feed.journal"
"""


def read(folder: Path, text: str | bytes) -> Study:
    path = folder / "study.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(path)


def mistakes(folder: Path, text: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    assert str(folder / "study.toml") in str(caught.value)
    return [str(mistake) for mistake in caught.value.mistakes]


def test_the_example_is_the_contract_made_complete() -> None:
    study = load(EXAMPLE)
    assert study.plan.window == WindowPlan(HOUR, 5 * 60_000, 6 * HOUR, 6 * HOUR, 3 * HOUR)
    assert study.plan.salt == "feed:"
    assert study.plan.segments == ("new", "returning")
    assert study.plan.metrics[2] == Metric("returns", "returned", "buckets", "delayed")
    assert study.journal == EXAMPLE.parent / "feed.journal"
    assert study.warnings == ()


def test_commented_keys_of_the_example_show_the_defaults(tmp_path: Path) -> None:
    """Every optional key is documented with its true default: uncommenting them changes nothing."""
    tls = ("security", "ca_file", "cert_file", "key_file")
    optional = ("dead_letter_topic", "sasl_mechanism", "username", *tls, "[offline]", "path", "verify")
    lines = EXAMPLE.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(tuple(f"# {name} " for name in optional))]
    first = next(index for index, line in enumerate(kept) if line.startswith("study"))
    full = "\n".join(line.removeprefix("# ") for line in kept[first:])
    assert read(tmp_path, full).plan == load(EXAMPLE).plan
    assert full.count("\n[") > EXAMPLE.read_text().count("\n[")


def test_defaults_follow_the_length_of_a_window(tmp_path: Path) -> None:
    plan = read(tmp_path, SMALL.replace('"1h"', '"1m"')).plan
    assert plan.window == WindowPlan(60_000, 5_000, 360_000, 360_000, 180_000)
    assert plan.rollout == RolloutPlan(24 * HOUR, 36 * HOUR, 24 * HOUR, 120_000)
    assert plan.components == (Component("clicks"), Component("impressions"), Component("watch_s"))
    assert plan.buckets == 1000
    assert plan.seed == 0


def test_windows_of_more_than_a_day_make_a_plan_that_can_be_written_down(tmp_path: Path) -> None:
    plan = read(tmp_path, SMALL.replace('"1h"', '"2d"')).plan
    assert plan.rollout == RolloutPlan(48 * HOUR, 72 * HOUR, 48 * HOUR, 96 * HOUR)
    assert msgspec.convert(msgspec.to_builtins(plan), Plan) == plan
    assert len(digest(plan)) == 64


def test_optional_keys_are_read(tmp_path: Path) -> None:
    extra = '[components]\nwatch_s = { negative = true }\n[rollout]\nramp_step = "90m"\n[safety]\nrisk = 0.1\n'
    study = read(tmp_path, 'form = "power"\nseed = 7\n' + SMALL + extra)
    assert study.plan.components[2] == Component("watch_s", negative=True)
    assert study.plan.rollout.ramp_step_ms == 90 * 60_000
    assert (study.plan.safety.risk, study.plan.form, study.plan.seed) == (0.1, "power", 7)


def test_a_cap_brings_a_component_that_tells_what_it_does(tmp_path: Path) -> None:
    plan = read(tmp_path, SMALL + "[components]\nwatch_s = { cap = 600 }\n").plan
    assert plan.components[2:] == (Component("watch_s", cap=600.0), Component(at_cap("watch_s"), of="watch_s"))
    assert [component.name for component in plan.events.brought] == ["clicks", "impressions", "watch_s"]


RATIO = 'ctr = { numerator = "clicks", denominator = "impressions" }'
SHOWN = 'shown = { numerator = "impressions", denominator = "buckets" }'
RAIL = '[[guardrails]]\nmetric = "{}"\nmin_change = -0.01\n'


def test_a_ratio_asks_for_a_guardrail_on_its_denominator_or_a_waiver(tmp_path: Path) -> None:
    (asked,) = read(tmp_path, SMALL).demands
    assert asked.startswith("metrics.ctr may rise because impressions fall")
    metric = 'impressions_per_bucket = { numerator = "impressions", denominator = "buckets" }'
    rail = RAIL.format("impressions_per_bucket")
    assert f"add\n[metrics]\n{metric}\n{rail}or say" in asked
    assert asked.endswith('or say why it needs none: ctr = { ..., waiver = "..." }')
    assert read(tmp_path, SMALL.replace(RATIO, f"{RATIO}\n{metric}") + rail).demands == ()
    waived = SMALL.replace('"impressions" }', '"impressions", waiver = "a page holds ten" }')
    assert read(tmp_path, waived).demands == ()
    assert read(tmp_path, waived).plan == read(tmp_path, SMALL).plan


def test_a_denominator_that_is_only_measured_is_not_yet_guarded(tmp_path: Path) -> None:
    measured = SMALL.replace(RATIO, f"{RATIO}\n{SHOWN}")
    (asked,) = read(tmp_path, measured).demands
    assert 'metric = "shown"' in asked
    assert "[metrics]" not in asked
    assert read(tmp_path, measured + RAIL.format("shown")).demands == ()


def test_a_ratio_that_should_fall_asks_for_the_other_side(tmp_path: Path) -> None:
    (asked,) = read(tmp_path, SMALL.replace("min_change = -0.005", "max_change = 0.02")).demands
    assert asked.startswith("metrics.ctr may fall because impressions rise")
    assert 'metric = "impressions_per_bucket"\nmax_change = 0.01\n' in asked


def test_what_nobody_aims_at_or_guards_asks_for_nothing(tmp_path: Path) -> None:
    unused = SMALL.replace('metric = "ctr"', 'metric = "watch"')
    assert read(tmp_path, unused).demands == ()


def test_the_example_and_every_world_s_study_lack_nothing() -> None:
    assert load(EXAMPLE).demands == ()
    assert all(study_of(world).demands == () for world in WORLDS.values())


@pytest.mark.parametrize(
    ("text", "ms"),
    [("250ms", 250), ("90s", 90_000), ("5m", 300_000), ("1h30m", 5_400_000), ("2d", 172_800_000), ("0s", 0)],
)
def test_durations(text: str, ms: int) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize("text", ["", "5", "h", "1.5h", "-1h", "1 h", "1H", "1h ", "367d", "999999999d", "1\u0661h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|longer"):
        parse_duration(text)


CASES = tomllib.loads(Path(__file__).with_name("study_mistakes.toml").read_text())["case"]


@pytest.mark.parametrize("case", CASES, ids=[case["message"].split(";")[0] for case in CASES])
def test_every_mistake_is_named_with_what_is_accepted(tmp_path: Path, case: dict[str, str]) -> None:
    assert case["good"] in SMALL
    found = mistakes(tmp_path, SMALL.replace(case["good"], case["bad"], 1))
    assert any(mistake.startswith(case["message"]) for mistake in found), found
    assert not any("hunter2" in mistake for mistake in found)


def test_all_mistakes_are_collected_at_once(tmp_path: Path) -> None:
    text = (
        SMALL.replace('"1h"', "1").replace("high = 20", "high = -1").replace('"ctr"', '"crt"').replace("topic", "topik")
    )
    assert [mistake.split(":")[0] for mistake in mistakes(tmp_path, text)] == [
        "guardrails[0].metric",
        "kafka.topic",
        "kafka.topik",
        "weights[1].low",
        "window.length",
    ]


def test_toml_that_cannot_be_read_names_line_and_column(tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, 'study = "feed"\nseed = = 3\n')
    assert "line 2, column 8" in found
    (found,) = mistakes(tmp_path, b'study = "f\xff"')
    assert found.startswith("the file: found a byte that is not UTF-8 at position 10; accepted: TOML in UTF-8")
    (found,) = mistakes(tmp_path, "a = " + "[" * 100_000)
    assert found.startswith("the file: found no TOML")
    (found,) = mistakes(tmp_path, "a = " + "9" * 10_000)
    assert found.startswith("the file: found no TOML")


def test_a_file_that_is_not_there_or_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the file: found no such file"):
        load(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="the file: found a directory"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ("min_change = 0.01", "guardrails[0].min_change: +0.01 demands that ctr rise by 1.00% or more"),
        ("max_change = -0.01", "guardrails[0].max_change: -0.01 demands that ctr fall by 1.00% or more"),
        ("min_change = 0", "guardrails: ctr may not fall (min_change = 0)"),
    ],
)
def test_a_limit_that_the_baseline_breaks_is_accepted_and_pointed_out(tmp_path: Path, limit: str, told: str) -> None:
    study = read(tmp_path, SMALL.replace("min_change = -0.005", limit))
    assert [text[: len(told)] for text in study.warnings] == [told]


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ("min_change = -0.31", "guardrails[0].min_change: -0.31 is 31 % of ctr; limits are fractions: 0.01 is 1 %"),
        ("max_change = 5", "guardrails[0].max_change: 5 is 500 % of ctr; limits are fractions: 0.01 is 1 %"),
    ],
)
def test_a_limit_that_may_be_a_percentage_is_pointed_out(tmp_path: Path, limit: str, told: str) -> None:
    assert read(tmp_path, SMALL.replace("min_change = -0.005", limit)).warnings == (told,)
    assert read(tmp_path, SMALL.replace("min_change = -0.005", "min_change = -0.3")).warnings == ()


@pytest.mark.parametrize(
    ("limit", "coefficient", "told"),
    [
        (
            "max_change = 0.01",
            "0.5",
            "+0.5 rewards a rise of ctr, which guardrails[0] limits: ctr may rise by at most 1 %",
        ),
        (
            "min_change = -0.01",
            "-2",
            "-2 rewards a fall of ctr, which guardrails[0] limits: ctr may fall by at most 1 %",
        ),
        ("min_change = -0.01", "1", None),
        ("max_change = 0.01", "-1", None),
    ],
)
def test_an_objective_against_a_guardrail_is_pointed_out(
    tmp_path: Path, limit: str, coefficient: str, told: str | None
) -> None:
    text = SMALL.replace("min_change = -0.005", limit)
    found = read(tmp_path, text.replace("watch = 1.0", f"watch = 1.0\nctr = {coefficient}")).warnings
    assert found == (() if told is None else (f"objective.ctr: {told}",))
    found = read(tmp_path, f"{text}\n[objectives.other]\nctr = {coefficient}\n").warnings
    assert found == (() if told is None else (f"objectives.other.ctr: {told}",))


def test_a_single_weight_is_not_advised_to_be_fixed(tmp_path: Path) -> None:
    head, _, rest = SMALL.partition("[[weights]]")
    (alone,) = read(tmp_path, head + "[[weights]]" + rest.partition("[[weights]]")[2]).warnings
    assert alone == (
        "weights: a linear value model is scale-free; a single weight above 0 changes no order, whatever it is: "
        "add another weight, and fix one (`fixed = true`)"
    )
    (two,) = read(tmp_path, SMALL.replace("fixed = true", "")).warnings
    assert "fix one weight (`fixed = true`) to save evidence" in two


def test_a_journal_is_no_study_file_and_is_told_apart(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "feed.journal", "feed"):
        pass
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "feed.journal")
    assert str(caught.value.mistakes[0]) == (
        "the file: found a journal (an SQLite database); accepted: the study file that names it in journal.path"
    )


def test_warnings_tell_of_what_is_legal_but_wasteful(tmp_path: Path) -> None:
    assert read(tmp_path, SMALL).warnings == ()
    free = SMALL.replace("fixed = true", "").replace("min_change = -0.005", "max_change = 0")
    delayed = free.replace('"buckets" }', '"buckets", response = "delayed" }') + '[rollout]\nconfirm = "5h"\n'
    texts = read(tmp_path, delayed).warnings
    assert any(text.startswith("rollout.confirm: 5h is not whole days") for text in texts)
    assert [text.split(":")[0] for text in texts] == [
        "weights",
        "objective.watch",
        "rollout.confirm",
        "guardrails",
    ]


def test_warnings_tell_of_tables_that_are_old_before_the_next(tmp_path: Path) -> None:
    (short,) = read(tmp_path, SMALL.replace('"1h"', '"1h"\nvalidity = "86m"')).warnings
    assert short.startswith("window.validity: below 1h26m40s, a third more than window.length + window.grace")
    assert read(tmp_path, SMALL.replace('"1h"', '"1h"\nvalidity = "87m"')).warnings == ()


def test_warnings_tell_of_much_state_and_of_thin_arms(tmp_path: Path) -> None:
    short = SMALL.replace('"1h"', '"1m"\nlateness = "6h"') + "[traffic]\nbuckets = 100000\n"
    (large,) = read(tmp_path, short).warnings
    assert large.startswith("window: 362 windows of 100000 buckets stay open at once, about 2.2 GiB")
    many = '[segments]\nvalues = ["a", "b", "c", "d", "e", "f", "g"]\n'
    assert read(tmp_path, SMALL + many).warnings == ()
    (slow,) = read(tmp_path, SMALL + many + "[traffic]\nexplore_arms = 13\n").warnings
    assert slow.startswith("traffic.explore_arms: 91 changes a deal (one an arm and segment), of which the belief ")
    assert "vectors stay for 6h;" in slow
    (thin,) = read(tmp_path, SMALL + "[traffic]\nbuckets = 180\nexplore_arms = 4\n").warnings
    assert thin.startswith("rollout.ramp_shares: of 180 buckets, vector or control gets fewer than 10")
    few = "[traffic]\nbuckets = 200\nexplore_arms = 1\nexplore_share = 0.05\nmax_share_at_risk = 0.09\n"
    (thin,) = read(tmp_path, SMALL + few).warnings
    assert thin.startswith("traffic.max_share_at_risk: of 200 buckets, half of it gives a candidate fewer than 10")


@pytest.mark.parametrize("window", ['"1d"', '"1h"\nlateness = "1h"'])
def test_windows_that_are_sealed_too_soon_for_drift_are_warned_of(tmp_path: Path, window: str) -> None:
    (sealed,) = read(tmp_path, SMALL.replace('"1h"', window)).warnings
    assert sealed.startswith("window.lateness: below window.length + window.grace, a vector that no longer gains")


def test_paths_are_relative_to_the_study_file(tmp_path: Path) -> None:
    text = SMALL.replace("[redis]", 'security = "ssl"\nca_file = "ca.pem"\n[redis]').replace('"feed.j', '"../feed.j')
    study = read(tmp_path, text)
    assert study.journal == tmp_path / "../feed.journal"
    assert study.kafka.ca_file == str(tmp_path / "ca.pem")
    secured = 'url = "rediss://localhost:1/0"\ncert_file = "c.pem"\nkey_file = "/k.pem"'
    stored = read(tmp_path, SMALL.replace('url = "redis://localhost:6379/0"', secured)).redis
    assert stored.tls == Tls(None, str(tmp_path / "c.pem"), "/k.pem")
    assert read(tmp_path, SMALL.replace("feed.journal", "/var/feed.journal")).journal == Path("/var/feed.journal")


def test_passwords_come_from_the_environment() -> None:
    environ = {"TRIMTAB_REDIS_PASSWORD": "r", "TRIMTAB_KAFKA_PASSWORD": ""}
    assert password(environ, "redis") == "r"
    assert password(environ, "kafka") is None


def places(tree: Any, at: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The path of every value below the root."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in items for place in ((*at, key), *places(value, (*at, key)))]


def written(value: Any) -> str:
    """Any tree of tables as inline TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


TREE = tomllib.loads(EXAMPLE.read_text())
ODD = st.one_of(
    st.sampled_from(
        [
            "",
            "x",
            "1h",
            "all",
            "buckets",
            "ctr",
            "clicks",
            0,
            -1,
            1,
            10**30,
            0.5,
            -0.5,
            True,
            [],
            {},
            [{}],
            [[]],
        ]
    ),
    st.floats(),
    st.integers(-(2**70), 2**70),
    st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=8),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(places(TREE)), st.none() | ODD), min_size=1, max_size=3))
def test_any_mutation_is_a_study_or_named_mistakes(
    tmp_path_factory: pytest.TempPathFactory, changes: list[Any]
) -> None:
    tree = copy.deepcopy(TREE)
    for place, value in changes:
        mutate(tree, place, value)
    path = tmp_path_factory.mktemp("mutated") / "study.toml"
    path.write_text("\n".join(f"{json.dumps(key)} = {written(value)}" for key, value in tree.items()))
    found, study = outcome(path)
    assert (study is None) != (not found)
    assert not any(mistake.startswith("the file") for mistake in found), path.read_text()
    assert study is None or study.plan.window.grace_ms < study.plan.window.lateness_ms


def outcome(path: Path) -> tuple[list[str], Study | None]:
    """The mistakes of a study file, or the study; anything else that is raised is a bug."""
    try:
        return [], load(path)
    except ConfigError as error:
        return [str(mistake) for mistake in error.mistakes], None


def mutate(tree: Any, place: tuple[str | int, ...], value: Any) -> None:
    """Put `value` at `place`, or delete what is there (None); a place that is gone is left alone."""
    for key in place[:-1]:
        if not holds(tree, key):
            return
        tree = tree[key]
    key = place[-1]
    if holds(tree, key):
        tree[key] = value
        if value is None:
            del tree[key]


def holds(tree: Any, key: str | int) -> bool:
    """Whether `tree[key]` exists."""
    if isinstance(tree, dict):
        return key in tree
    return isinstance(tree, list) and isinstance(key, int) and key < len(tree)


def test_who_may_come_in_stands_beside_the_study(tmp_path: Path) -> None:
    admin = (
        'listen = "[::]:0"\ntokens_file = "tokens"\ncert_file = "tls/c.pem"\nkey_file = "/etc/k.pem"\nhosts = ["a.b"]'
    )
    found = read(tmp_path, f"{SMALL}[admin]\n{admin}\n").admin
    assert (found.tokens_file, found.cert_file) == (str(tmp_path / "tokens"), str(tmp_path / "tls/c.pem"))
    assert (found.listen, found.key_file, found.hosts) == ("[::]:0", "/etc/k.pem", ("a.b",))
    assert read(tmp_path, SMALL).admin.listen == "127.0.0.1:9464"
    with pytest.raises(ConfigError, match=r"admin\.listen: found \"9464\"; accepted: an address"):
        read(tmp_path, f"{SMALL}[admin]\nlisten = '9464'\n")
