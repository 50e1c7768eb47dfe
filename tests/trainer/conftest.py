"""One thread for torch: the same sums in this process and in those that tests start, and no crowd on small tensors."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)
