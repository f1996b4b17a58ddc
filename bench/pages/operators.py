"""Writes docs/ops/: a page for each operator, from its docstring, its spec, its definition and the result files."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import segnext_kernels
from bench import report, results
from bench.newest import measured_on, newest_runs
from bench.pages.passes import boundary, passes
from bench.pages.svg import OTHER, OURS, THIRD, Bar, Group, bar_chart
from oracle.inputs import DTYPES
from segnext_kernels import backend
from segnext_kernels.spec import Spec, all_specs

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "ops"
TABLES = ("ops, forward", "ops, forward + backward")
MEASURED_ELSEWHERE = {
    "depthwise_sum": "[Large depthwise kernels](../depthwise.md#speed) has the times at the shapes of the published "
    "networks that use it."
}
EXPLAINED = {
    "msca_conv": "a = w₅ₓ₅ ∗ x + b,   y = a + Σₖ (wₖₓ₁ ∗ (w₁ₓₖ ∗ a + bₖ) + b′ₖ),   k = 7, 11, 21;   ∗ per channel",
    "depthwise_sum": "a = root ∗ x,   y = Σᵢ (wᵢₙ ∗ … ∗ wᵢ₁) ∗ a (+ a),   or side by side",
    "gated_pointwise": "y[o, p] = (Σᵢ W[o, i] m[i, p] + b[o]) · u[o, p]",
    "dwconv_gelu": "y = GELU(w₃ₓ₃ ∗ x + b),   GELU(z) = z Φ(z)",
    "conv_ffn": "y = W₂ GELU(w₃ₓ₃ ∗ (W₁ x + b₁) + b) + b₂ (+ x)",
    "group_norm_act": "y = max(0, γ (x − μ_g) / √(σ²_g + ε) + β + residual)",
    "msca_block": "u = GELU(W₁ x + b₁),   y = s · x + t + W₃ ((W₂ msca_conv(u) + b₂) · u) + b₃",
    "nmf2d": "C = softmax(XᵀB);   steps times: C ← C ∘ XᵀB / (C BᵀB + ε), B ← B ∘ X C / (B CᵀC + ε); C again;   B Cᵀ",
    "nmf2d_projected": "P (B Cᵀ) = (P B) Cᵀ,   B and C from nmf2d",
    "channel_norm": "y[c, p] = γ_c (x[c, p] − μ_p) / √(σ²_p + ε) + β_c,   μ, σ over the channels of a pixel",
    "pointwise": "y[o, p] = Σᵢ W[o, i] x[i, p] + b[o]",
    "conv2d_act": "y = act(W ∗ x + b),   act: none, ReLU or GELU",
    "resize_sum": "y = base + Σᵢ bilinear(tᵢ)",
    "upsample_argmax": "y[p] = argmax_k Σ_q bilinear(p, q) logits[k, q]",
    "upsample_cross_entropy": "loss = −Σ_p log softmax(bilinear(logits))[target_p, p] / labelled pixels, by default",
}


# where the public function takes its arguments in another form than the operator
EXAMPLES = {
    "depthwise_sum": """import torch
from torch import nn

from segnext_kernels import depthwise_sum

x = torch.randn(2, 8, 9, 6)
square = nn.Conv2d(8, 8, 5, padding=2, groups=8)
large = nn.Conv2d(8, 8, 7, padding=9, dilation=3, groups=8)
out = depthwise_sum(x, [[square, large], [square]])  # large(square(x)) + square(x)
print(out.shape)"""
}


def public(spec: Spec) -> Callable[..., Any]:
    """Return the function that `segnext_kernels` offers under the op's name."""
    function: Callable[..., Any] = getattr(segnext_kernels, spec.name)
    return function


def pages() -> dict[Path, str]:
    """Return all files of docs/ops: a page and a drawing for each operator, and the index."""
    specs = all_specs()
    files = {FOLDER / "index.md": _index(specs.values())}
    for spec in specs.values():
        files[FOLDER / f"{spec.name}.md"] = page(spec)
        files[FOLDER / f"{spec.name}.svg"] = drawing(spec)
    return files


def _index(specs: Any) -> str:
    lines = [["operator", "what it does", "gradient"]]
    for spec in specs:
        lines.append(
            [
                f"[`{spec.name}`]({spec.name}.md)",
                _summary(public(spec)),
                "yes" if spec.differentiable else "no",
            ]
        )
    return (
        "# Operators\n\n"
        "A page for each operator of `segnext_kernels`: what it computes, what is fused, who has a kernel for it, "
        "its floor and its measured times. Written by `make readme` from docstrings, specs and result files; "
        "[The kernels](../kernels.md) has what all of them promise.\n\n"
        f"{_table(lines)}\n\n"
        "`dw` is a depthwise convolution, `conv1x1` and `dw3x3` are `F.conv2d` with such weights; all keep the size.\n"
    )


