from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """One thread, as in a worker of a search: the same bits everywhere."""
    torch = pytest.importorskip("torch", reason="pip install 'trimtab[nas]'")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
