"""Numbers, files and worlds on the command line; what cannot be is named with what would be accepted."""

import argparse
from pathlib import Path

from simulators.catalog import product_named

LAST_MS = 2_145_916_800_000  # the beginning of 2038


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def hours(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def random_seed(text: str) -> int:
    """A whole number from 0 to 2^63 - 1."""
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def moment(text: str) -> int:
    """Milliseconds since 1970, before 2038: the ids of events have room for times until 2039."""
    if not text.isdecimal() or int(text) >= LAST_MS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of ms since 1970, from 0 to before {LAST_MS}")
    return int(text)


def new_file(text: str) -> Path:
    """The path of a file to be written, in a folder that there is."""
    folder = Path(text).absolute().parent
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: there is no folder {folder}")
    return Path(text)


def world_name(text: str) -> str:
    """The name of a world or feed."""
    try:
        product_named(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
