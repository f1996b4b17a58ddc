"""Runs the same network in other runtimes, for comparison: torch.compile, ONNX Runtime, OpenVINO.

Each function gets plain PyTorch and one batch, prepares everything, runs once, and returns the call to time.
A runtime that is not installed or does not take the network raises `Unavailable` with the reason in one line.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.measure import timing
from segnext.models import SegNeXt
from segnext_kernels import definitions

Run = Callable[[], Tensor]
TRIALS = 3
OPENVINO_NAMES = {torch.float32: "f32", torch.bfloat16: "bf16"}
OPSET = 20  # the first version with Gelu as one operator
INSTALL = {name: "pip install onnx onnxscript onnxruntime openvino" for name in ("onnx", "onnxscript")} | {
    "onnxruntime": "pip install onnxruntime",
    "openvino": "pip install openvino",
}


class Unavailable(RuntimeError):
    """A runtime is not installed or does not take the network."""


@contextmanager
def _explained(task: str) -> Iterator[None]:
    """Turn any error into one line: a baseline that fails must not end the comparison."""
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
    """Wraps a function of tensors as the module that exporters need; tensors inside it become constants."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.training = False  # eval() would also call it on traced modules, which refuse it

    def forward(self, *inputs: Tensor) -> Tensor:
        """Call the function."""
        return self.function(*inputs)


def torch_compile(
    function: Callable[..., Any], *inputs: Tensor, mode: str | None = None, alone: bool = True
) -> Run:
    """Compile a function with Inductor for exactly these shapes.

    Args:
        function: the function or module to compile.
        mode: Inductor's mode, such as "max-autotune"; None: its default.
        alone: forget earlier compilations, whose shapes would count as seen.

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
    """Return the function as a serialised ONNX model for the shapes of the inputs.

    Raises:
        Unavailable: the exporter is not installed, or it failed.
    """
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # else it names operators of packages that are not needed
    try:
        with _explained("export to ONNX"), torch.no_grad(), warnings.catch_warnings():
            import onnx  # noqa: F401 (so that it is named first if both are missing)
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
    """Prepare ONNX Runtime on the CPU with all graph optimisations and as many threads as torch has.

    Raises:
        Unavailable: it is not installed, or it refuses the model.
    """
    with _explained("ONNX Runtime"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = torch.get_num_threads()
        # otherwise its waiting threads would take the cores from the variant that is timed next
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        feed = {name: x.contiguous().numpy() for name, x in zip(names, inputs, strict=True)}

        def run() -> Tensor:
            return torch.from_numpy(session.run(None, feed)[0])

        run()
    return run


@cache
def openvino_core() -> Any:
    """Return the one OpenVINO core of this process, which is never destroyed.

    Each core gives the main thread a stack for signals. When two are destroyed, the thread is left with the stack of
    the first, whose memory is gone: the next Ctrl-C would be a segmentation fault (seen with OpenVINO 2026.4).
    """
    import openvino

    return openvino.Core()


def openvino(model: bytes, *inputs: Tensor, dtype: torch.dtype = torch.float32) -> Run:
    """Prepare OpenVINO on the CPU, tuned for latency, with as many threads as torch has.

    Args:
        model: a serialised ONNX model.
        inputs: float32 tensors.
        dtype: float32 or bfloat16, for the arithmetic inside.

    Raises:
        Unavailable: it is not installed, it refuses the model, or this CPU has no bfloat16 arithmetic.
    """
    with _explained("OpenVINO"):
        import openvino  # noqa: F401 (also in processes that have a core, so that a missing package is named)

        core = openvino_core()
        precision = OPENVINO_NAMES[dtype]
        if dtype == torch.bfloat16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
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
    """Return the fastest of several calls that compute the same; they take turns while they are timed."""
    if len(runs) == 1:
        return runs[0]
    turns = {str(index): timing.turn(run, warm_up=False) for index, run in enumerate(runs)}
    times = timing.interleaved(turns, seconds=0, least=TRIALS, most=TRIALS)
    return runs[int(min(times, key=lambda index: min(times[index])))]


def label_map(logits: Tensor, size: tuple[int, int], axis: int = 1) -> Tensor:
    """Return labels (N, *size) of logits (N, K, h, w), which are resized before the largest class is found.

    Args:
        axis: 1 or -1, where the classes are while the largest is found; runtimes differ in which is faster.
    """
    full = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    return full.argmax(1) if axis == 1 else full.permute(0, 2, 3, 1).argmax(-1)


def plain(model: SegNeXt, images: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the model in PyTorch's own operators, up to logits at an eighth of the size, for the shape of ``images``.

    In its trace each of our operators is replaced by its definition, and each 1x1 convolution is written as a
    convolution, so that compilers and exporters see only what they know.
    """
    table = {**definitions(), torch.ops.aten.linear.default: _convolution_1x1}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch warns about its own code
        program = torch.export.export(AsModule(model.forward_logits), (images,))
        return program.run_decompositions(table).module()


def _convolution_1x1(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.conv2d(x.movedim(-1, 1), weight[:, :, None, None], bias).movedim(1, -1)
