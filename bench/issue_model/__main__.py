"""Runs the sm_90 machine code of the kernels on the CPU, counts, and says how fast an H200 can be at best.

    python -m bench.issue_model --only msca_conv                     an op: both directions, T's and B's shapes
    python -m bench.issue_model --only msca_conv --shape t1 --direction forward --backend cuda
    python -m bench.issue_model --only msca_conv --shape t1 --profile     where the instructions are, by source line
    python -m bench.issue_model --only conv_ffn --configs                 every configuration of the Triton kernels
    python -m bench.issue_model --model t --size 768x1536                 the deployed model, image to mask
    python -m bench.issue_model --only msca_conv --check                  against the committed table
    python -m bench.issue_model --only msca_conv --write                  those rows of the table again

How to read a line: "instr/el" is warp instructions x 32 / elements (the specification says which elements count: hidden
ones for conv_ffn, pixels for upsample_argmax, classes x pixels for upsample_cross_entropy). The time is a lower bound
without stalls. Beside it stands what binds it: issue (4 instructions per cycle and multiprocessor), a pipe (alu, imad,
special), "warp" (the longest warp at one instruction per cycle), "shared" (passes over shared memory and L1), "tensor",
"L2" (traffic that L1 does not hold); barriers come on top. A low share of warps or few waves mean that latency, which
the model does not have, will show. No kernel can beat "floor". Nothing is measured: every line says "model". The
constants are in bench/issue_model/costs.py.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time

from bench.issue_model import deployed, report, table
from bench.issue_model.model import BLOCKS, Result
from bench.issue_model.plan import Plan
from bench.issue_model.record import Recorder
from bench.issue_model.workloads import folders, workloads


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.issue_model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", help="ops whose name contains this")
    parser.add_argument("--shape", default="", help="shapes whose name contains this, such as t1")
    parser.add_argument("--change", default="", help="sizes instead of the shapes' own: n=32 or h=256,w=512")
    parser.add_argument(
        "--targets", action="store_true", help="the shapes of the targets too: batch 32, 1024x2048"
    )
    parser.add_argument("--direction", choices=("forward", "backward"), help="one of them; both by default")
    parser.add_argument("--backend", choices=("cuda", "triton"), help="one of them; both by default")
    parser.add_argument("--dtype", default="bf16", help="bf16 (default), fp16, fp32; several with commas")
    parser.add_argument("--layout", default="nhwc", help="nhwc (default), nchw; several with commas")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help=f"blocks of a grid that run ({BLOCKS})")
    parser.add_argument("--configs", action="store_true", help="every configuration of the Triton kernels")
    parser.add_argument("--profile", action="store_true", help="instructions by source line and by kind")
    parser.add_argument(
        "--model", choices=("t", "s", "b", "l"), help="the deployed model instead of single ops"
    )
    parser.add_argument(
        "--size", default="", help="of the model's image, such as 768x1536; three sizes by default"
    )
    parser.add_argument(
        "--check", action="store_true", help="compare with the table; fails where a kernel grew by 3 %%"
    )
    parser.add_argument("--write", action="store_true", help="record the rows in bench/issue_model.json")
    arguments = parser.parse_args()
    return _models(arguments) if arguments.model else _ops(arguments)


def _models(arguments: argparse.Namespace) -> int:
    recorder = functools.cache(Recorder)
    sizes = [tuple(map(int, arguments.size.split("x")))] if arguments.size else deployed.SIZES
    worse = []
    for height, width in sizes:
        steps = deployed.steps(recorder, arguments.model, height, width, arguments.blocks)
        name = f"SegNeXt-{arguments.model.upper()} {height}x{width} batch 1 bf16 to the mask"
        print(report.deployed(name, steps), flush=True)
        key = f"segnext_{arguments.model} {height}x{width} batch 1 bf16 to the mask"
        worse += _recorded(arguments, key, table.row(steps, height * width))
    return _failed(worse)


def _ops(arguments: argparse.Namespace) -> int:
    recorder = functools.cache(lambda op: Recorder(folders(op)))
    chosen = workloads(
        arguments.only,
        (arguments.direction,) if arguments.direction else ("forward", "backward"),
        (arguments.backend,) if arguments.backend else ("cuda", "triton"),
        arguments.dtype.split(","), arguments.layout.split(","), arguments.shape,
        {key: int(value) for key, _, value in (part.partition("=") for part in arguments.change.split(",") if part)},
        arguments.targets,
    )  # fmt: skip
    worse = []
    for workload in chosen:
        began = time.perf_counter()
        plan = Plan(functools.partial(recorder, workload.op), arguments.blocks, arguments.configs)
        plan.run(workload.full_op, workload.backend, workload.make())
        print(report.text(workload, plan.steps, time.perf_counter() - began), flush=True)
        if arguments.profile:
            for result in {id(s.what): s.what for s in plan.steps if isinstance(s.what, Result)}.values():
                print(report.profile(result, workload.elements), flush=True)
        worse += _recorded(arguments, workload.name, table.row(plan.steps, workload.elements))
    return _failed(worse)


def _recorded(arguments: argparse.Namespace, name: str, row: table.Row) -> list[str]:
    """Compare a row with the table's, or write it; return what grew."""
    rows = table.read()
    if arguments.write:
        table.write({**rows, name: row})
    grown = table.grown(name, row, rows.get(name)) if arguments.check else None
    return [grown] if grown else []


def _failed(worse: list[str]) -> int:
    if worse:
        print("\n".join(worse), file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
