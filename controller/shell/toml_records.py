"""From a TOML tree to frozen records, collecting every mistake by its key path, not only the first."""

import datetime
import difflib
import json
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec

from controller.core.durations import DAY_MS, UNIT_MS

MAX_DURATION_MS: Final = 366 * DAY_MS  # longer than any study; keeps sums of durations far inside int64
_DURATION: Final = re.compile(r"(?:[0-9]{1,9}(?:ms|[smhd]))+")
_DURATION_PART: Final = re.compile(r"([0-9]+)(ms|[smhd])")
_SECRET: Final = re.compile(r"password|passwd|secret|token|credential", re.IGNORECASE)
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_ACCEPTED: Final = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}
_PLAIN: Final = re.compile(r"[^\x00-\x1f\x7f\"\\]{1,128}")
_ACCEPTED_PLAIN: Final = "1 to 128 characters, no quote, backslash or control character"
_SHOWN = 60  # characters of a found value that a message repeats


class Duration(int):
    """Milliseconds, written in the file with units: "90s", "1h30m", "250ms"."""


class Mistake(msgspec.Struct, frozen=True):
    """One thing that is wrong in a file: where, what was found, what would be accepted."""

    path: str
    found: str
    accepted: str

    def __str__(self) -> str:
        return f"{self.path}: found {self.found}; accepted: {self.accepted}"


def parse_duration(text: str) -> int:
    """Milliseconds of "90s", "1h30m", "2d"; raises ValueError on anything else and above 366 days."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"not a duration: {text!r}")
    total = sum(int(number) * UNIT_MS[unit] for number, unit in _DURATION_PART.findall(text))
    if total > MAX_DURATION_MS:
        raise ValueError(f"longer than 366d: {text!r}")
    return total


def read_fields(
    kind: type[msgspec.Struct], tree: dict[str, object], secrets: Mapping[str, str]
) -> tuple[dict[str, Any], list[Mistake]]:
    """Read the fields of record `kind` from `tree`, defaults filled in, and note every mistake.

    A field with a mistake anywhere inside is absent from the dict. Where a type does not say what would be accepted, a
    record does by its class variable `ACCEPTED`, a field by the description of its `msgspec.Meta`. `secrets` maps the
    key path of a table to the environment variable of its secret, for the message when someone writes a password into
    the file.
    """
    reader = _Reader(secrets)
    return reader.fields(kind, tree, "") or {}, reader.mistakes


def join(path: str, key: str) -> str:
    """The key path of `key` in the table at `path`, quoted as TOML quotes it."""
    written = key if _BARE_KEY.fullmatch(key) else json.dumps(key)
    return f"{path}.{written}" if path else written


def show(value: object) -> str:
    """A found value as the file writes it, shortened."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            text = json.dumps(value, ensure_ascii=False)
            return text if len(text) <= _SHOWN else text[:_SHOWN] + '..."'
        case dict():
            return "a table"
        case list() | tuple():
            return f"an array of {len(value)}"
        case datetime.date() | datetime.time():
            return f"the date or time {value}"
        case _:
            return str(value)[:_SHOWN] if not isinstance(value, int) else _show_int(value)


def names(known: Iterable[str], asked: str = "") -> str:
    """`one of a, b, c`, with the nearest one to `asked` named."""
    all_known = list(known)
    near = difflib.get_close_matches(asked, all_known, n=1) if asked else []
    listed = ", ".join(all_known) if all_known else "nothing (none is defined)"
    return f"one of {listed}" + (f" (did you mean {near[0]}?)" if near else "")


def within(path: str, value: object, sound: bool, accepted: str, unit: str = "") -> Iterator[Mistake]:
    """A mistake at `path` unless the value is `sound`."""
    if not sound:
        yield Mistake(path, f"{show(value)} {unit}".strip(), accepted)


def plain(path: str, text: str) -> Iterator[Mistake]:
    """A mistake at `path` unless `text` can stand in tables, labels and logs."""
    yield from within(path, text, bool(_PLAIN.fullmatch(text)), _ACCEPTED_PLAIN)


def plain_name(path: str, name: str) -> Iterator[Mistake]:
    """As `plain`, of what must be the same elsewhere: a space at an end, which nobody sees, makes it another name."""
    yield from within(
        path, name, bool(_PLAIN.fullmatch(name)) and name == name.strip(), f"{_ACCEPTED_PLAIN}, no space at its ends"
    )


