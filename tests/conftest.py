"""What every test starts from: seeded generators, and torch's thread count put back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

# The accuracy rule compares with PyTorch's true float32, and reruns must agree to the last bit.
torch.backends.cudnn.allow_tf32 = False
torch.backends.cudnn.deterministic = True


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def threads() -> Iterator[None]:
    """For tests that call torch.set_num_threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
