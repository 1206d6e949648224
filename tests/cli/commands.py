"""Commands of `trimtab`, in this process or in one of their own."""

import json
import subprocess
import sys
from typing import Any

import pytest

from controller import cli


class Done:
    """A command that was run in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *argv: str) -> None:
        try:
            self.status: object = cli.main(argv)
        except SystemExit as ended:  # argparse
            self.status = ended.code
        captured = capsys.readouterr()
        self.out, self.err = captured.out, captured.err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def process(*argv: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "controller", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
