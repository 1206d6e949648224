from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from nas.baselines import Baseline
from nas.batches import Batch, inputs_of, loss_of
from nas.evaluate import metrics_of
from nas.genotype import Genotype, digest
from nas.recipe import Recipe, rate_at
from nas.rows import Parts
from nas.space import NASREC, SMALL, drawn
from nas.train import CHECKPOINT, CHECKPOINTS, MODEL, RECORD, AnotherRun, Check, Record, fit, on_test_rows, read_run
from nas.value import ValueModel
from tests.nas.files import parts

RECIPE = Recipe(batch_size=128, learning_rate=0.01, dropout=0.1)
PLAIN = msgspec.structs.replace(
    SMALL, dense=NASREC.dense, sparse=NASREC.sparse, mergers=NASREC.mergers, numeric=NASREC.numeric
)
GENOTYPE = drawn(PLAIN, np.random.default_rng(4))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return parts(tmp_path_factory.mktemp("data"))


def metrics(record: Record) -> list[tuple[int, float]]:
    return [(check.rows, check.valid.loss) for check in record.checks]


@pytest.mark.parametrize("architecture", [GENOTYPE, Baseline(name="dnn", width=16, embedding=4)])
def test_a_seed_gives_the_same_bits_and_another_one_does_not(data: Parts, architecture: Genotype | Baseline) -> None:
    first, again, other = (fit(architecture, RECIPE, data, seed=seed, rows=1000).record for seed in (1, 1, 2))
    assert metrics(first) == metrics(again) != metrics(other)


def test_training_learns_what_there_is(data: Parts) -> None:
    run = fit(GENOTYPE, msgspec.structs.replace(RECIPE, epochs=8, patience=8), data)
    record, q = on_test_rows(run, data, run.record.head_weights)
    rate = np.asarray(data.train.labels).mean(axis=0)
    y = np.asarray(data.test.labels)
    assert record.test is not None
    for j, head in enumerate(record.test.heads):
        alone = -(y[:, j] * np.log(rate[j]) + (1 - y[:, j]) * np.log(1 - rate[j])).mean()
        assert head.logloss < alone - 0.01
        assert head.auc is not None
        assert head.auc > 0.6
        assert head.kl is not None
    assert q.shape == (len(data.test), 2)


def test_a_training_of_epochs_ends_with_the_last_one(data: Parts) -> None:
    epoch = len(data.train) // 128 * 128
    assert len(data.train) > epoch, "what is left over is no batch"
    run = fit(GENOTYPE, msgspec.structs.replace(RECIPE, epochs=2, patience=9), data)
    assert ([check.rows for check in run.record.checks], run.record.stopped) == ([epoch, 2 * epoch], "budget")


def test_a_training_that_leaves_the_range_of_fp32_stops_and_has_a_record(data: Parts, tmp_path: Path) -> None:
    wild = msgspec.structs.replace(RECIPE, learning_rate=1e30)
    run = fit(GENOTYPE, wild, data, rows=1500, rungs=(512,), folder=tmp_path)
    assert (run.record.stopped, run.record.rows) == ("diverged", 512)
    assert run.record.best.valid.loss == pytest.approx(np.log(2))  # even odds
    assert read_run(tmp_path, inputs_of(data.train, data.encoding.table_rows)).record.stopped == "diverged"
    assert fit(GENOTYPE, wild, data, rows=1500, rungs=(512,), folder=tmp_path).record.rows == 512