def page(spec: Spec) -> str:
    """Return the page of an operator."""
    lines, where = [], f"segnext_kernels/ops/{spec.name}"
    sample = spec.model_shapes[0] if spec.model_shapes else spec.samples[0]
    before, after = totals(spec)
    lines += [f"# `{spec.name}`", "", _summary(public(spec)), "", "```text", EXPLAINED[spec.name], "```", ""]
    lines += [_body(public(spec)), "", "## What is fused", ""]
    lines += [f"![passes over memory of {spec.name}]({spec.name}.svg)", ""]
    lines += [
        f"At `{sample.name}`, float32, plain PyTorch moves {before / 1e6:.2f} MB. The operator's arguments and "
        f"results have {after / 1e6:.2f} MB. This is a count of the tensors of each ATen operator, read and written "
        f"once; caches are not modelled. {_arithmetic(spec)}",
        "",
        "## Example",
        "",
        "```python",
        EXAMPLES.get(spec.name) or _example(spec),
        "```",
        "",
        "## Kernels",
        "",
        _support(spec),
        "",
        "## Measured",
        "",
        _measured(spec),
        "",
        "## Where it is",
        "",
        f"Definition: [reference.py](../../{where}/reference.py). Operator: [op.py](../../{where}/op.py). "
        f"Promises: [spec.py](../../{where}/spec.py).{_kernels(spec)} "
        f"Tests: `pytest tests/contract -k {spec.name}`. Benchmark: `pytest bench --benchmark-only -k {spec.name}`.",
        "",
    ]
    return "\n".join(lines)


def _arithmetic(spec: Spec) -> str:
    flops = spec.flops(_args(spec))
    if flops:
        return f"Its convolutions and products take {flops / 1e6:,.0f} MFLOP."
    return "It has neither convolutions nor products, whose FLOPs are counted: its floor below is of bytes alone."


def totals(spec: Spec) -> tuple[int, int]:
    """Return the bytes that the definition moves, and those of the op's arguments and results."""
    args = _args(spec)
    return sum(p.read + p.written for p in passes(spec.reference, args)), sum(boundary(spec.reference, args))


def drawing(spec: Spec) -> str:
    """Return the drawing: the passes of plain PyTorch, and the one op."""
    args = _args(spec)
    found = passes(spec.reference, args)
    read, written = boundary(spec.reference, args)
    plain = [
        Bar(
            f"{one.name}{f' ×{one.count}' if one.count > 1 else ''}",
            [(one.read, OTHER), (one.written, THIRD)],
            f"{(one.read + one.written) / 1e6:.2f} MB",
        )
        for one in found
    ]
    count = sum(one.count for one in found)
    fused = Bar(spec.name, [(read, OURS), (written, THIRD)], f"{(read + written) / 1e6:.2f} MB", is_bold=True)
    sample = spec.model_shapes[0] if spec.model_shapes else spec.samples[0]
    title = f"{spec.name}: {count} passes over memory become one op"
    return bar_chart(
        title,
        [Group("plain PyTorch", plain), Group("fused", [fused])],
        [(OTHER, "read"), (OURS, "read by the op"), (THIRD, "written")],
        f"Bytes of the tensors of each ATen operator at {sample.name}, float32; a count, no measurement.",
    )


def equivalent(function: Callable[..., Any]) -> str:
    """Return what follows "Same as" in a docstring; without it, the paragraph below the summary."""
    paragraph = " ".join((inspect.getdoc(function) or "").split("\n\n")[1].split())
    same = re.search(r"Same as (``.+?``)", paragraph)
    return (same[1] if same else paragraph).replace("``", "`")


def _args(spec: Spec) -> tuple[Any, ...]:
    return (spec.model_shapes or spec.samples)[0].make()


def _summary(function: Callable[..., Any]) -> str:
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())


def _body(function: Callable[..., Any]) -> str:
    """Return the rest of a docstring as Markdown: paragraphs, and its sections as lists."""
    text = (inspect.getdoc(function) or "").partition("\n\n")[2]
    text = re.sub(r"``(.+?)``", r"`\1`", text, flags=re.DOTALL)
    out: list[str] = []
    for paragraph in re.split(r"\n(?=(?:Args|Returns|Raises):\n)|\n\n", text):
        head = re.match(r"(Args|Returns|Raises):\n", paragraph)
        if head:
            out.append(_section(head[1], paragraph[head.end() :]))
        elif re.match(r"(Returns|Raises): ", paragraph):
            name, _, rest = paragraph.partition(": ")
            out.append(f"**{name}:** {' '.join(rest.split())}")
        else:
            out.append(" ".join(paragraph.split()))
    return "\n\n".join(part for part in out if part)


