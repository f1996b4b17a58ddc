"""Gives the contract suite one thread: on inputs this small, threads only wait for each other.

Gradcheck alone took 7 seconds with one thread and 311 with two, on a two-core machine. The tests about threads set
their own number. In a session of Triton's interpreter (TRITON_INTERPRET=1), only the cases that it can afford are run.
"""

from __future__ import annotations

import pytest
import torch

from tests.kernels.triton import interpreter

if interpreter.ON:
    interpreter.prepare()


@pytest.fixture(autouse=True)
def _one_thread(threads: None) -> None:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if interpreter.ON:
        kept = [item for item in items if interpreter.affords(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept
