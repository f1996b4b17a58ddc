"""The strips' work is shared by columns where an image has few channels, and the result is the same to the last bit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from oracle.inputs import in_layout
from segnext_kernels import msca_conv, native, use_backend
from segnext_kernels.spec import all_specs

pytestmark = pytest.mark.skipif(native._C is None, reason="needs the compiled kernels")
SAMPLE = all_specs()["msca_conv"].samples[0]


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("n", "c", "w"), [(1, 32, 128), (1, 20, 71), (2, 16, 200), (1, 40, 33)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
def test_threads_share_columns(
    dtype: torch.dtype, n: int, c: int, w: int, layout: torch.memory_format
) -> None:
    args = in_layout(SAMPLE.make(dtype, n=n, c=c, h=9, w=w, strips=(7, 11, 21)), layout)
    with use_backend("cpu"):
        torch.set_num_threads(1)
        expected = msca_conv(*args)
        for threads in (2, 3, 4, 7):
            torch.set_num_threads(threads)
            assert torch.equal(msca_conv(*args), expected), f"{threads} threads"
