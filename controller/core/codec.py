"""MessagePack for state records that hold arrays; the same record always gives the same bytes."""

from typing import Any, TypeVar

import msgspec
import numpy as np

T = TypeVar("T")


def encode(record: object) -> bytes:
    """Pack a record; arrays become (dtype with its byte order, shape, bytes in C order)."""
    return msgspec.msgpack.encode(record, enc_hook=_pack)


def decode(data: bytes, kind: type[T]) -> T:
    """Unpack what `encode` wrote; arrays come back read-only. Raises `msgspec.ValidationError` on anything else."""
    return msgspec.msgpack.decode(data, type=kind, dec_hook=_unpack)


def _pack(value: object) -> object:
    if isinstance(value, np.ndarray):
        array = np.asarray(value, order="C")
        return (array.dtype.str, array.shape, array.tobytes())
    raise NotImplementedError(f"no encoding for {type(value).__name__}")


def _unpack(kind: Any, value: Any) -> object:
    if getattr(kind, "__origin__", kind) is np.ndarray:
        dtype, shape, data = value
        return np.frombuffer(data, dtype=dtype).reshape(shape)
    raise NotImplementedError(f"no decoding for {kind}")