def _show_int(value: int) -> str:
    return str(value) if value.bit_length() <= 64 else f"a number of {value.bit_length()} bits"


class _Wrong:
    """What a reader returns in place of a value it could not read; the mistake is already noted."""


_WRONG: Final = _Wrong()


class _Reader:
    """One pass over one tree."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self.mistakes: list[Mistake] = []
        self.secrets = secrets

    def fields(self, kind: type[msgspec.Struct], tree: object, path: str) -> dict[str, Any] | None:
        if not isinstance(tree, dict):
            self._note(path, show(tree), _accepted(kind, tree))
            return None
        known = msgspec.structs.fields(kind)
        self._unknown(tree, [field.name for field in known], path)
        read: dict[str, Any] = {}
        for field in known:
            if field.name in tree:
                value = self.value(field.type, tree[field.name], join(path, field.name))
            else:
                value = self._default(field, join(path, field.name))
            if not isinstance(value, _Wrong):
                read[field.name] = value
        return read

    def value(self, kind: Any, value: object, path: str) -> Any:
        origin = get_origin(kind)
        if origin in (Union, types.UnionType):
            return self.value(next(part for part in get_args(kind) if part is not type(None)), value, path)
        if origin is tuple:
            return self._array(get_args(kind)[0], value, path)
        if origin is dict:
            return self._table(get_args(kind)[1], value, path)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            before = len(self.mistakes)
            read = self.fields(kind, value, path)
            return kind(**read) if read is not None and len(self.mistakes) == before else _WRONG
        return self._leaf(kind, value, path)

    def _array(self, kind: Any, value: object, path: str) -> Any:
        if not isinstance(value, list):
            tables = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
            self._note(path, show(value), f"an array of tables, each written [[{path}]]" if tables else "an array")
            return _WRONG
        read = [self.value(kind, item, f"{path}[{index}]") for index, item in enumerate(value)]
        return _WRONG if any(isinstance(item, _Wrong) for item in read) else tuple(read)

    def _table(self, kind: Any, value: object, path: str) -> Any:
        if not isinstance(value, dict):
            self._note(path, show(value), "a table")
            return _WRONG
        read = {key: self.value(kind, item, join(path, key)) for key, item in value.items()}
        return _WRONG if any(isinstance(item, _Wrong) for item in read.values()) else read

    def _leaf(self, kind: Any, value: object, path: str) -> Any:
        try:
            return msgspec.convert(value, kind, dec_hook=_custom)
        except (msgspec.ValidationError, OverflowError):
            self._note(path, show(value), _accepted(kind, value))
            return _WRONG

    def _default(self, field: msgspec.structs.FieldInfo, path: str) -> Any:
        if field.required:
            self._note(path, "nothing (the key is missing)", _accepted(field.type, None))
            return _WRONG
        return field.default if field.default is not msgspec.NODEFAULT else field.default_factory()

    def _unknown(self, tree: dict[str, object], known: list[str], path: str) -> None:
        for key in tree.keys() - set(known):
            at = join(path, key)
            variable = self.secrets.get(path) if _SECRET.search(key) else None
            if variable:
                self._note(at, "a secret", f"no secret in the file: set the environment variable {variable}")
            else:
                self._note(at, "an unknown key", names(known, key))

    def _note(self, path: str, found: str, accepted: str) -> None:
        self.mistakes.append(Mistake(path or "the file", found, accepted))


def _custom(kind: type, value: object) -> object:
    if kind is Duration and isinstance(value, str):
        return Duration(parse_duration(value))
    raise ValueError(f"expected {kind.__name__}")


def _accepted(kind: Any, value: object) -> str:
    if kind is Duration:
        return 'a duration with its unit (ms, s, m, h, d), such as "90s", "1h" or "1h30m", at most "366d"'
    if get_origin(kind) is Annotated:  # says it itself
        return str(next(note.description for note in get_args(kind)[1:] if isinstance(note, msgspec.Meta)))
    if get_origin(kind) is Literal:
        return names((json.dumps(choice) for choice in get_args(kind)), show(value) if isinstance(value, str) else "")
    if get_origin(kind) in (Union, types.UnionType):
        return _accepted(next(part for part in get_args(kind) if part is not type(None)), value)
    if get_origin(kind) is tuple:
        return "an array"
    return str(getattr(kind, "ACCEPTED", _ACCEPTED.get(kind, "a table")))
