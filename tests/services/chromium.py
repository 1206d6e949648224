"""A real Chromium: Debian's, or the one that TRIMTAB_TEST_CHROMIUM names, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, expect, sync_playwright

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
)


def path() -> str | None:
    """Where the browser is; None when there is none."""
    return os.environ.get("TRIMTAB_TEST_CHROMIUM") or shutil.which("chromium")


def missing() -> str | None:
    """Why there is none, or None."""
    return None if path() else "Chromium is not installed (apt-get install chromium)"


@contextmanager
def launched() -> Iterator[Browser]:
    """A browser that is closed at the end. What a test expects of a page may take as long as its clicks may."""
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path(), args=list(ARGUMENTS))
        yield browser
        browser.close()
