"""`python -m benchmarks NAME [--json]` measures one claim; `python -m benchmarks` lists them.

The exit status is 1 where a claim with a number does not hold, or nothing could be measured.
"""

import ast
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
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
    try:
        claim = import_module(f"benchmarks.{argv[0]}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("benchmarks"):
            raise
        extra = "nas" if argv[0].startswith("nas") else "peers"
        print(f"{argv[0]}: there is no module {error.name}; pip install '.[{extra}]' brings it along", file=sys.stderr)
        return 2
    status: int | None = claim.main(argv[1:])
    return status or 0


def listing() -> str:
    """One line a claim: its name and what its module says first."""
    return "\n".join(f"{name:<16} {_summary(name)}" for name in names())


def _summary(name: str) -> str:
    """Read from the file: to import it may need an extra that is not installed."""
    source = Path(benchmarks.__path__[0], f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
