"""One thread for the contract suite: on inputs this small threads only wait for each other.

Gradcheck alone took 7 seconds with one thread and 311 with two, on a two-core machine. The tests about threads
set their own count.
"""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread(threads: None) -> None:
    torch.set_num_threads(1)
