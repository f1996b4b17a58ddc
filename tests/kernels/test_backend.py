"""Tests the setting, the choice and its explanation, on a toy operator with kernels that can be told apart."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from segnext_kernels import choose, current_backend, dwconv_gelu, explain, native, use_backend
from segnext_kernels.kernel import KERNELS, Kernel
from segnext_kernels.registration import define_autograd, define_op
from tests import little_memory

# The "cpu" kernel doubles and takes no float64, the reference triples: the result names the backend.
FACTORS = {"cpu": 2.0, "reference": 3.0}


def _scale_by(name: str) -> Callable[..., torch.Tensor]:
    return lambda x: x * FACTORS[name]


def _no_float64(x: torch.Tensor) -> str | None:
    return "takes float32, not float64" if x.dtype == torch.float64 else None


def _define(name: str) -> Any:
    return define_op(
        name,
        "(Tensor x) -> Tensor",
        reference=_scale_by("reference"),
        fake=torch.empty_like,
        kernels={"cpu": Kernel(_scale_by("cpu"), refuses=_no_float64)},
    )


toy = _define("toy_choice")
toy_backward = _define("toy_choice_backward")
define_autograd(
    "toy_choice",
    save=lambda inputs, output: ((), None),
    backward=lambda saved, other, grad: toy_backward(grad),
)


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGNEXT_BACKEND", raising=False)


def test_auto_takes_the_first_kernel_that_does_not_refuse() -> None:
    assert current_backend() == "auto"
    assert toy(torch.ones(1)).item() == FACTORS["cpu"]
    assert toy(torch.ones(1).double()).item() == FACTORS["reference"]
    assert choose("toy_choice", torch.ones(1)) == "cpu"
    assert choose("toy_choice", torch.ones(1).double()) == "reference"


def test_auto_passes_over_what_is_slower_and_says_so() -> None:
    x = torch.ones(1, 4, 3, 3)
    args = (2, torch.ones(4), torch.ones(4), 1e-5, None, "relu")
    nhwc = x.contiguous(memory_format=torch.channels_last)
    assert choose("group_norm_act", nhwc, *args) == choose("dwconv_gelu", nhwc, torch.ones(4, 1, 3, 3), None)
    assert choose("group_norm_act", x, *args) == "reference"
    if native._C is not None:
        assert "cpu:       available; auto passes it over: PyTorch is" in explain("group_norm_act", x, *args)
        with use_backend("cpu"):
            assert choose("group_norm_act", x, *args) == "cpu"


@pytest.mark.skipif(native._C is None, reason="the compiled library is missing")
def test_a_product_of_few_pixels_and_one_in_bfloat16_are_pytorchs() -> None:
    x, weight = torch.ones(1, 8, 16, 16), torch.ones(4, 8, 1, 1)  # two parts of 128 pixels
    before = torch.get_num_threads()
    try:
        for threads, chosen in ((1, "cpu"), (2, "cpu"), (3, "reference")):
            torch.set_num_threads(threads)
            assert choose("pointwise", x, weight, None) == chosen
            assert choose("pointwise_backward", torch.ones(1, 4, 16, 16), x, weight, None) == chosen
    finally:
        torch.set_num_threads(before)
    assert choose("pointwise", x.bfloat16(), weight.bfloat16(), None) == "reference"


@pytest.mark.parametrize("op", ["nmf2d", "nmf2d_projected"])
def test_cuda_is_slower_only_where_triton_runs(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = KERNELS[op]["cuda"]
    x, bases = torch.ones(1, 4, 5, dtype=torch.bfloat16), torch.ones(1, 4, 20)
    for missing, expected in (
        (None, "slower than Triton's above rank 16 in 16 bits"),
        ("absent", None),
    ):
        monkeypatch.setitem(KERNELS[op], "triton", Kernel(cuda.run, refuses=lambda *_, why=missing: why))
        assert cuda.reason_to_pass(x, bases) == expected
        assert cuda.reason_to_pass(x.float(), bases) is None
        assert cuda.reason_to_pass(x, bases[..., :16]) is None


def test_a_gate_goes_to_triton_in_16_bits_and_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = KERNELS["gated_pointwise"]["cuda"]
    m, weight = torch.ones(1, 4, 3, 3, dtype=torch.bfloat16), torch.ones(4, 4, 1, 1, dtype=torch.bfloat16)
    nhwc = m.contiguous(memory_format=torch.channels_last)
    for missing, expected in ((None, "1.4 to 2.1 times as slow as Triton's"), ("absent", None)):
        triton = Kernel(cuda.run, refuses=lambda *_, why=missing: why)
        monkeypatch.setitem(KERNELS["gated_pointwise"], "triton", triton)
        assert cuda.reason_to_pass(nhwc, nhwc, weight, None) == expected
        assert cuda.reason_to_pass(m, m, weight, None) is None
        assert cuda.reason_to_pass(nhwc.float(), nhwc.float(), weight.float(), None) is None


def test_a_wide_feed_forward_network_goes_to_three_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = KERNELS["conv_ffn"]["cuda"]
    for missing, expected in (
        (None, "slower than three kernels above 32 channels"),
        ("absent", None),
    ):
        triton = Kernel(cuda.run, refuses=lambda *_, why=missing: why)
        monkeypatch.setitem(KERNELS["conv_ffn"], "triton", triton)
        assert cuda.reason_to_pass(torch.ones(1, 40, 3, 3)) == expected
        assert cuda.reason_to_pass(torch.ones(1, 32, 3, 3)) is None


def test_named_backend_runs_or_raises() -> None:
    with use_backend("reference"):
        assert current_backend() == "reference"
        assert toy(torch.ones(1)).item() == FACTORS["reference"]
    with use_backend("cpu"):
        assert toy(torch.ones(1)).item() == FACTORS["cpu"]
        with pytest.raises(NotImplementedError):
            toy(torch.ones(1).double())
    with use_backend("triton"), pytest.raises(NotImplementedError):
        toy(torch.ones(1))


def test_use_backend_nests_and_ends_also_by_an_error() -> None:
    with use_backend("cpu"):
        with pytest.raises(KeyError), use_backend("reference"):
            assert current_backend() == "reference"
            raise KeyError
        assert current_backend() == "cpu"
        with use_backend("auto"):
            assert current_backend() == "auto"
    assert current_backend() == "auto"


@pytest.mark.parametrize("name", ["gpu", "", "CPU", None])
def test_unknown_backend(name: Any) -> None:
    expected = r"^use_backend: name must be one of auto, cuda, triton, cpu, reference, got "
    with pytest.raises(ValueError, match=expected), use_backend(name):
        pass
    assert current_backend() == "auto"


def test_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGNEXT_BACKEND", "reference")
    assert toy(torch.ones(1)).item() == FACTORS["reference"]
    with use_backend("cpu"):
        assert toy(torch.ones(1)).item() == FACTORS["cpu"]
    monkeypatch.setenv("SEGNEXT_BACKEND", "")
    assert current_backend() == "auto"
    monkeypatch.setenv("SEGNEXT_BACKEND", "fast")
    with pytest.raises(ValueError, match=r"^SEGNEXT_BACKEND must be one of auto, .*, got 'fast'$"):
        toy(torch.ones(1))


def test_explain_gives_every_backend_a_line() -> None:
    assert explain("toy_choice", torch.ones(2, 3)).splitlines() == [
        "toy_choice: cpu takes (2, 3) float32 cpu",
        "  cuda:      this op has no kernel for it",
        "  triton:    this op has no kernel for it",
        "  cpu:       takes these inputs",
        "  reference: takes these inputs",
    ]
    with use_backend("cpu"):
        assert explain("toy_choice", torch.ones(2, 3).double()).splitlines() == [
            "toy_choice: no backend takes (2, 3) float64 cpu",
            "  cuda:      this op has no kernel for it",
            "  triton:    this op has no kernel for it",
            "  cpu:       takes float32, not float64",
            '  reference: available; not used because use_backend("cpu") is in force',
        ]


def test_explain_names_the_layout() -> None:
    x = torch.ones(2, 3, 4, 5)
    assert "(2, 3, 4, 5) float32 cpu\n" in explain("toy_choice", x)
    assert "cpu channels_last\n" in explain("toy_choice", x.contiguous(memory_format=torch.channels_last))
    assert "cpu strides (60, 20, 1, 4)\n" in explain("toy_choice", x.mT.contiguous().mT)


def test_error_is_the_explanation() -> None:
    x = torch.ones(2, 3).double()
    with use_backend("cpu"), pytest.raises(NotImplementedError) as caught:
        toy(x)
    with use_backend("cpu"):
        assert str(caught.value) == explain("toy_choice", x)


def _gradient(setting: str) -> float:
    x = torch.ones(1, requires_grad=True)
    with use_backend(setting):
        out = toy(x)
    out.backward()
    assert x.grad is not None
    return x.grad.item()


def test_backward_keeps_the_forwards_setting() -> None:
    """This also holds after the `with` block has ended, and inside another one."""
    assert [_gradient(name) for name in ("auto", "cpu", "reference")] == [2.0, 2.0, 3.0]
    with use_backend("cpu"):
        assert _gradient("reference") == FACTORS["reference"]


def _in_thread(function: Callable[[], Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def test_backward_in_another_thread_keeps_the_forwards_setting() -> None:
    """The thread that runs the backward has no setting of its own, as with autograd on GPUs."""
    x = torch.ones(1, requires_grad=True)
    with use_backend("reference"):
        out = toy(x)
        assert _in_thread(current_backend) == "auto"
        _in_thread(out.backward)
    assert x.grad is not None and x.grad.item() == FACTORS["reference"]


def test_threads_do_not_see_each_others_setting() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with use_backend("reference"):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert entered.wait(10)
    assert toy(torch.ones(1)).item() == FACTORS["cpu"]
    leave.set()
    thread.join()


def test_choice_is_made_at_each_call_of_a_compiled_graph() -> None:
    """A traced graph holds the op, not a backend."""
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: toy(x) + 1, fullgraph=True, backend="aot_eager")
    assert compiled(torch.ones(1)).item() == FACTORS["cpu"] + 1
    with use_backend("reference"):
        assert compiled(torch.ones(1)).item() == FACTORS["reference"] + 1


def test_a_real_op_obeys() -> None:
    x, weight = torch.randn(1, 4, 5, 6), torch.randn(4, 1, 3, 3)
    with use_backend("reference"):
        out = dwconv_gelu(x, weight)
    assert torch.equal(
        out, torch.nn.functional.gelu(torch.nn.functional.conv2d(x, weight, padding=1, groups=4))
    )


# 500 MB of scratch arrays for an axis of 2^24, in a process that may take half of that.
TOO_LARGE = """
import torch
from segnext_kernels import upsample_argmax
from tests import little_memory
x = torch.zeros(1, 2, 1, 1)
upsample_argmax(x, (4, 4))
little_memory.leave(200 * 2**20)
try:
    upsample_argmax(x, (2**24, 1))
except MemoryError as error:
    print(error)
"""


@pytest.mark.skipif(native._C is None, reason="the compiled library is missing")
@pytest.mark.skipif(not little_memory.SIZE.exists(), reason="needs Linux's /proc")
def test_a_call_without_memory_names_the_op() -> None:
    child = subprocess.run(
        [sys.executable, "-c", TOO_LARGE], capture_output=True, text=True, timeout=120, check=True
    )
    assert child.stdout == "upsample_argmax: there is not enough memory for a call of this size\n"
