"""What a training file holds: fields a model may see, labels it learns, and columns that say when and for whom."""

from typing import Literal

import msgspec

from nas.ranges import at_least, expect

Kind = Literal["dense", "categorical", "multi"]
Transform = Literal["standard", "log", "quantile"]
PREDICTION = "pred_"  # the serving ranker's predictions in a ranking log: never an input


class DataError(Exception):
    """The operator's data or design file is at fault; the message names the place, what was found, what would do."""


class Field(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One feature.

    `dense`: a number; missing or NaN becomes the mean of the training rows. `categorical`: a value among many; one that
    fewer than `min_count` training rows held, or none, becomes the field's `unknown`, as a missing one does.
    `multi`: several categorical values, a list or a text with `separator`; the mean of their embeddings stands for all.
    """

    name: str
    kind: Kind
    transform: Transform = "standard"
    min_count: int = 2
    buckets: int = 0  # > 0: values are hashed into so many rows instead of looked up in a vocabulary
    separator: str = "|"
    longest: int = 8  # values of a multi-valued field that are kept

    def __post_init__(self) -> None:
        at_least(f"field {self.name}", self, min_count=1, buckets=0, longest=1)
        expect(f"field {self.name}.separator", "nothing", self.separator != "", "a text")


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engagement that is predicted: a column of 0 and 1, or of texts of which `positive` counts as 1."""

    name: str
    label: str
    positive: str | None = None
    truth: str | None = None  # a column of true probabilities, which only a simulator knows


class Schema(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The columns of a data set. `drop` names columns that must never be an input."""

    fields: tuple[Field, ...]
    heads: tuple[Head, ...]
    time: str | None = None
    request: str | None = None
    weight: str | None = None
    drop: tuple[str, ...] = ()
    missing: tuple[str, ...] = ("", "NULL", "null", "NaN", "nan")

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        if not names:
            raise ValueError("fields: there must be at least one")
        if not self.heads:
            raise ValueError("heads: there must be at least one")
        predicted = [head.name for head in self.heads]
        for what, found in (("fields", names), ("heads", predicted)):
            for repeated in {name for name in found if found.count(name) > 1}:
                raise ValueError(f"{what}: {repeated!r} stands twice")
        labels = {head.label for head in self.heads} | {head.truth for head in self.heads if head.truth}
        for name in names:
            if name in labels or name in self.drop or name.startswith(PREDICTION):
                why = (
                    "a label"
                    if name in labels
                    else "dropped"
                    if name in self.drop
                    else "the serving ranker's prediction"
                )
                raise ValueError(f"fields: {name!r} is {why}: it must not be an input")

    def of(self, kind: Kind) -> tuple[Field, ...]:
        """The fields of one kind, in order."""
        return tuple(field for field in self.fields if field.kind == kind)

    def columns(self, labels: bool = True) -> tuple[str, ...]:
        """The columns that a file must have; without `labels`, those that scoring needs."""
        wanted = [field.name for field in self.fields]
        if labels:
            wanted += [head.label for head in self.heads]
            wanted += [head.truth for head in self.heads if head.truth]
            wanted += [name for name in (self.time, self.request, self.weight) if name]
        return tuple(dict.fromkeys(wanted))
