"""Times depthwise_sum at the layers of the networks that it serves: `python -m bench.depthwise_family`.

These are VAN, LSKNet, LSKA, Strip R-CNN, InceptionNeXt, PKINet, SLaK and RepLKNet: their depthwise convolutions alone,
batch 1, forward and with all gradients. Peers are the same convolutions in PyTorch, eager in both memory formats and
compiled. All of them take turns after their results were compared. It writes a JSON under
bench/results/<machine>/depthwise_family/.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from bench import variants
from bench.op_workloads import forward, forward_backward
from bench.peers import PEERS, Run, torch_compile
from bench.results import Row
from oracle.gradients import gradients_of
from segnext.measure.runtimes import Unavailable
from segnext_kernels.spec import Sample, all_specs

SPEC = all_specs()["depthwise_sum"]
FORWARD, BOTH = "depthwise layers, forward", "depthwise layers, forward + backward"


def take_forward(sample: Sample, compiled: bool, seconds: float) -> Row:
    """Check and time the forward of one layer."""
    of = forward(SPEC, sample)
    peers = {peer: run_of(of.build) for peer, run_of in PEERS.items()}
    if compiled:
        peers["torch.compile"] = torch_compile(of.build)
    return variants.compared(FORWARD, sample.name, of, peers, True, seconds)


def take_both(sample: Sample, compiled: bool, seconds: float) -> Row:
    """Check and time both passes of one layer."""
    of = forward_backward(SPEC, sample)
    peers = {peer: run_of(of.build) for peer, run_of in PEERS.items()}
    if compiled:
        peers["torch.compile"] = compiled_with_gradients(of.build)
    return variants.compared(BOTH, sample.name, of, peers, False, seconds)


def compiled_with_gradients(build: Callable[[torch.memory_format], Any]) -> Run:
    """Compile the definition, in channels_last, for calls that take its gradients."""
    _, (function, spec, args, grad) = build(torch.channels_last)
    torch.compiler.reset()
    run = partial(gradients_of, torch.compile(function, dynamic=False), spec, args, grad)
    try:
        run()
    except Exception as error:  # no C++ compiler, for instance
        raise Unavailable(f"torch.compile: {str(error).partition(chr(10))[0]}") from error
    return run


def workloads(compiled: bool = True) -> list[tuple[str, Callable[[float], Row]]]:
    """Return every workload: its name, and a function that measures it for about so many seconds."""
    found: list[tuple[str, Callable[[float], Row]]] = []
    for sample in SPEC.model_shapes:
        found.append((sample.name, partial(take_forward, sample, compiled)))
        found.append((f"{sample.name}, backward", partial(take_both, sample, compiled)))
    return found


def measure(wanted: Sequence[str], seconds: float) -> tuple[list[Row], dict[str, str]]:
    """Return the rows of the workloads whose names hold one of the words, and why others have no number."""
    return variants.measured(workloads(), wanted, seconds)


def main(arguments: Any = None) -> None:
    """Entry point of `python -m bench.depthwise_family`."""
    variants.command("depthwise_family", __doc__, measure, arguments)


if __name__ == "__main__":
    main()
