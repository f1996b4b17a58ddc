"""Tests a deployed SegNeXt on the Triton kernels, as on a GPU: it gives the model's labels in few launches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segnext import deploy
from segnext.models import SegNeXt, SegNeXtConfig
from segnext_kernels import backend, native, use_backend
from segnext_kernels.triton import launch

NARROW = SegNeXtConfig(
    architecture="segnext_narrow",
    channels=(16, 16, 32, 32),
    depths=(1, 1, 1, 1),
    expansions=(2, 2, 2, 2),
    num_classes=5,
    decoder_channels=32,
    rank=4,
)
UNWRITTEN = ("empty", "new_empty")  # operators that return memory and start no kernel


def images() -> torch.Tensor:
    return torch.randn(2, 3, 20, 28, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> SegNeXt:
    torch.manual_seed(0)
    model = SegNeXt(NARROW)
    for block in (b for stage in model.backbone.stages for b in stage):  # type: ignore[attr-defined]
        for scale in (block.layer_scale1, block.layer_scale2):
            scale.data.uniform_(0.2, 1.0)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(4, 3, 32, 32))
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_model_comes_out(model: SegNeXt, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.inference_mode():
        expected = model.forward_logits(images())
    labels = model.predict(images())
    monkeypatch.setattr(native, "_C", None)  # nothing compiled is needed
    with use_backend("triton"):
        fast = deploy(model, dtype)
        logits, fast_labels = fast.forward_logits(images()), fast.predict(images())
    assert expected.isfinite().all() and logits.dtype == torch.float32
    with use_backend("reference"):
        eager = deploy(model, dtype).forward_logits(images())
    error, eager_error = ((t - expected).square().mean().sqrt().item() for t in (logits, eager))
    assert error <= 2 * eager_error + 1e-5 * expected.abs().max().item(), (error, eager_error)
    assert fast_labels.shape == labels.shape and fast_labels.dtype == labels.dtype
    assert (fast_labels == labels).float().mean() >= (0.999 if dtype == torch.float32 else 0.9)


class Kernels(TorchDispatchMode):
    """Collects the names of all kernels that would be launched: Triton's, and PyTorch's operators that compute."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.names: list[str] = []

        def note(function: Any, grid: Any, *args: Any, **options: Any) -> None:
            self.names.append(function.__name__)

        monkeypatch.setattr(launch, "start", note)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, name = func._schema.name.split("::")
        if namespace == "segnext_kernels":  # look inside
            with self:
                return backend.KERNELS[name]["triton"].run(*args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        inputs = {t.untyped_storage()._cdata for t in tree_leaves(args) if isinstance(t, torch.Tensor)}
        is_view = isinstance(out, torch.Tensor) and out.untyped_storage()._cdata in inputs
        if not name.startswith(UNWRITTEN) and (name.endswith("_") or not is_view):
            self.names.append(name)
        return out


def test_the_kernels_of_a_block(model: SegNeXt, monkeypatch: pytest.MonkeyPatch) -> None:
    with use_backend("triton"), torch.inference_mode():
        attention, feed_forward = deploy(model)._network.stages[0].blocks[0]
        x = torch.randn(1, 16, 9, 12).contiguous(memory_format=torch.channels_last)
        with Kernels(monkeypatch) as kernels:
            feed_forward(attention(x, None, None), None)
    strips = [
        "cat",
        "_root_kernel",
        "_fan_out_kernel",
        "_fan_in_kernel",
    ]  # all taps are packed into one tensor
    assert kernels.names == [
        "pointwise_kernel", *strips, "gated_projection_kernel",
        "pointwise_kernel", "_convolution_kernel", "pointwise_kernel",
    ]  # fmt: skip
