"""The search on a supernet that was really trained: the same bits with any number of workers, and after a kill."""

import multiprocessing
import os
import shutil
import signal
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from nas import supernet_train
from nas.batches import Batch
from nas.evaluate import evaluate
from nas.evolution import Evaluated, Limit, Rules, front
from nas.genotype import digest
from nas.latency import LatencyTable, measured_table
from nas.network import Network
from nas.pareto import dominated
from nas.prepare import opened
from nas.recipe import Recipe
from nas.sampling import STRATEGIES, paths
from nas.schema import DataError
from nas.search import JOURNAL, AnotherSearch, Say, SearchPlan, Worker, adaptation, search
from nas.space import SMALL, misfits
from nas.supernet import Borrowed
from nas.supernet_train import RECORD, AnotherSupernet, SupernetPlan, read_supernet, train_supernet
from tests.nas.files import SCHEMA, parts
from tests.nas.networks import genotype
from tests.waiting import wait_until

RECIPE = Recipe(batch_size=128, learning_rate=0.02)
ADAPT = Recipe(batch_size=128, learning_rate=0.005, epochs=4)
SUPERNET = SupernetPlan(space=SMALL, recipe=RECIPE, rows=60_000)
PLAN = SearchPlan(
    rules=Rules(population=6, tournament=3, children=4), evaluations=20, adapt_rows=128, adapt=ADAPT, valid_rows=400
)


def test_an_adaptation_takes_some_steps_unless_their_batches_were_tiny() -> None:
    recipe = Recipe(batch_size=512, learning_rate=0.003)
    assert [adaptation(recipe, rows).batch_size for rows in (20_000, 3_200, 120)] == [512, 100, 16]
    assert adaptation(recipe, 3_200).learning_rate == recipe.learning_rate / 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    data = parts(folder)
    train_supernet(SUPERNET, data, folder / "supernet")
    return folder


@pytest.fixture(scope="module")
def whole(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Evaluated]:
    return run(trained, tmp_path_factory.mktemp("whole"))


def run(trained: Path, folder: Path, plan: SearchPlan = PLAN, workers: int = 1) -> list[Evaluated]:
    return search(plan, trained / "prepared", trained / "supernet", folder, workers=workers)


def bits(found: list[Evaluated]) -> list[bytes]:
    return [msgspec.json.encode(msgspec.structs.replace(one, seconds=0.0)) for one in found]


def test_the_same_bits_with_any_number_of_workers(trained: Path, whole: list[Evaluated], tmp_path: Path) -> None:
    assert bits(run(trained, tmp_path, workers=2)) == bits(whole)


def held_up(trained: Path, folder: Path) -> None:
    """A search that stands still after its third result, until somebody kills it."""
    say: Say = lambda found: time.sleep(600) if len(found) == 3 else None  # noqa: E731
    search(PLAN, trained / "prepared", trained / "supernet", folder, say=say)


def test_a_killed_search_resumes_to_the_same_front(trained: Path, whole: list[Evaluated], tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=held_up, args=(trained, tmp_path), daemon=True)
    process.start()
    journal = tmp_path / JOURNAL
    wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 4, "three results", deadline_s=120)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert journal.read_bytes().count(b"\n") == 1 + 3
    journal.write_bytes(journal.read_bytes() + b'{"index": 19, "geno')  # a torn line
    found = run(trained, tmp_path)
    assert bits(found) == bits(whole)
    assert bits(front(PLAN.rules, found)) == bits(front(PLAN.rules, whole))


