import hashlib

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from controller.core import codec
from tests.core.loop import same


class Held(msgspec.Struct, frozen=True, eq=False):
    ints: NDArray[np.int64]
    floats: NDArray[np.float64]
    by_key: dict[int, NDArray[np.int16]]
    name: str = ""


def held() -> Held:
    return Held(np.arange(6).reshape(2, 3), np.array([0.1, -0.0, np.nan, np.inf]), {3: np.array([1], np.int16)}, "x")


def test_a_record_comes_back_to_the_bit_and_read_only() -> None:
    back = codec.decode(codec.encode(held()), Held)
    assert same(back, held())
    with pytest.raises(ValueError, match="read-only"):
        back.ints[0, 0] = 5


@given(arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(min_dims=0, min_side=0, max_dims=4, max_side=4)))
def test_any_array_comes_back(array: NDArray[np.generic]) -> None:
    class One(msgspec.Struct, frozen=True, eq=False):
        array: NDArray[np.float64]

    if array.dtype.hasobject or array.dtype.kind in "mM":
        return
    assert same(codec.decode(codec.encode(One(array)), One).array, array)  # type: ignore[arg-type]  # of any dtype


def test_how_an_array_lies_in_memory_does_not_matter() -> None:
    array = np.arange(12).reshape(3, 4)
    assert codec.encode(Held(array.T, array[0], {})) == codec.encode(Held(array.T.copy(), array[0].copy(), {}))


def test_the_same_record_is_the_same_bytes_for_ever() -> None:
    """Checkpoints and ledgers that were written last year must be read: this digest may not change unnoticed."""
    data = codec.encode(held())
    assert data == codec.encode(held())
    assert hashlib.sha256(data).hexdigest()[:16] == "939a3e8188d23775"


@given(st.binary(max_size=60))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        codec.decode(data, Held)


@pytest.mark.parametrize(
    "bent",
    [
        ["<i8", [9, 9], b"\0" * 8],  # too few bytes
        ["<i8", [1], b"\0" * 7],
        ["O", [1], b"\0" * 8],
        ["nonsense", [1], b""],
        ["<i8", [1]],
        7,
        "text",
    ],
)
def test_bytes_that_are_no_array_are_refused(bent: object) -> None:
    data = msgspec.msgpack.encode({"ints": bent, "floats": bent, "by_key": {}})
    with pytest.raises(msgspec.ValidationError):
        codec.decode(data, Held)


def test_what_cannot_be_kept_is_named() -> None:
    with pytest.raises(NotImplementedError, match="no encoding for complex"):
        codec.encode({"a": 1j})
