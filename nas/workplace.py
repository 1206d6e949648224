"""One design in one folder: its data, supernet, search and runs, each made once and found again."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from nas.architecture import Architecture
from nas.atomic import replaced
from nas.baselines import NAMES, Baseline
from nas.batches import base_rates, features_of, inputs_of
from nas.compare import Floats, Gap, paired_gap
from nas.design_file import Design, head_weights_of
from nas.differences import differences
from nas.evolution import Evaluated, Rules, front, within
from nas.export import input_names, onnx_bytes
from nas.finalists import ENLARGED, enlarged, next_finalist
from nas.genotype import Genotype, digest
from nas.latency import LatencyTable, Timing, interleaved, measured_table, read_table, session
from nas.locks import alone
from nas.metrics import row_logloss
from nas.network import Network
from nas.prepare import Say, prepare
from nas.rows import Parts, Rows
from nas.schema import DataError
from nas.score import write_encoding
from nas.search import JOURNAL, AnotherSearch, Header, search, sizes_of, whole_lines
from nas.space import misfits
from nas.supernet_train import (
    KEYS,
    OTHER_DATA,
    AnotherSupernet,
    SupernetRecord,
    read_record,
    read_supernet,
    train_supernet,
)
from nas.supernet_train import Say as SupernetSay
from nas.train import TRACED_ROWS, Report, Run, fit, traced_features
from nas.train import Say as TrainSay
from nas.value import ValueModel

FRONT, TABLE = "front.json", "latency.json"
ROUNDS = 200  # of a measurement


class Workplace(msgspec.Struct, frozen=True, eq=False):
    """A design, its folder, its data, and what the value model makes of the heads."""

    design: Design
    folder: Path
    parts: Parts
    value: ValueModel | None
    head_weights: tuple[float, ...]
    tell: Say  # hears what a person must know

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads."""
        return tuple(head.name for head in self.design.schema.heads)


def opened(
    design: Design, folder: Path, say: Say = lambda _: None, tell: Say = lambda _: None, using: ExitStack | None = None
) -> Workplace:
    """Prepare the data, or find it prepared; `say` hears how far it is, `tell` what a person must know.

    The rows stay as they are until `using` is closed.

    Raises:
        DataError: what is wrong with the data or with the value model.
    """
    value = design.value()
    parts = prepare(design.sources, design.schema, design.tables.split, folder / "data", say, tell, using)
    rates = tuple(base_rates(parts.train).tolist())
    return Workplace(design, folder, parts, value, head_weights_of(design.tables, value, rates), tell)


def supernet(place: Workplace, say: SupernetSay = lambda done, rows, loss: None) -> SupernetRecord:
    """Train the design's supernet, or find it trained."""
    plan = place.design.supernet_plan(len(place.parts.train), place.head_weights)
    with _alone(place, place.folder / "supernet") as folder:
        return train_supernet(plan, place.parts, folder, say)[1]


@contextmanager
def _alone(place: Workplace, folder: Path) -> Iterator[Path]:
    """A folder in which no other process writes meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder, f"works in {folder}", place.tell):
        yield folder


def searched(place: Workplace, workers: int, say: Callable[[list[Evaluated]], None]) -> tuple[Rules, list[Evaluated]]:
    """Search, and write the front.

    Raises:
        AnotherSupernet: there is none, or it is not of this design.
    """
    record = read_supernet(place.folder / "supernet")[1]
    _refuse_another(place, record)
    plan = place.design.search_plan(len(place.parts.train))
    with _alone(place, place.folder / "search") as folder:
        found = search(
            plan, place.folder / "data", place.folder / "supernet", folder, table=_table(place, plan.rules),
            workers=workers, say=say,
        )  # fmt: skip
        best = front(plan.rules, found)
        with replaced(place.folder / FRONT) as part:
            part.write_bytes(msgspec.json.format(msgspec.json.encode(best), indent=2))
    return plan.rules, found


def _refuse_another(place: Workplace, record: SupernetRecord) -> None:
    """A supernet of another design would rank networks by what this one does not ask for."""
    live = bool(place.design.tables.value and place.design.tables.value.redis)  # a study's weights move by themselves
    weights = record.plan.head_weights if live else place.head_weights
    wanted = place.design.supernet_plan(len(place.parts.train), weights)
    if record.data_digest == place.parts.digest and record.plan == wanted:
        return
    other = OTHER_DATA if record.data_digest != place.parts.digest else differences(record.plan, wanted, KEYS)
    raise AnotherSupernet(
        f"{place.folder / 'supernet'}: was trained by another design than {place.design.path} is now: {other}; put the "
        "design back, or train another one (--out names another folder)"
    )


def journalled(place: Workplace) -> list[Evaluated]:
    """What the design's search has found so far.

    Raises:
        DataError: there is none.
        AnotherSearch: it was made in another space, on other data or through another supernet.
    """
    path = place.folder / "search" / JOURNAL
    lines = whole_lines(path)
    if not lines:
        raise DataError(f"{path}: there is no search; `trimtab nas search` makes one")
    found = [msgspec.json.decode(line, type=Evaluated) for line in lines[1:]]
    if other := _other_search(place, msgspec.json.decode(lines[0], type=Header), found):
        raise AnotherSearch(
            f"{path}: of another search than {place.design.path} asks for now: {other}; put the design back, or train "
            "a supernet and search in another folder (--out)"
        )
    return sorted(found, key=lambda one: one.index)


def _other_search(place: Workplace, header: Header, found: list[Evaluated]) -> str:
    """By what a search is not of the design's data and space and the supernet that is there; nothing where it is."""
    space = place.design.space
    if header.data != place.parts.digest:
        return OTHER_DATA
    try:
        record = read_record(place.folder / "supernet")
    except AnotherSupernet:  # removed since, or an earlier version's: then its networks alone tell of its space
        return next((f"network {one.index} is not in the space" for one in found if misfits(one.genotype, space)), "")
    if record.digest != header.supernet:
        return "it went through another supernet than there is"
    return differences(record.plan.space, space, {"": "space."})


