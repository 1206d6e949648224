"""Where a result came from: what another run needs to give the same."""

import platform
import sys
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
