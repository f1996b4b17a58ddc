"""Compares a kernel with its op's definition in float64 on the op's own samples.

The bound is coarser than that of the tests: four times the error of PyTorch in the same dtype. Rounding never reaches
it; a wrong index, mask or barrier exceeds it by far. Two runs must also give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_leaves

from segnext_kernels.backend import KERNELS, Kernel, use_backend
from segnext_kernels.self_check.gradients import backward_arguments, cast
from segnext_kernels.self_check.verdicts import Subject, Verdict
from segnext_kernels.spec import all_specs

TIMES = 4  # times PyTorch's own error
UNITS = 8  # units of the dtype's eps, at the largest element
LARGEST_SAMPLE = 1 << 20  # elements per tensor
LAYOUTS = (torch.channels_last, torch.contiguous_format)


def verdict_on(subject: Subject, device: torch.device) -> Verdict:
    """Check whether the kernel agrees on every sample that it takes."""
    kernel = KERNELS[subject.op][subject.backend]
    definition = KERNELS[subject.op]["reference"].run
    checked = 0
    for name, args in _inputs(subject, device):
        if kernel.reason_against(*args) is not None:
            continue
        try:
            reason = _disagreement(kernel, definition, args)
        except Exception as error:
            if device.type == "cuda":
                torch.cuda.synchronize()  # raises if the device is lost: then the process ends, and the check with it
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        if reason:
            return Verdict(False, f"{name}: {reason}"[:300])
        checked += 1
    return Verdict(True) if checked else Verdict(False, "takes none of the self-check's inputs")


def _inputs(subject: Subject, device: torch.device) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Named arguments, in schema order of the op or of its backward.

    A user waits for them: one of the model's shapes, the first sample in both layouts, and the others once, the layouts
    by turns. Triton compiles for each kind of input: its kernels get the model's shape and the first sample alone.
    """
    spec = all_specs()[subject.op.removesuffix("_backward")]
    chosen = [(sample, LAYOUTS[0]) for sample in (*spec.samples[:1], *spec.model_shapes[:1])]
    if subject.backend != "triton":
        chosen += [(sample, LAYOUTS[(i + 1) % 2]) for i, sample in enumerate(spec.samples)]
    for sample, layout in chosen:
        args = sample.make(subject.dtype, device, layout)
        tensors = [t for t in tree_leaves(args) if isinstance(t, torch.Tensor)]
        if any(t.numel() == 0 or t.numel() > LARGEST_SAMPLE for t in tensors):
            continue
        if subject.op != spec.name:
            with use_backend("reference"):  # saved tensors come from the definition, not from a kernel
                args = backward_arguments(spec, args)
        yield f"{sample.name} {'nhwc' if layout is torch.channels_last else 'nchw'}", args


def _disagreement(kernel: Kernel, definition: Callable[..., Any], args: tuple[Any, ...]) -> str | None:
    with torch.no_grad():
        actual = _tensors(kernel.run(*args))
        again = _tensors(kernel.run(*args))
        if not actual[0].is_floating_point():
            return _label_disagreement(actual[0], again[0], *args)
        exact = _tensors(definition(*cast(args, torch.float64)))
        eager = _tensors(definition(*args))
        # fp16 overflows in eager PyTorch where a kernel does not
        is_finite = [bool(t.isfinite().all()) for t in eager]
        wide = eager if all(is_finite) else _tensors(definition(*cast(args, torch.float32)))
        usual = [t if ok else w for t, ok, w in zip(eager, is_finite, wide, strict=True)]
    for index, (a, b, e, plain) in enumerate(zip(actual, again, exact, usual, strict=True)):
        if not torch.equal(a.nan_to_num(), b.nan_to_num()):
            return f"result {index} is not the same twice"
        if a.numel() == 0:
            continue
        eps = torch.finfo(a.dtype).eps
        finite = e.isfinite()
        is_same = (a == e.to(a.dtype)) | (a.isnan() & e.isnan())
        if not is_same[~finite].all():  # such as the mean loss where every label is ignored
            return f"result {index} is finite where the definition is not, or NaN where it is infinite"
        if not finite.any():
            continue
        a, e, plain = a[finite].double(), e[finite], plain[finite].double()
        largest = e.abs().max().item()
        allowed = TIMES * (plain - e).abs().max().item() + UNITS * eps * largest
        error = (a - e).abs().max().item()
        if not error <= allowed:  # NaN does not agree
            return f"result {index} is off by {error:.2e} where {allowed:.2e} is allowed, of values up to {largest:.2e}"
    return None


def _label_disagreement(
    labels: torch.Tensor,
    again: torch.Tensor,
    logits: torch.Tensor,
    size: tuple[int, int],
    align_corners: bool = False,
) -> str | None:
    """Labels agree if their class is the largest up to rounding: of two equal classes, either is right."""
    if not torch.equal(labels, again):
        return "labels are not the same twice"
    full = F.interpolate(logits.double(), size=tuple(size), mode="bilinear", align_corners=align_corners)
    chosen = labels.long().unsqueeze(1)
    if (chosen >= full.shape[1]).any():
        return f"label {int(labels.max())} is no class of {full.shape[1]}"
    gap = (full.amax(1) - full.gather(1, chosen).squeeze(1)).max().item()
    allowed = 64 * torch.finfo(torch.float32).eps * full.abs().max().item()
    return None if gap <= allowed else f"a label's class is {gap:.2e} below the largest"


def _tensors(result: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
