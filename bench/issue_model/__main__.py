"""Runs the machine code of the kernels on the CPU, counts, and says how fast an H200 can be at best.

    python -m bench.issue_model --only msca_conv                     an op, both directions, T's and B's shapes
    python -m bench.issue_model --only msca_conv --shape t1 --direction forward --backend cuda
    python -m bench.issue_model --only msca_conv --shape t1 --profile     where the instructions are, by source line
    python -m bench.issue_model --only conv_ffn --configs                 every configuration of the Triton kernels

Nothing is measured: every line says "model". The time is a lower bound without stalls, the largest of what binds:
issue (warp instructions / 4 a cycle), a pipe, shared memory, tensor cores, L2 bandwidth; barriers come on top.
"""

from __future__ import annotations

import argparse
import functools
import time

from bench.issue_model import report
from bench.issue_model.model import BLOCKS, modelled
from bench.issue_model.record import Recorder
from bench.issue_model.workloads import folders, workloads


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.issue_model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="ops whose name contains this")
    parser.add_argument("--shape", default="", help="shapes whose name contains this, such as t1")
    parser.add_argument("--direction", choices=("forward", "backward"), help="one of them; both by default")
    parser.add_argument("--backend", choices=("cuda", "triton"), help="one of them; both by default")
    parser.add_argument("--dtype", default="bf16", help="bf16 (default), fp16, fp32; several with commas")
    parser.add_argument("--layout", default="nhwc", help="nhwc (default), nchw; several with commas")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help=f"blocks of a grid that run ({BLOCKS})")
    parser.add_argument("--configs", action="store_true", help="every configuration of the Triton kernels")
    parser.add_argument("--profile", action="store_true", help="instructions by source line and by kind")
    arguments = parser.parse_args()

    recorder = functools.cache(lambda op: Recorder(folders(op)))
    chosen = workloads(
        recorder, arguments.only,
        (arguments.direction,) if arguments.direction else ("forward", "backward"),
        (arguments.backend,) if arguments.backend else ("cuda", "triton"),
        arguments.dtype.split(","), arguments.layout.split(","), arguments.shape, arguments.configs,
    )  # fmt: skip
    for workload in chosen:
        began = time.perf_counter()
        launches, alive = workload.launches()
        results = [modelled(launch, arguments.blocks) for launch in launches]
        del alive
        print(report.text(workload, results, time.perf_counter() - began), flush=True)
        if arguments.profile:
            for result in results:
                print(report.profile(result, workload.elements), flush=True)


if __name__ == "__main__":
    main()