def best_finalist(place: Workplace, count: int, say: Callable[[float, int, float], None]) -> Evaluated:
    """Train so many networks of the search alone, one after another, with the first seed; the one of least loss.

    They keep the limits that the design has now, whatever those of the search were.

    Of the best two a larger network is trained too, where it keeps the limits; the index of such a one is -1.
    `say` hears how many trainings are done, a begun one in part, of how many at most, and the least loss so far.

    Raises:
        DataError: there is no search, or none of its networks keeps the limits.
        AnotherSearch: it is not the design's.
    """
    rules, found = place.design.tables.search.rules(), journalled(place)
    candidates = within(rules, found)
    losses: dict[int, float] = {}

    def alone(one: Evaluated, before: int, trainings: int, least: float) -> float:
        run, _ = trained(
            place, one.genotype, 0, named(one), say=lambda row, rows: say(before + row / rows, trainings, least)
        )
        loss = run.record.best.valid.loss
        say(before + 1, trainings, min(least, loss))
        return loss

    while len(losses) < count and (one := next_finalist(candidates, losses)):
        losses[one.index] = alone(one, len(losses), count + ENLARGED, min(losses.values(), default=math.inf))
    if not losses:
        raise DataError(f"{place.folder / 'search'}: {beyond(place, rules, found)}")
    few = [one for one in candidates if one.index in losses]
    few.sort(key=lambda one: losses[one.index])
    best, least = few[0], losses[few[0].index]
    larger = dict.fromkeys(enlarged(one.genotype, place.design.space) for one in few[:ENLARGED])
    known = {one.genotype for one in few}
    added = within(rules, _sized(place, rules, [one for one in larger if one not in known]))
    for before, large in enumerate(added, len(losses)):
        loss = alone(large, before, len(losses) + len(added), least)
        if loss < least:
            best, least = msgspec.structs.replace(large, loss=loss), loss
    return best


def beyond(place: Workplace, rules: Rules, found: list[Evaluated]) -> str:
    """Why no network of a search is within its limits."""
    if not found:
        return "nothing is evaluated yet; `trimtab nas search` goes on with it"
    told = []
    for limit in rules.limits:
        least = min(one.value(limit.objective) for one in found)
        known = f"the least found is {least:.4g}" if least < math.inf else "the search has measured none"
        told.append(f"{limit.objective} at most {limit.at_most:g} ({known})")
    return (
        f"no network keeps all limits: {', '.join(told)}; loosen search.limits, and remove "
        f"{place.folder / 'search'} to search anew (the supernet stays)"
    )


def _sized(place: Workplace, rules: Rules, genotypes: list[Genotype]) -> list[Evaluated]:
    """Not evaluated, but their sizes known as a search knows them."""
    inputs, table = inputs_of(place.parts.train, place.parts.encoding.table_rows), _table(place, rules)
    judged = place.parts.valid.observed(place.design.tables.search.valid_rows)
    traced = traced_features(judged, table.batch if table else TRACED_ROWS)
    sizes = [sizes_of(one, inputs, traced, table) for one in genotypes]
    return [Evaluated(-1, one, float("nan"), size, 0, 0.0) for one, size in zip(genotypes, sizes, strict=True)]


def named(one: Evaluated) -> str:
    """Of a searched network's runs."""
    return f"net{one.index}" if one.index >= 0 else f"large-{digest(one.genotype)[:8]}"


