"""Other runtimes on the same network: torch.compile, ONNX Runtime, OpenVINO. What benchmarks compare with.

Each gets plain PyTorch and one batch, prepares everything, runs once, and returns what is to be timed. What is
not installed or does not take the network raises `Unavailable` with the reason in a line.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.models import SegNeXt
from segnext_kernels import definitions

Run = Callable[[], Tensor]
TRIALS = 3
OPSET = 20  # the first with Gelu as one operator
INSTALL = {name: "pip install onnx onnxscript onnxruntime openvino" for name in ("onnx", "onnxscript")} | {
    "onnxruntime": "pip install onnxruntime",
    "openvino": "pip install openvino",
}


class Unavailable(RuntimeError):
    """A runtime is not here or does not take the network."""


@contextmanager
def _explained(task: str) -> Iterator[None]:
    """Turns whatever goes wrong into one line: a baseline that fails must not end the comparison."""
    try:
        yield
    except Unavailable:
        raise
    except ImportError as error:
        name = (error.name or str(error)).partition(".")[0]
        remedy = INSTALL.get(name)
        raise Unavailable(f"{name} is not installed{'; ' + remedy if remedy else ''}") from error
    except Exception as error:
        line = next((line for line in str(error).splitlines() if line.strip()), "")
        raise Unavailable(f"{task} failed: {type(error).__name__}: {line[:200]}") from error


class AsModule(nn.Module):
    """A function of tensors as the module that exporters ask for; tensors inside it become constants."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.training = False  # eval() would descend: a traced module refuses it

    def forward(self, *inputs: Tensor) -> Tensor:
        """The function's result."""
        return self.function(*inputs)


def torch_compile(
    function: Callable[..., Any], *inputs: Tensor, mode: str | None = None, alone: bool = True
) -> Run:
    """Compiled by Inductor for these shapes alone.

    Args:
        function: a module's weights are constants to it, tensors inside anything else are inputs.
        mode: Inductor's, such as "max-autotune"; its default one without.
        alone: forget what was compiled before, which would count as shapes seen.

    Raises:
        Unavailable: there is no C++ compiler, or compilation failed.
    """
    with _explained("torch.compile"), torch.inference_mode():
        if alone:
            torch.compiler.reset()
        compiled = torch.compile(function, dynamic=False, mode=mode)
        compiled(*inputs)
    return partial(compiled, *inputs)


def export_onnx(function: Callable[..., Tensor], *inputs: Tensor) -> bytes:
    """The function as a serialised ONNX model for the inputs' shapes.

    Raises:
        Unavailable: the exporter is not installed, or it failed.
    """
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it names operators of packages that are not needed
    try:
        with _explained("export to ONNX"), torch.no_grad(), warnings.catch_warnings():
            import onnx  # noqa: F401 (named first where both are missing)
            import onnxscript  # noqa: F401

            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                AsModule(function), inputs, dynamo=True, opset_version=OPSET, verbose=False
            )
            assert program is not None
            return program.model_proto.SerializeToString()
    finally:
        log.setLevel(level)


def onnx_runtime(model: bytes, *inputs: Tensor) -> Run:
    """ONNX Runtime on the CPU, all graph optimisations, as many threads as torch has.

    Raises:
        Unavailable: it is not installed, or it refuses the model.
    """
    with _explained("ONNX Runtime"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = torch.get_num_threads()
        # its waiting threads would take the cores from whoever is timed next
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        feed = {name: x.contiguous().numpy() for name, x in zip(names, inputs, strict=True)}

        def run() -> Tensor:
            return torch.from_numpy(session.run(None, feed)[0])

        run()
    return run


def openvino(model: bytes, *inputs: Tensor, precision: str = "f32") -> Run:
    """OpenVINO on the CPU, tuned for latency, as many threads as torch has.

    Args:
        model: a serialised ONNX model.
        inputs: float32.
        precision: "f32" or "bf16", of what is computed inside.

    Raises:
        Unavailable: it is not installed, it refuses the model, or this CPU has no bfloat16 arithmetic.
    """
    with _explained("OpenVINO"):
        import openvino

        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise Unavailable("this CPU has no bfloat16 arithmetic (avx512_bf16 or amx_bf16)")
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
        arrays = [x.contiguous().numpy() for x in inputs]

        def run() -> Tensor:
            return torch.from_numpy(request.infer(arrays, share_inputs=True, share_outputs=True)[0])

        run()
    return run


def fastest(runs: Sequence[Run]) -> Run:
    """The one of several formulations of the same with the shortest time, taken in turns."""
    best = [float("inf")] * len(runs)
    for _ in range(TRIALS if len(runs) > 1 else 0):
        for index, run in enumerate(runs):
            begin = time.perf_counter()
            run()
            best[index] = min(best[index], time.perf_counter() - begin)
    return runs[best.index(min(best))]


def plain(model: SegNeXt, images: Tensor) -> Callable[[Tensor], Tensor]:
    """The model's logits at an eighth of the size in PyTorch's own operators, for the shape of ``images``.

    Traced with every operator of ours replaced by its definition and every 1x1 convolution written as one, so
    that compilers and exporters see what they know.
    """
    table = {**definitions(), torch.ops.aten.linear.default: _convolution_1x1}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, about itself
        program = torch.export.export(AsModule(model.forward_logits), (images,))
        return program.run_decompositions(table).module()


def _convolution_1x1(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.conv2d(x.movedim(-1, 1), weight[:, :, None, None], bias).movedim(1, -1)
