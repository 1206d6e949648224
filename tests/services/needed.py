"""What a test needs and this machine may not have: skipped, or failed with TRIMTAB_REQUIRE_SERVICES=1."""

import os

import pytest

NOT_AVAILABLE = "service not available: "


def need(missing: str | None) -> None:
    """Skip the test where something is missing."""
    if missing is None:
        return
    if os.environ.get("TRIMTAB_REQUIRE_SERVICES") == "1":
        pytest.fail(NOT_AVAILABLE + missing, pytrace=False)
    pytest.skip(NOT_AVAILABLE + missing)
