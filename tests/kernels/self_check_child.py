"""Is the child of a self-check without a GPU: CUDA kernels run on the emulator, or Triton's in its interpreter.

It is run as `segnext_kernels.self_check` is. The variable SEGNEXT_EMULATED_LIBRARY names the emulated library, BREAK
the function here that replaces the kernel of group_norm_act, and BREAK_TRITON a break of
`tests.kernels.triton.interpreted.test_dropped_mask`.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from segnext_kernels import backend, native
from segnext_kernels.kernel import Kernel
from segnext_kernels.self_check import __main__ as child
from segnext_kernels.self_check import agreement
from segnext_kernels.triton import launch
from tests.cuda_emulator.emulation import Emulator, load_module
from tests.cuda_emulator.plugin import INSIDE
from tests.kernels.triton import interpreter

agreement.LARGEST_SAMPLE = 6000


def hang(*args: object) -> None:
    time.sleep(600)


def fault(*args: object) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def fail(*args: object) -> None:
    raise RuntimeError("group_norm_act: CUDA launch failed: too many resources requested for launch")


if __name__ == "__main__":
    if launch.interpreted():
        interpreter.prepare()
        if broken := os.environ.get("BREAK_TRITON"):
            from tests.kernels.triton.interpreted.test_dropped_mask import BREAKS, module_of, triton_kernels

            text = Path(str(triton_kernels.__file__)).read_text().replace(*BREAKS[broken], 1)
            sys.modules[triton_kernels.__name__] = module_of(text, Path(tempfile.mkdtemp()))
    if library := os.environ.get(INSIDE):
        native._C = Emulator(load_module(library)).library(native._C)
        native.reason_against = lambda x, device, dtypes: None  # the emulator takes CPU tensors
    if broken := os.environ.get("BREAK"):
        backend.KERNELS["group_norm_act"]["cuda"] = Kernel(globals()[broken])
    child.main(*sys.argv[1:])
