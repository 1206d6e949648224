"""`python -m benchmarks NAME [--json]` measures one claim; `python -m benchmarks` lists them.

The exit status is 1 where a claim with a number does not hold, or nothing could be measured.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules

import benchmarks


def names() -> list[str]:
    """The claims that can be measured: every public module of this package."""
    return sorted(module.name for module in iter_modules(benchmarks.__path__) if not module.name.startswith("_"))


def main(argv: Sequence[str]) -> int:
    """Run the claim that the first argument names, with the other arguments; the exit status."""
    if not argv:
        print(listing())
        return 0
    if argv[0] not in names():
        print(f"no benchmark {argv[0]!r}; there are: {', '.join(names())}", file=sys.stderr)
        return 2
    status: int | None = import_module(f"benchmarks.{argv[0]}").main(argv[1:])
    return status or 0


def listing() -> str:
    """One line a claim: its name and what its module says first."""
    return "\n".join(f"{name:<16} {_summary(name)}" for name in names())


def _summary(name: str) -> str:
    return (import_module(f"benchmarks.{name}").__doc__ or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
