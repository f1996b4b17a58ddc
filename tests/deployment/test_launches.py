"""Tests the deployed model as a GPU would run it, without a GPU: its launches, and memory format between them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.launches import Launch, deployed_launches, launches, on_meta, table
from segnext import create_model, deploy
from segnext.models import SegNeXt
from segnext_kernels import backend, native, use_backend
from segnext_kernels.triton import launch
from tests import summary

MOST = 102  # with the sum of the logits, which shows whether they are finite, and its clone
BLOCKS = 13  # blocks of SegNeXt-T
FUSED_BLOCKS = 3  # whose feed-forward network is one launch of CUDA
needs_all = pytest.mark.skipif(
    native._C is None or launch.missing() is not None, reason="needs the compiled library and Triton"
)


@pytest.fixture(scope="module")
def model() -> SegNeXt:
    model = create_model("segnext_t", num_classes=19)
    assert isinstance(model, SegNeXt)
    return model.eval()


def launched(model: SegNeXt, dtype: torch.dtype, layout: torch.memory_format) -> list[Launch]:
    images = torch.empty(1, 3, 768, 1536, device="meta").contiguous(memory_format=layout)
    return deployed_launches(on_meta(model, dtype), images)


@needs_all
def test_at_most_102_launches_from_the_images_to_the_mask(model: SegNeXt) -> None:
    found = launched(model, torch.bfloat16, torch.contiguous_format)
    print("\n".join(table(found)))
    count = len(found)
    if "cuda" not in backend.KERNELS["conv_ffn"]:  # Triton makes three launches of one
        count -= 2 * FUSED_BLOCKS
    assert count <= MOST, list(table(found))
    summary.count("launches of a deployed SegNeXt-T at 768x1536, images to mask", len(found))


@needs_all
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_nothing_is_cast_copied_or_transposed_in_between(
    model: SegNeXt, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    """PyTorch itself launches only the copy into the graph, the sum of the logits, and the clones out of it."""
    found = launched(model, dtype, layout)
    assert Counter(launch.name for launch in found if launch.backend == "torch") == {
        "copy_": 1,
        "sum": 1,
        "clone": 2,
    }
    assert found[0].name == "copy_" and found[-1].name == "clone"


@needs_all
def test_a_copy_is_seen(model: SegNeXt) -> None:
    """The recorder notes a cast, a stack and a sum of PyTorch, and no view."""
    fast, images = on_meta(model), torch.empty(1, 3, 64, 96, device="meta")
    found = launches(lambda: torch.stack([fast.predict(images.to(torch.float32) + 1)]).sum(0))
    assert [launch.name for launch in found if launch.backend == "torch"] == ["add", "stack", "sum"]
    assert launches(lambda: images.permute(0, 2, 3, 1).flatten(1, 2)) == []


@needs_all
def test_a_block_as_deployed_joins_tritons_products_and_the_cuda_strips(model: SegNeXt) -> None:
    """`auto` runs neither "cuda" nor "triton" alone, so this pair is the one to prove and time on a GPU."""
    found = launched(model, torch.bfloat16, torch.contiguous_format)
    first = [launch for launch in found if launch.op in ("msca_block", "msca_conv")][:3]
    names = [(launch.backend, launch.name) for launch in first]
    assert names == [
        ("triton", "pointwise_kernel"),
        ("cuda", "msca_conv_cuda"),
        ("triton", "gated_projection_kernel"),
    ]


class Between(TorchDispatchMode):
    """Keeps the results of the library's ops."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[tuple[str, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func._schema.name.startswith("segnext_kernels::"):
            self.results.append((func._schema.name, result))
        return result


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_channels_last_from_end_to_end(
    model: SegNeXt, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    images = torch.randn(2, 3, 70, 101).contiguous(memory_format=layout)
    with use_backend("reference"), Between() as between:
        deploy(model, dtype).forward_logits(images)
    assert len(between.results) > 2 * BLOCKS + 10
    for name, result in between.results:
        if result.ndim == 3:  # matrices of pixels
            assert result.mT.is_contiguous(), name
        else:
            assert result.is_contiguous(memory_format=torch.channels_last), (name, result.stride())
        assert result.dtype == (torch.float32 if result is between.results[-1][1] else dtype), name
