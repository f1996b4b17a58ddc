"""Tests the issue model: a cheap part of its table, results of ops by their machine code, and what it plans."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

from oracle.accuracy import assert_accurate
from oracle.gradients import cast
from oracle.nvcc import NVCC
from segnext_kernels import use_backend
from segnext_kernels.kernel import KERNELS
from segnext_kernels.self_check.gradients import backward_arguments
from tests import summary

pytest.importorskip("triton", reason="the wheel carries nvdisasm")
pytestmark = [pytest.mark.proof, pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")]

from bench.issue_model import report, table  # noqa: E402
from bench.issue_model.model import Result  # noqa: E402
from bench.issue_model.plan import Foreign, Plan  # noqa: E402
from bench.issue_model.record import Recorder  # noqa: E402
from bench.issue_model.workloads import workloads  # noqa: E402
from segnext_kernels.spec import Sample, all_specs  # noqa: E402

# These compile in half a minute on two cores. `python -m bench.issue_model --check` compares the whole table.
FOLDERS = ("dwconv_gelu", "msca_conv", "upsample_argmax")
CHECKED = (
    "dwconv_gelu forward cuda t1",
    "dwconv_gelu backward cuda t4",
    "msca_conv forward cuda t1",
    "msca_conv forward cuda t3",
    "msca_conv backward cuda t4",
    "upsample_argmax forward cuda cityscapes",
    "conv_ffn forward triton t1",
    "conv_ffn forward triton t3",
    "gated_pointwise forward triton t1",
    "msca_block forward triton t2",
)
ALL_BLOCKS = 1 << 20


@functools.cache
def recorder() -> Recorder:
    """Return the recorder of the kernels that are compiled here."""
    return Recorder(FOLDERS)


@pytest.mark.parametrize("what", CHECKED)
def test_no_kernel_grew_unnoticed(what: str) -> None:
    if table.written_with() != table.compilers():
        pytest.skip(f"the table is of {table.written_with()}, this is {table.compilers()}")
    op, direction, backend, shape = what.split()
    rows = table.read()
    for workload in workloads(op, (direction,), (backend,), shape=shape):
        plan = Plan(recorder)
        plan.run(workload.full_op, workload.backend, workload.make())
        worse = table.grown(workload.name, table.row(plan.steps, workload.elements), rows.get(workload.name))
        assert worse is None, worse
        summary.count("calls whose kernels issue no more than the model's table says")


SAMPLES = [
    pytest.param(op, sample, dtype, layout, id=f"{op}-{sample.name}-{name}")
    for op in FOLDERS
    for sample in all_specs()[op].samples[:3]
    for name, dtype, layout in (
        ("bf16-nhwc", torch.bfloat16, torch.channels_last),
        ("fp32-nchw", torch.float32, torch.contiguous_format),
    )
]


@pytest.mark.parametrize(("op", "sample", "dtype", "layout"), SAMPLES)
def test_machine_code_gives_what_the_definition_says(
    op: str, sample: Sample, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    """The machine code that nvcc made runs on the CPU, so not only the source is tested."""
    spec, args = all_specs()[op], sample.make(dtype, layout=layout)
    out = Plan(recorder, ALL_BLOCKS).run(op, "cuda", args)
    if out.is_floating_point():
        assert_accurate(out, spec.reference(*cast(args, torch.float64)), spec.reference(*args))
    else:
        assert torch.equal(out, spec.reference(*args))
    summary.count("results of ops by their sm_90 machine code, run on the CPU")


TRITON = [op for name in all_specs() for op in (name, f"{name}_backward") if "triton" in KERNELS.get(op, {})]
# Enough rows for several tiles of the kernels that loop over rows.
TALLER = {"dwconv_gelu": {"h": 35}}


@pytest.mark.parametrize("full_op", TRITON)
def test_machine_code_of_tritons_compiler_gives_what_the_definition_says(full_op: str) -> None:
    """The compiler is not its interpreter: the same source once gave right gradients in one, wrong ones in the other.

    float32, because the executor counts what wgmma issues and does not compute it.
    """
    name = full_op.removesuffix("_backward")
    spec = all_specs()[name]
    args = spec.samples[0].make(layout=torch.channels_last, **TALLER.get(name, {}))
    if full_op != name:
        with use_backend("reference"):
            args = backward_arguments(spec, args)
    out = Plan(recorder, ALL_BLOCKS, backends=("triton",)).run(full_op, "triton", args)
    definition = KERNELS[full_op]["reference"].run
    results = (out, definition(*cast(args, torch.float64)), definition(*args))
    for actual, exact, eager in zip(*map(tree_leaves, results), strict=True):
        if actual.is_floating_point():
            assert_accurate(actual, exact, eager)
        else:
            assert torch.equal(actual, exact)
    summary.count("results of Triton kernels by their sm_90 machine code, run on the CPU")


def test_the_same_twice() -> None:
    (workload,) = workloads("msca_conv", ("forward",), ("cuda",), shape="t4")
    rows = []
    for _ in range(2):
        plan = Plan(recorder)
        plan.run(workload.full_op, workload.backend, workload.make())
        rows.append(table.row(plan.steps, workload.elements))
    assert rows[0] == rows[1]


def test_memory_that_blocks_left_unrun_did_not_fill_is_zero() -> None:
    was = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # PyTorch fills with NaN what it would leave unfilled
    try:
        for make in (lambda: torch.empty(64), lambda: torch.empty_like(torch.ones(64))):
            assert make().isnan().all()
            assert torch.equal(Plan(recorder).call(make), torch.zeros(64))
    finally:
        torch.use_deterministic_algorithms(was)


def test_an_op_inside_an_op_takes_the_kernel_that_auto_would() -> None:
    (workload,) = workloads("msca_block", ("forward",), ("triton",), shape="t3")
    plan = Plan(recorder)
    out = plan.run(workload.full_op, workload.backend, workload.make())
    assert out.device.type == "meta" and out.is_contiguous(memory_format=torch.channels_last)
    assert [step.op for step in plan.steps] == ["msca_block", "msca_block/msca_conv", "msca_block"]
    assert all(isinstance(step.what, Result) for step in plan.steps)


def test_functions_of_pytorch_are_counted_and_views_are_not() -> None:
    def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.conv2d(x, weight, bias)
        return torch.relu(y).permute(0, 2, 3, 1).flatten(1)[:, :5]

    plan = Plan(recorder)
    x = torch.empty(1, 8, 16, 16, device="meta").contiguous(memory_format=torch.channels_last)
    plan.call(run, x, torch.empty(4, 8, 3, 3, device="meta"), torch.empty(4, device="meta"))
    found: list[Any] = [step.what for step in plan.steps]
    assert all(isinstance(what, Foreign) for what in found)
    assert [what.launches for what in found][:2] == [2, 1]  # the bias is a kernel of its own
    assert found[0].flops == 2 * 14 * 14 * 4 * 8 * 9
    assert report.launches(plan.steps) == sum(what.launches for what in found)


def test_the_table_says_what_grew_and_how_to_write_it_again() -> None:
    row = {"launches": 1, "instr/el": 100.0, "us": 10.0, "kernels": {}}
    assert table.grown("op forward", row, row) is None
    assert table.grown("op forward", {**row, "us": 10.29}, row) is None
    text = table.grown("op forward", {**row, "instr/el": 104.0}, row)
    assert text is not None and "instr/el 100 -> 104 (+4.0%)" in text
    assert "python -m bench.issue_model --only op --write" in text
    assert "not in bench/issue_model.json" in str(table.grown("op forward", row, None))
