"""The commands, as a new user types them, on one small file."""

import json
import re
import shutil
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from controller.cli import main
from nas import workplace
from nas.baselines import Baseline
from nas.cli import _parsed, progress
from nas.design_file import load
from nas.evaluate import evaluate
from nas.prepare import opened
from nas.schema import DataError
from nas.score import read_model
from nas.space import SMALL, SPACES, cardinality
from nas.value import ValueModel
from tests.nas.files import parquet_file, world
from tests.nas.test_design_file import DOCS, TEXT

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def design(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("design")
    parquet_file(folder, world(1500))
    (folder / "design.toml").write_text(TEXT)
    return folder / "design.toml"


@pytest.fixture(scope="module")
def searched(design: Path) -> Path:
    """The folder of the design's search, whichever test asks for it first."""
    for command in ("train", "search"):
        assert main(["nas", command, str(design)]) == 0
    return design.with_suffix(".nas")


def run(capsys: Capture, *args: object) -> str:
    status = main(["nas", *map(str, args)])
    out, err = capsys.readouterr()
    assert status == 0, err
    return out


def failed(capsys: Capture, status: int, *args: object) -> str:
    assert main(["nas", *map(str, args)]) == status
    return capsys.readouterr().err


def test_from_a_file_to_scores(design: Path, capsys: Capture, tmp_path: Path) -> None:
    assert "next: trimtab nas search" in run(capsys, "train", design)
    found = json.loads(run(capsys, "search", design, "--json", "--figure", tmp_path / "front.png"))
    assert found["front"]
    assert set(found["measured"]) <= {str(one["index"]) for one in found["front"]}
    assert "pick0-seed0" in run(capsys, "retrain", design)
    best = json.loads(run(capsys, "retrain", design, "--finalists", 2, "--seeds", 1, "--json"))["runs"]
    runs = design.parent / "design.nas" / "runs"
    tried = [*runs.glob("net*-seed0"), *runs.glob("large-*-seed0")]
    assert [folder.name.startswith("large") for folder in tried] == [False, False, True, True]
    losses = {str(f): json.loads((f / "record.json").read_bytes())["best"]["valid"]["loss"] for f in tried}
    assert [*best] == [min(losses, key=losses.__getitem__)]
    for folder in tried:
        shutil.rmtree(folder)
    run(capsys, "train", design, "--model", "dnn")
    scores = json.loads(run(capsys, "evaluate", design, "--json"))
    assert set(scores["runs"]) == {str(runs / name) for name in ("dnn-seed0", "pick0-seed0", "pick0-seed1")}
    assert set(scores["gaps"]["dnn - pick0"]) == {"click", "like"}
    told = run(capsys, "evaluate", design)
    assert "claimed" in told
    assert "dense, sparse" in run(capsys, "export", design, runs / "pick0-seed0", "--onnx", tmp_path / "m.onnx")
    other = design.parent / "other.toml"
    other.write_text(TEXT.replace('name = "like"', 'name = "share"').replace("like = 4.0", "share = 4.0"))
    refused = failed(
        capsys, 2, "export", other, runs / "pick0-seed0", "--out", tmp_path / "o", "--onnx", tmp_path / "o.onnx"
    )
    assert "was trained on other data than" in refused
    for old, new, named in (
        ('preset = "small"', 'preset = "small"\nblocks = 2', f"space.blocks was {SMALL.blocks}, is 2"),
        ("learning_rate = 0.02", "learning_rate = 0.1", "recipe.learning_rate was 0.02, is 0.1"),
        ("[value]", '[value]\nlosses = "value"', "the weight of each head's loss (value.losses) was [1.0,1.0], is [0."),
        ("rows = 4000", "epochs = 3.0", "supernet.rows (or epochs, in rows) was 4000, is "),
    ):
        other.write_text(TEXT.replace(old, new))
        refused = failed(capsys, 2, "search", other, "--out", design.with_suffix(".nas"))
        assert "supernet: was trained by another design than" in refused
        assert f"is now: {named}" in refused
    other.write_text(TEXT.replace("like = 4.0", "like = 400.0"))
    again = json.loads(run(capsys, "train", other, "--model", "dnn", "--out", design.with_suffix(".nas"), "--json"))
    fresh = json.loads(run(capsys, "train", other, "--model", "dnn", "--out", tmp_path / "fresh", "--json"))
    valued, anew = (next(iter(found["runs"].values()))["best"]["valid"] for found in (again, fresh))
    assert valued["value_gauc"] == pytest.approx(anew["value_gauc"])
    log, out = design.parent / "log.parquet", tmp_path / "scores.parquet"
    run(capsys, "score", runs / "pick0-seed0", log, "--out", out)
    predicted = parquet.read_table(out)
    assert predicted.num_rows == 1500
    assert np.corrcoef(predicted["click"], world(1500)["true_click"])[0, 1] > 0.2
    assert (tmp_path / "front.png").stat().st_size > 1000


def test_a_search_of_another_design_is_retrained_from_no_more(
    design: Path, searched: Path, capsys: Capture, tmp_path: Path
) -> None:
    out, other = tmp_path / "out", design.parent / "other.toml"
    shutil.copytree(searched, out)
    other.write_text(TEXT.replace('preset = "small"', 'preset = "small"\nwidths = [16]'))
    wanted = f"search.jsonl: of another search than {other} asks for now: "
    for which in (("--pick", 0), ("--finalists", 1)):
        assert f"{wanted}space.widths was [8,16,32], is [16]; put the design back" in failed(
            capsys, 2, "retrain", other, *which, "--out", out
        )
    other.write_text(TEXT.replace('by = "group"', 'by = "rows"'))
    assert f"than {other} is now: the data are others" in failed(capsys, 2, "search", other, "--out", out)
    shutil.move(out / "supernet", tmp_path / "supernet")
    assert wanted in failed(capsys, 2, "retrain", other, "--out", out)
    assert "--pick: found 99" in failed(capsys, 2, "retrain", design, "--pick", 99, "--out", out)
    other.write_text(TEXT.replace('by = "group"', 'by = "time"'))
    assert wanted in failed(capsys, 2, "retrain", other, "--out", out)
    flops = json.loads((out / "front.json").read_bytes())[0]["sizes"]["flops"]
    for most, which, named in (
        (
            flops - 1,
            ("--pick", 0),
            f"--pick: found 0, whose flops is {flops:.6g}; search.limits has at most {flops - 1:g}",
        ),
        (1, ("--finalists", 1), "no network keeps all limits: flops at most 1 (the least found is "),
    ):
        other.write_text(re.sub("at_most = [0-9.e]+", f"at_most = {most}", TEXT))
        assert named in failed(capsys, 2, "retrain", other, *which, "--out", searched)
    journal = out / "search" / "search.jsonl"
    journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])
    refused = failed(capsys, 2, "retrain", design, "--out", out)
    assert f"front.json: is of another search than {out / 'search'}; `trimtab nas search` ends that one" in refused


