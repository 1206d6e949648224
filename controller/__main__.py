"""`trimtab`, or `python -m controller`: an interrupt is answered from here, while the commands' own imports run too."""

import sys

INTERRUPTED = 130


def main() -> int:
    """Run one command; returns its exit status, or 130 where it was interrupted."""
    try:
        from controller.cli import main as command

        return command()
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
