"""What decides whether arithmetic can be repeated bit for bit: processor kernels, libraries, code."""

import hashlib
import platform
from importlib import metadata, resources

import numpy as np
import scipy
import scipy.linalg  # brings its own BLAS, which has to be there to be named and to be kept on one thread
from threadpoolctl import threadpool_info, threadpool_limits

import controller
import controller.core


def fingerprint() -> dict[str, str]:
    """The facts under which the same inputs give the same bits. `code`: digest of the sources that decide."""
    blas = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    return {
        "machine": platform.machine(),
        "simd": " ".join(simd.get("found", [])),
        "blas": ", ".join(sorted({f"{b['internal_api']} {b['version']} {b.get('architecture')}" for b in blas})),
        "blas_threads": ", ".join(sorted({str(b["num_threads"]) for b in blas})),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "code": core_digest(),
    }


def core_digest() -> str:
    """SHA-256 over the sources of the core and of what it imports, by name."""
    hasher = hashlib.sha256()
    core = [item for item in resources.files(controller.core).iterdir() if item.name.endswith(".py")]
    beside = [resources.files(controller) / name for name in ("assignment.py", "unit_hash.py")]
    for item in sorted([*core, *beside], key=lambda item: item.name):
        hasher.update(item.name.encode() + b"\0" + item.read_bytes() + b"\0")
    return hasher.hexdigest()


def code_version() -> str:
    """The installed distribution's version; "unknown" when run from sources that are not installed."""
    try:
        return metadata.version("trimtab")
    except metadata.PackageNotFoundError:
        return "unknown"


def single_threaded() -> threadpool_limits:
    """Keep BLAS on one thread from here on: more threads add up in another order."""
    return threadpool_limits(1, user_api="blas")