def test_a_training_that_leaves_the_range_of_fp32_keeps_the_best_weights_it_had(
    data: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.train.rate_at", lambda recipe, row, rows: 0.5 if row < 512 else 1e30)
    for folder in (tmp_path, tmp_path):  # the second is found as it was left
        run = fit(GENOTYPE, RECIPE, data, rows=1500, rungs=(512, 1024), folder=folder)
        assert [check.rows for check in run.record.checks] == [512, 1024]
        assert run.record.checks[0].valid.loss > run.record.checks[1].valid.loss == pytest.approx(np.log(2))
        assert (run.record.stopped, run.record.best) == ("diverged", run.record.checks[0])
        assert all(bool(torch.isfinite(weight).all()) for weight in run.model.parameters())


def test_a_training_without_patience_left_is_found_again_as_it_was(data: Parts, tmp_path: Path) -> None:
    wild = msgspec.structs.replace(RECIPE, epochs=20, patience=1, learning_rate=0.3)
    first, again = (fit(GENOTYPE, wild, data, folder=tmp_path).record for _ in range(2))
    assert (first.stopped, again.stopped) == ("patience", "patience")
    assert first.rows == again.rows < first.budget


def test_rungs_are_reported_and_a_report_may_prune(data: Parts) -> None:
    seen: list[Check] = []

    def report(check: Check) -> bool:
        seen.append(check)
        return len(seen) == 2

    record = fit(GENOTYPE, RECIPE, data, rows=1500, rungs=(256, 512, 1024), report=report).record
    assert [check.rows for check in seen] == [256, 512]
    assert (record.stopped, record.rows, record.budget) == ("pruned", 512, 1500)


def test_a_pruned_run_goes_on_to_the_same_bits(data: Parts, tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(RECIPE, epochs=2)
    whole = fit(GENOTYPE, recipe, data, rungs=(512,)).record
    fit(GENOTYPE, recipe, data, rungs=(512,), folder=tmp_path, report=lambda check: True)
    rest = fit(GENOTYPE, recipe, data, rungs=(512,), folder=tmp_path)
    assert metrics(rest.record) == metrics(whole)
    assert rest.record.stopped == "budget"
    stored = read_run(tmp_path, inputs_of(data.train, data.encoding.table_rows))
    assert msgspec.structs.asdict(stored.record) == msgspec.structs.asdict(rest.record)
    given = Batch(data.valid.take(slice(0, 9))).features
    assert torch.equal(stored.model(*given), rest.model.eval()(*given))


@pytest.mark.parametrize("killed_after", [700, 2500])  # in the first epoch, before any check, and in the second
def test_a_run_that_is_killed_within_an_epoch_goes_on_to_the_same_bits(
    killed_after: int, data: Parts, tmp_path: Path
) -> None:
    recipe = msgspec.structs.replace(RECIPE, epochs=2)
    whole = fit(GENOTYPE, recipe, data)
    seen: list[int] = []

    def killed(rows: int, budget: int) -> None:
        if rows > killed_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(GENOTYPE, recipe, data, folder=tmp_path, say=killed)
    rest = fit(GENOTYPE, recipe, data, folder=tmp_path, say=lambda rows, budget: seen.append(rows))
    assert killed_after - whole.record.budget / CHECKPOINTS - 2 * 128 < seen[0] <= killed_after + 128
    assert metrics(rest.record) == metrics(whole.record)
    given = Batch(data.valid.take(slice(0, 9))).features
    assert torch.equal(whole.model.eval()(*given), rest.model.eval()(*given))


def test_where_there_is_a_record_the_run_is_whole(data: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = inputs_of(data.train, data.encoding.table_rows)
    fit(GENOTYPE, RECIPE, data, rows=1000, rungs=(512,), folder=tmp_path, report=lambda check: True)
    save, write = torch.save, Path.write_bytes

    def half_a_model(state: object, path: Path) -> None:
        save(state, path)
        if "model" in path.name:
            write(path, path.read_bytes()[:100])
            raise KeyboardInterrupt

    def half_a_record(self: Path, held: bytes) -> int:
        write(self, held[:100])
        raise KeyboardInterrupt

    for where, what, killed in ((torch, "save", half_a_model), (Path, "write_bytes", half_a_record)):
        with monkeypatch.context() as patched:
            patched.setattr(where, what, killed)
            with pytest.raises(KeyboardInterrupt):
                fit(GENOTYPE, RECIPE, data, rows=1000, rungs=(512,), folder=tmp_path)
        assert not (tmp_path / RECORD).exists()
    whole = fit(GENOTYPE, RECIPE, data, rows=1000, rungs=(512,), folder=tmp_path).record
    assert read_run(tmp_path, inputs).record == whole


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_a_normalised_network_of_before_is_refused_where_it_would_compute_something_else(
    norm: str, data: Parts, tmp_path: Path
) -> None:
    fit(msgspec.structs.replace(GENOTYPE, norm=norm), RECIPE, data, rows=256, folder=tmp_path)
    record = msgspec.json.decode((tmp_path / RECORD).read_bytes())
    (tmp_path / RECORD).write_bytes(msgspec.json.encode(record | {"schema": 1}))
    inputs = inputs_of(data.train, data.encoding.table_rows)
    if norm == "none":
        assert read_run(tmp_path, inputs).record.rows == 256
    else:
        with pytest.raises(AnotherRun, match=r"normalised network of schema 1.*train it again"):
            read_run(tmp_path, inputs)


@pytest.mark.parametrize("kept", [0, 2, 900])
def test_what_is_damaged_is_named(data: Parts, tmp_path: Path, kept: int) -> None:
    inputs = inputs_of(data.train, data.encoding.table_rows)
    fit(GENOTYPE, RECIPE, data, rows=256, folder=tmp_path)
    for name, wanted in ((MODEL, "not the weights that record.json"), (CHECKPOINT, "damaged; remove it to train")):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:kept])
        with pytest.raises(AnotherRun, match=f"{name}: {wanted}"):
            read_run(tmp_path, inputs) if name == MODEL else fit(GENOTYPE, RECIPE, data, rows=256, folder=tmp_path)
        (tmp_path / name).write_bytes(whole)
    (tmp_path / RECORD).write_bytes((tmp_path / RECORD).read_bytes()[:kept])
    with pytest.raises(AnotherRun, match=r"record\.json: no record of a run"):
        read_run(tmp_path, inputs)


def test_a_checkpoint_of_another_run_is_refused(data: Parts, tmp_path: Path) -> None:
    fit(GENOTYPE, RECIPE, data, rows=256, folder=tmp_path)
    rate = msgspec.structs.replace(RECIPE, learning_rate=0.5)
    others = msgspec.structs.replace(data, digest="x")
    for architecture, recipe, given, seed, named in (
        (GENOTYPE, RECIPE, data, 5, "the seed was 0, is 5"),
        (GENOTYPE, rate, data, 0, "recipe.learning_rate was 0.01, is 0.5"),
        (GENOTYPE, RECIPE, others, 0, "the data are others"),
        (Baseline(name="dnn"), RECIPE, data, 0, f'the network was "{digest(GENOTYPE)}", is "{{\\"type\\":'),
    ):
        with pytest.raises(AnotherRun) as refused:
            fit(architecture, recipe, given, rows=256, folder=tmp_path, seed=seed)
        assert f"{CHECKPOINT}: of another training: {named}" in str(refused.value)
    held = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    del held["made"]  # as it was written before
    torch.save(held, tmp_path / CHECKPOINT)
    assert fit(GENOTYPE, RECIPE, data, rows=256, folder=tmp_path).record.rows == 256
    with pytest.raises(AnotherRun, match="another training, or of an earlier version; put the design back, remove"):
        fit(GENOTYPE, RECIPE, data, rows=256, folder=tmp_path, seed=5)


def test_the_best_weights_are_kept_and_patience_ends_a_run(data: Parts) -> None:
    harsh = Recipe(batch_size=64, learning_rate=0.05, schedule="constant", epochs=30, patience=2)
    run = fit(GENOTYPE, harsh, data)
    assert run.record.stopped == "patience"
    losses = [check.valid.loss for check in run.record.checks]
    assert run.record.best.valid.loss == min(losses) < losses[-1]
    again, _ = on_test_rows(run, msgspec.structs.replace(data, test=data.valid), run.record.head_weights)
    assert again.test is not None
    assert again.test.loss == pytest.approx(min(losses))


def test_an_unobserved_label_adds_nothing_and_weights_count(data: Parts) -> None:
    batch = Batch(data.train.take(slice(0, 50)))
    logits = torch.zeros(50, 2)
    batch.labels[:, 1] = float("nan")
    only_first = loss_of(logits, batch, torch.tensor([1.0, 1.0]))
    assert only_first == pytest.approx(np.log(2) / 2)
    assert loss_of(logits, batch, torch.tensor([2.0, 7.0])) == pytest.approx(np.log(2))


def test_value_is_measured_per_request(data: Parts) -> None:
    run = fit(GENOTYPE, RECIPE, data, rows=1000, value=ValueModel("linear", (1.0, 3.0)), head_weights=(0.5, 1.5))
    assert run.record.head_weights == (0.5, 1.5)
    assert run.record.best.valid.value_captured is not None
    assert run.record.best.valid.value_gauc is not None


def test_a_value_needs_only_the_heads_that_it_weighs(data: Parts) -> None:
    rows, schema = data.valid.take(slice(0, 400)), data.encoding.schema
    q = np.random.default_rng(0).random((400, 2))
    value = ValueModel("linear", (1.0, 0.0))
    known = metrics_of(q, rows, schema, (1.0, 1.0), value)
    rows.labels[10:, 1] = rows.truth[10:, 1] = np.nan
    found = metrics_of(q, rows, schema, (1.0, 1.0), value)
    assert known.value_captured is not None
    assert (found.value_captured, found.value_gauc) == (known.value_captured, known.value_gauc)
    assert metrics_of(q, rows, schema, (1.0, 1.0), ValueModel("linear", (1.0, 1.0))).value_captured is None


def test_the_rate_rises_then_falls() -> None:
    recipe = Recipe(learning_rate=0.1)
    rates = [rate_at(recipe, row, 1000) for row in range(0, 1001, 10)]
    assert rates[0] < 1e-3
    assert max(rates) == pytest.approx(0.1, rel=0.02)
    assert rates[-1] < 0.002
    assert rate_at(Recipe(learning_rate=0.1, schedule="constant"), 3, 1000) == 0.1
