"""Where a result came from: what another run needs to give the same."""

import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import msgspec
import torch

_PACKAGES = ("trimtab", "torch", "numpy", "pyarrow", "onnx", "onnxruntime")


class Environment(msgspec.Struct, frozen=True):
    """Versions, the processor, and how many threads computed."""

    python: str
    packages: dict[str, str]
    machine: str
    device: str
    threads: int


@cache
def device() -> torch.device:
    """A GPU when there is one.

    There, matrix products take TF32 operands and add up in fp32. On a CPU everything is fp32: a seed gives the same
    bits.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda")


def environment() -> Environment:
    """Of this process."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    found = {name: _version(name) for name in _PACKAGES}
    return Environment(sys.version.split()[0], found, platform.machine(), name, torch.get_num_threads())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