def finalists_measured(place: Workplace, finalists: list[Evaluated], rounds: int = ROUNDS) -> dict[int, Timing]:
    """Milliseconds of a batch in onnxruntime with one thread, all finalists in turn."""
    inputs = inputs_of(place.parts.train, place.parts.encoding.table_rows)
    rows = place.parts.valid.take(slice(0, place.design.tables.search.batch))
    names, used = input_names(rows)
    given = tuple(f.cpu() for f, use in zip(features_of(rows.features), used, strict=True) if use)
    feed = {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)}
    sessions = {str(one.index): session(onnx_bytes(Network(one.genotype, inputs), rows)) for one in finalists}
    calls: dict[str, Callable[[], object]] = {name: partial(ran.run, None, feed) for name, ran in sessions.items()}
    return {int(name): timing for name, timing in interleaved(calls, rounds).items()}


def trained(
    place: Workplace, architecture: Architecture, seed: int, name: str, report: Report | None = None,
    say: TrainSay = lambda rows, budget: None,
) -> tuple[Run, Path]:  # fmt: skip
    """Train an architecture from scratch, or go on where it was killed; the run and its folder."""
    with _alone(place, place.folder / "runs" / f"{name}-seed{seed}") as folder:
        run = fit(
            architecture, place.design.tables.recipe, place.parts, seed=seed, head_weights=place.head_weights,
            value=place.value, folder=folder, report=report, say=say,
        )  # fmt: skip
        write_encoding(folder, place.parts.encoding)
        return run, folder


def architecture_named(text: str, option: str = "--model") -> Architecture:
    """A baseline's name, or a file that holds a genotype or a baseline; `option`: by which it was given.

    Raises:
        DataError: neither.
    """
    if text in NAMES:
        return Baseline(name=text)
    if not Path(text).exists():
        raise DataError(f"{option}: found {text!r}; expected a file with a genotype, or one of {', '.join(NAMES)}")
    raw = Path(text).read_bytes()
    try:
        msgspec.json.decode(raw)  # with a type, a file that is no JSON is told as JSON of another type
        found: Architecture = msgspec.json.decode(raw, type=Genotype | Baseline)
    except msgspec.MsgspecError as error:
        raise DataError(
            f"{text}: no genotype, as `trimtab nas export` and `space --json` write them, and no baseline: {error}"
        ) from error
    return found


def picked(place: Workplace, number: int) -> Genotype:
    """A genotype of the written front; 0 is the one of least loss.

    Raises:
        DataError: there is no front, or it is shorter.
        AnotherSearch: it is of another search than the design's.
    """
    path = place.folder / FRONT
    if not path.exists():
        raise DataError(f"{path}: there is no front; `trimtab nas search` makes one")
    best = msgspec.json.decode(path.read_bytes(), type=list[Evaluated])
    rules, found = place.design.tables.search.rules(), journalled(place)
    if not {(one.index, one.genotype) for one in best} <= {(one.index, one.genotype) for one in found}:
        raise AnotherSearch(
            f"{path}: is of another search than {place.folder / 'search'}; `trimtab nas search` ends that one and "
            "writes its front"
        )
    if not best:
        raise DataError(f"{path}: {beyond(place, rules, found)}")
    if not 0 <= number < len(best):
        raise DataError(f"--pick: found {number}; the front has 0 .. {len(best) - 1}")
    for limit in rules.limits:
        if not within(msgspec.structs.replace(rules, limits=(limit,)), [best[number]]):
            raise DataError(
                f"--pick: found {number}, whose {limit.objective} is {best[number].value(limit.objective):.6g}; "
                f"search.limits has at most {limit.at_most:g}"
            )
    return best[number].genotype


def gap(first: list[Floats], second: list[Floats], rows: Rows, head: int) -> Gap | None:
    """The paired gap in a head's logloss between two models' predictions, one (n, k) array a seed.

    None where fewer than two rows that count have the label: one difference does not say how much others vary.
    """
    y = np.asarray(rows.labels, np.float64)[:, head]
    seen = ~np.isnan(y)
    if (np.asarray(rows.weight)[seen] > 0).sum() < 2:
        return None
    losses = [np.stack([row_logloss(q[seen, head], y[seen]) for q in runs]) for runs in (first, second)]
    return paired_gap(losses[0], losses[1], np.asarray(rows.weight, np.float64)[seen])


def _table(place: Workplace, rules: Rules) -> LatencyTable | None:
    """The stored table, where the rules ask for latencies; measured once, when it is first wanted."""
    if "latency_ms" not in (*rules.objectives, *(limit.objective for limit in rules.limits)):
        return None
    path = place.folder / TABLE
    batch = place.design.tables.search.batch
    if path.exists() and read_table(path).batch == batch:
        return read_table(path)
    table = measured_table(batch)
    with replaced(path) as part:
        part.write_bytes(msgspec.json.encode(table))
    return table