def test_of_two_that_work_in_one_folder_the_second_waits_and_finds_what_the_first_made(
    design: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    batches: list[int] = []
    waiting = Event()

    def tell(text: str) -> None:
        told.append(text)
        waiting.set()

    def say(rows: int, budget: int) -> None:
        batches.append(rows)
        assert waiting.wait(60)

    place = workplace.opened(load(design), tmp_path, tell=tell)
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(workplace.trained, place, Baseline(name="dnn"), 0, "dnn", say=say) for _ in range(2)]
        first, second = (one.result()[0].record.best for one in made)
    assert first == second
    assert batches == sorted(set(batches)), "each row was trained on once"
    assert told == [f"waiting for another process, which works in {tmp_path / 'runs' / 'dnn-seed0'}"]


def test_files_may_stand_behind_an_option(capsys: Capture) -> None:
    found = _parsed(["evaluate", "d.toml", "--out", "o", "run", "--json", "other"])
    assert (found.design, found.out, found.runs) == (Path("d.toml"), Path("o"), [Path("run"), Path("other")])
    found = _parsed(["score", "run", "a.csv", "--layout", "csv", "b.csv", "--out", "s"])
    assert (found.run, found.files, found.out) == (Path("run"), ["a.csv", "b.csv"], Path("s"))
    assert _parsed(["evaluate", "--out", "o", "d.toml"]).runs == []
    assert _parsed(["retrain", "d.toml", "--finalists", "3"]).finalists == 3
    for wrong in (["evaluate"], ["evaluate", "--bogus", "d.toml"], ["nothing"], [], ["retrain", "d.toml", "run"]):
        with pytest.raises(SystemExit):
            _parsed(wrong)
    assert "unrecognized arguments: run" in capsys.readouterr().err