def test_a_kill_while_a_journal_is_begun_or_gone_on_with_loses_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, journal, write = msgspec.structs.replace(PLAN, evaluations=4), tmp_path / JOURNAL, Path.write_bytes

    def killed(self: Path, data: bytes) -> int:
        write(self, data[: len(data) // 2])
        raise KeyboardInterrupt

    for _ in range(2):  # before there is a journal, and with a whole one
        before = journal.read_bytes() if journal.exists() else b""
        with monkeypatch.context() as patched:
            patched.setattr(Path, "write_bytes", killed)
            with pytest.raises(KeyboardInterrupt):
                run(trained, tmp_path, plan)
        assert (journal.read_bytes() if journal.exists() else b"") == before
        found = run(trained, tmp_path, plan)
    for torn in (b"", journal.read_bytes()[:50]):  # an earlier version may have left these
        journal.write_bytes(torn)
        assert bits(run(trained, tmp_path, plan)) == bits(found)


def test_a_journal_of_another_search_is_refused(trained: Path, whole: list[Evaluated], tmp_path: Path) -> None:
    run(trained, tmp_path, msgspec.structs.replace(PLAN, evaluations=4))
    journal = tmp_path / JOURNAL
    held = journal.read_bytes()
    rules = msgspec.structs.replace(PLAN.rules, limits=(Limit("flops", 1e6),))
    for change, named in (
        ({"seed": 9}, "search.seed was 0, is 9"),
        ({"evaluations": 3}, "search.evaluations was 4, is 3"),
        ({"rules": rules}, 'search.limits was [], is [{"objective":"flops","at_most":1000000.0}]'),
        ({"adapt_rows": 0}, "search.adapt, in rows, was 128, is 0"),
    ):
        with pytest.raises(AnotherSearch) as refused:
            run(trained, tmp_path, msgspec.structs.replace(PLAN, **{"evaluations": 4, **change}))
        assert f"search: {named}; put the design back, or remove {tmp_path} to search anew" in str(refused.value)
    assert journal.read_bytes() == held
    for other in (b'{"plan": 1}\n', held.replace(b'"known":0.75', b'"knewn":0.75')):
        journal.write_bytes(other)
        with pytest.raises(AnotherSearch, match="of an earlier version; remove"):
            run(trained, tmp_path, msgspec.structs.replace(PLAN, evaluations=4))


def test_more_evaluations_go_on_to_the_same_bits(trained: Path, whole: list[Evaluated], tmp_path: Path) -> None:
    run(trained, tmp_path, msgspec.structs.replace(PLAN, evaluations=10))  # its last round is not whole
    told: list[int] = []
    found = search(PLAN, trained / "prepared", trained / "supernet", tmp_path, say=lambda some: told.append(len(some)))
    assert bits(found) == bits(whole)
    assert told == [*range(11, 21)]
    assert bits(run(trained, tmp_path)) == bits(whole)


def test_rows_bound_a_search(trained: Path, tmp_path: Path) -> None:
    found = run(trained, tmp_path, msgspec.structs.replace(PLAN, rows=600))
    assert len(found) == 8  # whole rounds of 4 nets x 128 rows


def test_networks_that_are_one_without_dense_fields_are_evaluated_once(tmp_path: Path) -> None:
    data = parts(tmp_path, schema=msgspec.structs.replace(SCHEMA, fields=SCHEMA.fields[2:]))
    space = msgspec.structs.replace(SMALL, blocks=1, dense=("fc",), sparse=("efc", "attention"), mergers=())
    train_supernet(SupernetPlan(space=space, recipe=RECIPE, rows=256), data, tmp_path / "supernet")
    found = run(tmp_path, tmp_path / "search", msgspec.structs.replace(PLAN, evaluations=24, adapt_rows=0))
    networks = {digest(msgspec.structs.replace(one.genotype, numeric=False)) for one in found}
    assert len(networks) == len(found) == 24


@pytest.mark.parametrize("adapt_rows", [0, 128])
def test_networks_are_judged_by_the_heads_that_the_supernet_was_trained_for(
    adapt_rows: int, trained: Path, tmp_path: Path
) -> None:
    """The first head alone counts, twice: the mean over both heads is its own loss."""
    data = opened(trained / "prepared")
    train_supernet(msgspec.structs.replace(SUPERNET, rows=2560, head_weights=(2.0, 0.0)), data, tmp_path / "supernet")
    plan = msgspec.structs.replace(PLAN, evaluations=1, adapt_rows=adapt_rows)
    (one,) = search(plan, trained / "prepared", tmp_path / "supernet", tmp_path / "search")
    network = read_supernet(tmp_path / "supernet")[0].cut(one.genotype)
    found, _ = evaluate(network, data.valid.observed(400), data.encoding.schema, (1.0, 1.0))
    first, second = (head.logloss for head in found.heads)
    assert abs(first - second) > 0.05
    assert one.loss == pytest.approx(first, abs=0.02 if adapt_rows else 1e-6)
    assert (one.rows, one.index) == (adapt_rows, 0)


def test_an_adaptation_is_the_seed_s(trained: Path) -> None:
    small = msgspec.structs.replace(ADAPT, batch_size=32)
    losses = [
        Worker(msgspec.structs.replace(PLAN, seed=seed, adapt=small), trained / "prepared", trained / "supernet", None)
        .evaluate(0, genotype(0, SMALL))
        .loss
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_a_long_adaptation_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"adapt_rows: found 9000; expected at most 2% of the \d+ rows of one training"
    ):
        run(trained, tmp_path, msgspec.structs.replace(PLAN, adapt_rows=9000))


def test_rows_without_a_label_of_every_head_judge_no_network(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "prepared", tmp_path / "prepared")
    rows = len(opened(tmp_path / "prepared").valid)
    labels = np.memmap(tmp_path / "prepared" / "valid" / "labels.bin", np.float32, "r+", shape=(rows, 2))
    labels[:100, 1] = np.nan
    labels.flush()
    few = msgspec.structs.replace(PLAN, valid_rows=90, evaluations=4)
    with pytest.raises(DataError, match=r"valid_rows: none of the first 90 .* 'like', .* expected at least 101"):
        search(few, tmp_path / "prepared", trained / "supernet", tmp_path / "few")
    enough = msgspec.structs.replace(few, valid_rows=101)
    assert all(np.isfinite(one.loss) for one in search(enough, tmp_path / "prepared", trained / "supernet", tmp_path))


def test_inherited_weights_tell_good_from_bad(trained: Path, whole: list[Evaluated]) -> None:
    labels = np.asarray(opened(trained / "prepared").valid.labels)
    rate = labels.mean(axis=0)
    entropy = float(-(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)).mean())
    assert min(one.loss for one in whole) < entropy - 0.005


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_trains_and_resumes_to_the_same_bits(strategy: str, trained: Path, tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(RECIPE, dropout=0.2)
    plan = msgspec.structs.replace(SUPERNET, recipe=recipe, rows=2000, strategy=strategy, warmup=0.02)
    data = opened(trained / "prepared")
    _, record = train_supernet(plan, data, tmp_path / "whole")

    def stop(done: int, rows: int, loss: float) -> None:
        if done >= rows // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_supernet(plan, data, tmp_path / "parts", stop)
    _, again = train_supernet(plan, data, tmp_path / "parts")
    assert again.digest == record.digest
    assert read_supernet(tmp_path / "whole")[1] == record


@pytest.mark.parametrize("after", range(1, 5))
def test_a_supernet_killed_between_any_two_files_resumes_to_the_same_bits(
    after: int, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, plan = opened(trained / "prepared"), msgspec.structs.replace(SUPERNET, rows=2000)
    _, whole = train_supernet(plan, data, tmp_path / "whole")
    replace, calls = Path.replace, count(1)

    def killed(self: Path, target: Path) -> Path:
        found = replace(self, target)
        if next(calls) == after:
            raise KeyboardInterrupt
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            train_supernet(plan, data, tmp_path / "parts")
    assert train_supernet(plan, data, tmp_path / "parts")[1].digest == whole.digest


def test_steps_that_are_none_are_counted(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, calls = Borrowed.step, count()

    def every_other(self: Borrowed, rate: float, embedding_l2: float = 0.0) -> bool:
        return next(calls) % 2 == 0 and step(self, rate, embedding_l2)

    monkeypatch.setattr(Borrowed, "step", every_other)
    plan = msgspec.structs.replace(SUPERNET, rows=1280)
    _, record = train_supernet(plan, opened(trained / "prepared"), tmp_path)
    assert (record.rows, record.skipped) == (1280, 5)


@pytest.mark.parametrize("rows", [1280, 2560])  # finished; killed half-way
def test_a_supernet_of_an_earlier_version_is_not_gone_on_with(
    rows: int, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, plan = opened(trained / "prepared"), msgspec.structs.replace(SUPERNET, rows=rows)

    def stop(done: int, rows: int, loss: float) -> None:
        if done >= 1280 and done < rows:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(supernet_train, "SCHEMA", supernet_train.SCHEMA - 1)
        with suppress(KeyboardInterrupt):
            train_supernet(plan, data, tmp_path, stop)
    with pytest.raises(AnotherSupernet, match="of an earlier version; put the design back, remove"):
        train_supernet(plan, data, tmp_path)


def test_a_supernet_that_does_not_say_how_far_it_is_is_not_gone_on_with(trained: Path, tmp_path: Path) -> None:
    data, plan = opened(trained / "prepared"), msgspec.structs.replace(SUPERNET, rows=1280)
    train_supernet(plan, data, tmp_path)
    held = torch.load(tmp_path / "supernet.pt", weights_only=True)
    del held["progress"]  # as the first versions wrote it
    torch.save(held, tmp_path / "supernet.pt")
    with pytest.raises(AnotherSupernet, match="of an earlier version"):
        train_supernet(plan, data, tmp_path)


def test_a_supernet_none_of_whose_steps_can_be_made_says_what_to_change(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, plan = opened(trained / "prepared"), msgspec.structs.replace(SUPERNET, rows=1280)
    with monkeypatch.context() as patched:
        patched.setattr(Borrowed, "step", lambda self, rate, embedding_l2: False)
        with pytest.raises(ValueError, match=r"none of its first 10 steps .* space\.norms = .* \(found none, layer\)"):
            train_supernet(plan, data, tmp_path)
        with pytest.raises(ValueError, match="none of its first 100 steps"):  # of 391
            train_supernet(msgspec.structs.replace(plan, rows=50_000), data, tmp_path)
    _, record = train_supernet(plan, data, tmp_path)  # and the folder is free
    assert np.isfinite(record.loss)


def test_strategies_sample_what_they_say() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        (single,) = paths("single-any", SMALL, rng)
        assert not misfits(single, SMALL)
        (chain,) = paths("single-single", SMALL, rng)
        assert {len(b.dense_from) for b in chain.blocks} | {len(b.sparse_from) for b in chain.blocks} == {1}
        largest, _, smallest = paths("sandwich", SMALL, rng)
        assert {b.width for b in largest.blocks} == {32}
        assert {b.width for b in smallest.blocks} == {8}
    counts = {len(b.dense) for _ in range(50) for b in paths("any-any", SMALL, rng)[0].blocks}
    assert counts == {1, 2, 3, 4, 5}


def test_a_date_is_a_seed(trained: Path, tmp_path: Path) -> None:
    plan = msgspec.structs.replace(SUPERNET, rows=256, seed=20260101)
    assert train_supernet(plan, opened(trained / "prepared"), tmp_path)[1].rows == 256


def test_another_supernets_folder_is_refused(trained: Path, tmp_path: Path) -> None:
    data = opened(trained / "prepared")
    for change, named in (
        ({"seed": 5}, "supernet.seed was 0, is 5"),
        ({"recipe": msgspec.structs.replace(RECIPE, learning_rate=0.5)}, "recipe.learning_rate was 0.02, is 0.5"),
        ({"rows": 77}, f"supernet.rows (or epochs, in rows) was {SUPERNET.rows}, is 77"),
    ):
        with pytest.raises(AnotherSupernet) as refused:
            train_supernet(msgspec.structs.replace(SUPERNET, **change), data, trained / "supernet")
        assert f"supernet: holds a supernet of another design: {named}; put the design back, remove" in str(
            refused.value
        )
    with pytest.raises(AnotherSupernet, match="another design: the data are others; put"):
        train_supernet(SUPERNET, msgspec.structs.replace(data, digest="x"), trained / "supernet")
    with pytest.raises(AnotherSupernet, match="trimtab nas train"):
        read_supernet(tmp_path)
    record = msgspec.json.decode((trained / "supernet" / RECORD).read_bytes())
    del record["schema"]
    (tmp_path / RECORD).write_bytes(msgspec.json.encode(record))
    with pytest.raises(AnotherSupernet, match="holds a supernet of schema 1; this version reads 3"):
        read_supernet(tmp_path)
    with pytest.raises(ValueError, match=r"supernet\.warmup: found 0\.5; expected a share of the rows, at most 0\.02"):
        SupernetPlan(space=SMALL, recipe=RECIPE, rows=100, warmup=0.5)


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    return measured_table(batch=64)


def test_a_latency_table_is_the_same_for_the_same_network_and_grows_with_it(table: LatencyTable, trained: Path) -> None:
    data = opened(trained / "prepared")
    given = Batch(data.valid.take(slice(0, 64))).features
    inputs = read_supernet(trained / "supernet")[1].inputs
    found = [table.estimate(Network(genotype(seed, SMALL), inputs), given) for seed in range(10)]
    assert found == [table.estimate(Network(genotype(seed, SMALL), inputs), given) for seed in range(10)]
    assert min(found) > 0
    for kind in {entry.kind for entry in table.entries}:
        assert [e.size for e in table.entries if e.kind == kind] == sorted(
            e.size for e in table.entries if e.kind == kind
        )


def test_latency_is_an_objective_and_a_limit(trained: Path, table: LatencyTable, tmp_path: Path) -> None:
    # seconds by size alone: what was measured would lead the search another way each time
    entries = tuple(msgspec.structs.replace(entry, seconds=1e-9 * entry.size) for entry in table.entries)
    table = msgspec.structs.replace(table, entries=entries)
    free = search(PLAN, trained / "prepared", trained / "supernet", tmp_path / "free", table=table)
    middle = float(np.median([one.value("latency_ms") for one in free]))
    rules = Rules(objectives=("loss", "latency_ms"), limits=(Limit("latency_ms", middle),), population=6, children=4)
    plan = msgspec.structs.replace(PLAN, rules=rules, evaluations=12)
    found = search(plan, trained / "prepared", trained / "supernet", tmp_path / "bound", table=table)
    assert all(one.value("latency_ms") <= middle for one in found)
    best = front(rules, found)
    assert not dominated(np.array([[one.loss, one.value("latency_ms")] for one in best])).any()
