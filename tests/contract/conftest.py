"""Gives the contract suite one thread: on inputs this small, threads only wait for each other.

Gradcheck alone took 7 seconds with one thread and 311 with two, on a two-core machine. The tests about threads set
their own number. In a session of Triton's interpreter (TRITON_INTERPRET=1), only the cases that it can afford are run.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.kernels.triton import interpreter

FOLDER = Path(__file__).parent

if interpreter.ON:
    interpreter.prepare()


@pytest.fixture(autouse=True)
def _one_thread(threads: None) -> None:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if interpreter.ON:
        # the hook gets the tests of the whole session, those of other folders too
        left_out = {item for item in items if FOLDER in item.path.parents and not interpreter.affords(item)}
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]