def test_runs_of_one_name_in_two_folders_are_two_models(design: Path, capsys: Capture, tmp_path: Path) -> None:
    slower = design.parent / "slower.toml"
    slower.write_text(TEXT.replace("learning_rate = 0.02", "learning_rate = 0.002"))
    for file, name in ((design, "a"), (slower, "b")):
        run(capsys, "train", file, "--model", "dnn", "--out", tmp_path / name)
    runs = [tmp_path / name / "runs" / "dnn-seed0" for name in ("a", "b")]
    found = json.loads(run(capsys, "evaluate", design, "--out", tmp_path / "a", *runs, runs[0], "--json"))
    assert set(found["runs"]) == set(map(str, runs))
    (pair,) = found["gaps"]
    assert pair == " - ".join(str(one.with_name("dnn")) for one in runs)
    assert found["gaps"][pair]["click"]["mean"] != 0


def test_runs_of_other_losses_and_thetas_are_compared_by_the_design(
    design: Path, capsys: Capture, tmp_path: Path
) -> None:
    other, plain = design.parent / "valued.toml", design.parent / "plain.toml"
    other.write_text(TEXT.replace("[value]", '[value]\nlosses = "value"').replace("like = 4.0", "like = -40.0"))
    plain.write_text(re.sub(r"\[value\]\n.*", "", TEXT))
    for file, name in ((design, "a"), (other, "b")):
        run(capsys, "train", file, "--model", "dnn", "--out", tmp_path / name)
    runs = [tmp_path / name / "runs" / "dnn-seed0" for name in ("a", "b")]
    for judge, weights in ((design, (1.0, 4.0)), (other, (1.0, -40.0)), (plain, None)):
        found = json.loads(run(capsys, "evaluate", judge, "--out", tmp_path / "a", *runs, "--json"))
        by = found["judged_by"]
        assert by["value"] == (weights and {"form": "linear", "weights": list(weights)})
        for folder in runs:
            (model, encoding), rows = read_model(folder), opened(tmp_path / "a" / "data").test
            value = ValueModel("linear", weights) if weights else None
            own = evaluate(model.model, rows, encoding.schema, tuple(by["head_weights"].values()), value)[0]
            told = found["runs"][str(folder)]["test"]
            assert told["loss"] == pytest.approx(own.loss)
            assert told["value_gauc"] == (weights and pytest.approx(own.value_gauc))
        equal = set(by["head_weights"].values()) == {1.0}
        assert equal == (judge != other)
    told = run(capsys, "evaluate", design, "--out", tmp_path / "a", *runs)
    assert f"by {design}: loss weights click 1, like 1; value: linear, click 1, like 4; nothing is written" in told
    assert "kept in" not in told


def test_the_documented_design_of_a_csv_trains(capsys: Capture, tmp_path: Path) -> None:
    (shown,) = re.findall(r"```toml\n(# watch\.toml.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "watch.toml").write_text(shown)
    header, line = (text.removeprefix("#   ") for text in shown.splitlines()[1:3])
    table = world(600).select(["ts_ms", "request", "age", "city", "tags", "click", "like"]).to_pylist()
    rows = [[*list(row.values())[:-1], "good" if row["like"] else "bad"] for row in table]
    (tmp_path / "watch.csv").write_text("\n".join([header, line, *(",".join(map(str, row)) for row in rows)]))
    told = run(capsys, "train", tmp_path / "watch.toml", "--model", "dnn")
    assert "value GAUC" in told  # and empty: it has no [value]
    (tmp_path / "valued.toml").write_text(f"{shown}\n[value]\nweights = {{ click = 1.0, like = 4.0 }}\n")
    found = json.loads(run(capsys, "train", tmp_path / "valued.toml", "--model", "dnn", "--json"))
    (record,) = found["runs"].values()
    assert [head["head"] for head in record["best"]["valid"]["heads"]] == ["click", "like"]
    told = run(capsys, "evaluate", tmp_path / "valued.toml")
    assert "value GAUC" in told
    found = json.loads(run(capsys, "evaluate", tmp_path / "valued.toml", "--json"))
    (record,) = found["runs"].values()
    assert record["test"]["value_captured"] is None
    assert f"{record['test']['value_gauc']:.4f}" in told


def test_a_space_is_told_and_drawn(capsys: Capture, tmp_path: Path) -> None:
    told = run(capsys, "space", "--preset", "small", "--figure", tmp_path / "graph.png")
    assert "networks      " in told
    for name, space in SPACES.items():
        assert int(json.loads(run(capsys, "space", "--preset", name, "--json"))["networks"]) == cardinality(space)
    found = json.loads(run(capsys, "space", "--json"))
    (tmp_path / "g.json").write_text(json.dumps(found["genotype"]))
    assert (
        json.loads(run(capsys, "space", "--json", "--genotype", tmp_path / "g.json"))["genotype"] == found["genotype"]
    )


def test_an_empty_front_is_told_by_its_limits(design: Path, capsys: Capture, tmp_path: Path) -> None:
    narrow = design.parent / "narrow.toml"
    narrow.write_text(TEXT.replace("at_most = 1e6", "at_most = 1").replace("evaluations = 8", "evaluations = 1"))
    run(capsys, "train", narrow, "--out", tmp_path)
    wanted = "no network keeps all limits: flops at most 1 (the least found is"
    assert wanted in failed(capsys, 1, "search", narrow, "--out", tmp_path)
    assert wanted in failed(capsys, 2, "retrain", narrow, "--out", tmp_path)
    assert wanted in failed(capsys, 2, "retrain", narrow, "--finalists", 1, "--out", tmp_path)
    narrow.write_text(TEXT.replace("evaluations = 8", "evaluations = 1"))
    refused = failed(capsys, 2, "search", narrow, "--out", tmp_path)
    assert "search.limits was [" in refused
    assert f"remove {tmp_path / 'search'} to search anew (the supernet stays)" in refused
    shutil.rmtree(tmp_path / "search")
    assert json.loads(run(capsys, "search", narrow, "--out", tmp_path, "--json"))["front"]


def test_a_limit_on_latency_keeps_no_enlarged_network_out_that_is_fast(
    design: Path, capsys: Capture, tmp_path: Path
) -> None:
    timed = design.parent / "timed.toml"
    timed.write_text(TEXT.replace('"flops", at_most', '"latency_ms", at_most'))
    run(capsys, "train", timed, "--out", tmp_path)
    run(capsys, "search", timed, "--out", tmp_path)
    table = (tmp_path / "latency.json").read_bytes()
    run(capsys, "retrain", timed, "--finalists", 1, "--seeds", 1, "--out", tmp_path)
    assert [*(tmp_path / "runs").glob("large-*-seed0")]
    assert (tmp_path / "latency.json").read_bytes() == table
    place = workplace.opened(load(timed), tmp_path)
    rules, found = place.design.tables.search.rules(), workplace.journalled(place)
    again = workplace._sized(place, rules, [one.genotype for one in found])
    assert [one.sizes for one in again] == [one.sizes for one in found]


def test_scores_take_the_place_of_no_rows(design: Path, capsys: Capture, tmp_path: Path) -> None:
    run(capsys, "train", design, "--model", "dnn", "--out", tmp_path)
    log = tmp_path / "new.parquet"
    shutil.copy(design.parent / "log.parquet", log)
    refused = failed(capsys, 2, "score", tmp_path / "runs" / "dnn-seed0", log, "--out", tmp_path / "." / "new.parquet")
    assert f"--out: found {log}, one of the files to be scored" in refused
    assert parquet.read_table(log).num_rows == 1500


def test_scoring_tells_values_that_the_model_does_not_know(design: Path, capsys: Capture, tmp_path: Path) -> None:
    run(capsys, "train", design, "--model", "dnn", "--out", tmp_path)
    table = world(200)
    odd = table.set_column(2, "city", pa.array([f"{city}.0" for city in table["city"].to_pylist()]))
    parquet.write_table(odd, tmp_path / "odd.parquet")
    for log, told in ((design.parent / "log.parquet", ""), (tmp_path / "odd.parquet", "trimtab nas: city: 100 % of")):
        assert main(["nas", "score", *map(str, (tmp_path / "runs" / "dnn-seed0", log, "--out", tmp_path / "s"))]) == 0
        err = capsys.readouterr().err
        assert (err.count("\n"), err[: len(told)]) == (bool(told), told)


def test_scoring_refuses_a_layout_that_the_files_do_not_have(design: Path, capsys: Capture, tmp_path: Path) -> None:
    run(capsys, "train", design, "--model", "dnn", "--out", tmp_path)
    scored = tmp_path / "runs" / "dnn-seed0"
    assert "x.csv: is read as Parquet without --layout; expected --layout csv" in failed(
        capsys, 2, "score", scored, "x.csv"
    )
    assert "x.tsv.gz: is read as Parquet without --layout; expected --layout tsv" in failed(
        capsys, 2, "score", scored, "x.tsv.gz"
    )
    refused = failed(capsys, 2, "score", scored, design.parent / "log.parquet", "--header", "a,b")
    assert "--header: belongs to files of layout csv, tsv, avazu; found 'parquet'" in refused


def test_progress_ends_at_its_end(capsys: Capture) -> None:
    with progress(Namespace(json=False), "rows") as update:
        update(5120, 4800, "")
    assert "4800/4800 rows" in capsys.readouterr().err


def test_work_that_never_began_leaves_no_bar_above_its_refusal(capsys: Capture) -> None:
    for done, told in ((0.0, False), (0.5, True)):
        with suppress(DataError), progress(Namespace(json=False), "rows") as update:
            update(done, 3, "")
            raise DataError("refused")
        assert ("0/3 rows" in capsys.readouterr().err) == told


def test_a_model_that_is_none_is_refused_before_data_are_read(design: Path, capsys: Capture, tmp_path: Path) -> None:
    for given in (("train", design, "--model", design), ("retrain", design, "--genotype", design)):
        refused = failed(capsys, 2, *given, "--out", tmp_path / "none")
        assert f"{design}: no genotype, as `trimtab nas export` and `space --json` write them" in refused
        assert "JSON is malformed" in refused
    assert not (tmp_path / "none").exists()


def test_finalists_tell_how_far_their_trainings_are(design: Path, capsys: Capture, tmp_path: Path) -> None:
    run(capsys, "train", design, "--out", tmp_path)
    run(capsys, "search", design, "--out", tmp_path)
    heard: list[tuple[float, int, float]] = []
    workplace.best_finalist(workplace.opened(load(design), tmp_path), 1, lambda *said: heard.append(said))
    done = [part for part, _, _ in heard]
    assert done == sorted(done)
    assert any(0 < part < 1 for part in done)
    assert done[-1] == heard[-1][1]
    assert [part for part, _, least in heard if least == float("inf")] == [part for part in done if part <= 1][:-1]


def test_files_that_cannot_be_are_named(design: Path, capsys: Capture, tmp_path: Path) -> None:
    assert f"there is no folder {tmp_path / 'none'}" in failed(
        capsys, 2, "space", "--figure", tmp_path / "none" / "x.png"
    )
    assert "x.xyz; expected a name that ends in .png" in failed(capsys, 2, "search", design, "--figure", "x.xyz")
    assert f"{tmp_path}: Is a directory" in failed(capsys, 2, "train", tmp_path)
    (tmp_path / "file").write_text("")
    assert "Not a directory" in failed(capsys, 2, "train", design, "--out", tmp_path / "file")
    assert "--genotype: found" in failed(capsys, 2, "space", "--genotype", tmp_path / "none.json")


def test_what_is_missing_is_named_with_what_makes_it(
    design: Path, searched: Path, capsys: Capture, tmp_path: Path
) -> None:
    assert "`trimtab nas train` makes one" in failed(capsys, 2, "search", design, "--out", tmp_path)
    assert "`trimtab nas search` makes one" in failed(capsys, 2, "retrain", design, "--out", tmp_path)
    (tmp_path / "search").mkdir()
    journal = searched / "search" / "search.jsonl"
    header, first = journal.read_bytes().splitlines(keepends=True)[:2]
    (tmp_path / "search" / "search.jsonl").write_bytes(header[:-1])
    assert "`trimtab nas search` makes one" in failed(capsys, 2, "retrain", design, "--finalists", 1, "--out", tmp_path)
    (tmp_path / "search" / "search.jsonl").write_bytes(header + first[:-9])  # torn by a kill
    assert "nothing is evaluated yet" in failed(capsys, 2, "retrain", design, "--finalists", 1, "--out", tmp_path)
    assert "`trimtab nas retrain` makes some" in failed(capsys, 2, "evaluate", design, "--out", tmp_path)
    for folder in (tmp_path, tmp_path / "data"):
        assert "`trimtab nas retrain` makes one" in failed(capsys, 2, "export", design, folder)
    assert "no such file" in failed(capsys, 2, "train", tmp_path / "none.toml")
    with pytest.raises(SystemExit):
        main(["nas", "train", str(design), "--model", "dnn", "--seed", "-1"])
    assert "--seed: found -1; expected 0 or more" in capsys.readouterr().err
    assert "or one of dnn, deepfm" in failed(capsys, 2, "train", design, "--model", "transformer", "--out", tmp_path)