def _section(title: str, text: str) -> str:
    items: list[str] = []
    for line in _dedented(text):
        if line.startswith(" ") and items or title == "Returns" and items:
            items[-1] += f" {line.strip()}"
        elif line.strip():
            items.append(line.strip())
    named = {"Args": "Arguments", "Returns": "Returns", "Raises": "Errors"}[title]
    shown = [
        re.sub(r"^(\*{0,2}\w+(?:, \w+)*):", r"`\1`:", item) if title != "Returns" else item for item in items
    ]
    return f"**{named}**\n\n" + "\n".join(f"- {item}" for item in shown)


def _dedented(text: str) -> list[str]:
    lines = text.splitlines()
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return [line[indent:] for line in lines]


def _example(spec: Spec) -> str:
    """Return code that calls the op on random arguments of the first sample's shapes."""
    args = spec.samples[0].make()
    names = list(inspect.signature(public(spec)).parameters)
    given = [
        f"    {name}={_shown(value)},"
        for name, value in zip(names, args, strict=False)
        if value is not None and not (isinstance(value, list) and not value)
    ]
    return "\n".join(
        [
            "import torch",
            "",
            f"from segnext_kernels import {spec.name}",
            "",
            f"out = {spec.name}(",
            *given,
            ")",
            "print(out.shape if isinstance(out, torch.Tensor) else [part.shape for part in out])",
        ]
    )


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        shape = ", ".join(map(str, value.shape))
        if not value.is_floating_point():
            return f"torch.randint({int(value[value != 255].max()) + 1}, ({shape},))"
        return f"torch.rand({shape})" if bool((value >= 0).all()) else f"torch.randn({shape})"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _support(spec: Spec) -> str:
    lines = [["direction", *backend.BACKENDS]]
    names = {"forward": spec.name, **({"backward": f"{spec.name}_backward"} if spec.differentiable else {})}
    for direction, op in names.items():
        kernels = backend.KERNELS[op]
        taken = {name: kernel.dtypes or tuple(DTYPES.values()) for name, kernel in kernels.items()}
        lines.append(
            [
                direction,
                *(
                    " ".join(short for short, dtype in DTYPES.items() if dtype in taken.get(name, ())) or "-"
                    for name in backend.BACKENDS
                ),
            ]
        )
    gradient = (
        f"Gradients for {', '.join(f'`{name}`' for name in spec.differentiable)}."
        if spec.differentiable
        else "It has no gradient."
    )
    return f"{_table(lines)}\n\n{gradient} Tensors are contiguous, channels_last, or strided views of either."


def _measured(spec: Spec) -> str:
    """Return the newest times of each machine."""
    parts = []
    for _, run in newest_runs():
        for table in TABLES:
            rows = [row for row in run.rows if row.table == table and row.name.split(" ")[0] == spec.name]
            if not rows:
                continue
            lines = [["workload", "ms", "PyTorch ms", "times as fast", "of the floor"]]
            for row in rows:
                share = row.roofline_share(run.ceilings)
                peer = row.times[row.best_peer].median
                lines.append(
                    [
                        row.name.partition(" ")[2],
                        report.number(row.times[results.OURS].median),
                        "-" if row.best_peer == results.OURS else report.number(peer),
                        "-" if row.best_peer == results.OURS else f"{row.ratio:.2f}",
                        "-" if share is None else f"{100 * share:.0f} %",
                    ]
                )
            parts.append(f"{measured_on(run)}, {table.partition(', ')[2]}:\n\n{report.aligned(lines)}")
    if not parts:
        return MEASURED_ELSEWHERE.get(spec.name, "Not measured yet.")
    note = (
        "PyTorch is the faster of eager and eager channels_last. The floor is the larger of two times: the FLOPs at "
        "the machine's measured arithmetic, and the bytes of arguments and results at its measured bandwidth "
        "([how](../benchmarks.md#how-to-read-the-tables))."
    )
    return "\n\n".join([*parts, note])


def _kernels(spec: Spec) -> str:
    found = []
    csrc = ROOT / "csrc" / "ops" / spec.name
    for kind, title in (("_cpu.cpp", "CPU"), ("_cuda.cu", "CUDA")):
        if (csrc / f"{spec.name}{kind}").exists():
            found.append(f"[{title}](../../csrc/ops/{spec.name}/{spec.name}{kind})")
    folder = ROOT / "segnext_kernels" / "ops" / spec.name
    if not found and (folder / "compiled.py").exists():  # which names another op's kernels
        found.append(f"[compiled](../../segnext_kernels/ops/{spec.name}/compiled.py)")
    if (folder / "triton_kernels.py").exists():
        found.append(f"[Triton](../../segnext_kernels/ops/{spec.name}/triton_kernels.py)")
    return f" Kernels: {', '.join(found)}." if found else ""


def _table(lines: Sequence[Sequence[str]]) -> str:
    head, *rows = lines
    shown = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in shown)
