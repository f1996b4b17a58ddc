"""The tables of README.md: `python -m bench.readme` writes them again, `--check` only compares.

They come from the code, the shipped weights and the files under bench/results. Nothing is measured here, so
every machine writes the same.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from bench import report, results
from oracle.gradients import Recorder, with_gradient
from oracle.inputs import DTYPES, LAYOUTS
from segnext.measure.costs import count_costs
from segnext.models import build, list_models
from segnext.weights.catalogue import shipped
from segnext.weights.loading import read_checkpoint
from segnext_kernels import backend, native
from segnext_kernels.spec import Spec, all_specs
from segnext_kernels.triton import launch

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DEVICES = {"cuda": "cuda", "triton": "cuda", "cpu": "cpu", "reference": "cpu"}


def models() -> str:
    """Parameters and multiply-adds of every SegNeXt, and the encoder that each is built on."""
    header = [
        "model",
        "parameters",
        "512x512, 150 classes",
        "1024x2048, 19 classes",
        "its encoder",
        "parameters",
    ]
    lines = [header]
    for name in list_models("segnext*"):
        encoder = name.replace("segnext", "mscan")
        with torch.device("meta"):  # shapes suffice
            network, cityscapes, classifier = build(name), build(name, num_classes=19), build(encoder)
        lines.append(
            [
                f"`{name}`",
                f"{_parameters(network):,}",
                f"{count_costs(network, 512, 512).multiply_adds / 1e9:.1f} G",
                f"{count_costs(cityscapes, 1024, 2048).multiply_adds / 1e9:.1f} G",
                f"`{encoder}`",
                f"{_parameters(classifier):,}",
            ]
        )
    return report.aligned(lines)


def operators() -> str:
    """Every op, and its equivalent in PyTorch as its docstring tells it."""
    lines = [["op", "the same in PyTorch", "gradient"]]
    for spec in all_specs().values():
        link = f"[`{spec.name}`](segnext_kernels/ops/{spec.name}/reference.py)"
        lines.append([link, equivalent(spec.public), "yes" if spec.differentiable else "no"])
    return _left_aligned(lines)


def equivalent(function: Callable[..., Any]) -> str:
    """What follows "Same as" in a docstring; without it, the paragraph below the summary."""
    paragraph = " ".join((inspect.getdoc(function) or "").split("\n\n")[1].split())
    same = re.search(r"Same as (``.+?``)", paragraph)
    return (same[1] if same else paragraph).replace("``", "`")


def support() -> str:
    """Op x direction x backend: the dtypes that have a kernel, whether or not this machine can run it.

    Raises:
        RuntimeError: the compiled library is missing; some kernels ask it what they take.
    """
    if native._C is None:
        raise RuntimeError(f"bench.readme: {native.missing('cpu')}")
    lines = [["op", "direction", *backend.BACKENDS]]
    whole = {
        "missing": lambda part: None,
        "architecture_gap": lambda device: None,
        "_C": _WholeLibrary(native._C),
    }
    gpu = {"missing": lambda: None, "_capability_gap": lambda device: None}
    with mock.patch.multiple(native, **whole), mock.patch.multiple(launch, **gpu):
        for name, spec in all_specs().items():
            lines.append([f"`{name}`", "forward", *_dtypes(name, _forward_args(spec))])
            if spec.differentiable:
                lines.append(["", "backward", *_dtypes(f"{name}_backward", _backward_args(spec))])
    return _left_aligned(lines)


class _WholeLibrary:
    """The compiled library as if built in full: the limits and questions of a missing part let every size pass."""

    def __init__(self, built: Any) -> None:
        self._built = built

    def __getattr__(self, name: str) -> Any:
        return getattr(self._built, name, math.inf if name.isupper() else lambda *sizes: True)


Arguments = dict[str, list[tuple[Any, ...]]]  # dtype -> arguments in several layouts


def _forward_args(spec: Spec) -> Arguments:
    return {
        name: [spec.samples[0].make(dtype, layout=layout) for layout in LAYOUTS.values()]
        for name, dtype in DTYPES.items()
    }


def _backward_args(spec: Spec) -> Arguments:
    """What the backward op gets when autograd calls it."""
    op = getattr(torch.ops.segnext_kernels, f"{spec.name}_backward").default
    recorded: Arguments = {}
    for name, arguments in _forward_args(spec).items():
        with Recorder(op) as recorder, backend.use_backend("reference"):
            for args in arguments:
                args, leaves = with_gradient(spec, args)
                out = spec.call(*args)
                torch.autograd.grad(out, leaves, torch.ones_like(out))
        recorded[name] = recorder.calls
    return recorded


def _dtypes(op: str, arguments: Arguments) -> list[str]:
    """For each backend the dtypes that its kernel takes in some layout; "-" without a kernel."""
    cells = []
    for name in backend.BACKENDS:
        kernel = backend.KERNELS[op].get(name)
        taken = [
            dtype
            for dtype, calls in arguments.items()
            if kernel is not None
            and any(kernel.refuses(*_fake(args, DEVICES[name])) is None for args in calls)
        ]
        cells.append(" ".join(taken) or "-")
    return cells


def _fake(args: tuple[Any, ...], device: str) -> tuple[Any, ...]:
    """The arguments as tensors without data on a device that need not be there."""

    def copy(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)

    with FakeTensorMode():
        return tree_map_only(torch.Tensor, copy, args)


def weights() -> str:
    """Accuracy of the shipped weights, as their metadata tells it."""
    parts = []
    for name in shipped():
        config = read_checkpoint(name).config
        metrics = config["metrics"]
        size = (ROOT / f"segnext/weights/{name}.safetensors").stat().st_size / 1e6
        parts.append(
            f"`{name}` ([card](segnext/weights/{name}.md), {size:.1f} MB): {config['architecture']}, "
            f"{len(config['classes'])} classes. On {metrics['images']} validation images: "
            f"mIoU **{metrics['miou']:.3f}**, pixel accuracy {metrics['pixel_accuracy']:.3f}."
        )
        iou = [
            [label, "-" if value is None else f"{value:.3f}"] for label, value in metrics["class_iou"].items()
        ]
        parts.append(report.aligned([["class", "IoU"], *iou]))
    return "\n\n".join(parts) or "No weights are shipped yet."


def speed() -> str:
    """The newest run of each machine; what was not measured is said."""
    parts = []
    on_gpu = False
    for folder in sorted({path.parent for path in results.FOLDER.glob("*/*.json")}):
        path = max(folder.glob("*.json"), key=lambda path: str(results.read(path).machine["date"]))
        run = results.read(path)
        machine = run.machine
        on_gpu |= machine["device"] != machine["cpu"]
        where = path.relative_to(ROOT).as_posix()
        parts.append(
            f"**{machine['device']}**, {machine['threads']} threads, {machine['date'][:10]}, "
            f"torch {machine['versions']['torch']}, commit {machine['commit']} ([all numbers]({where})):"
        )
        for title, rows in run.tables().items():
            table = report.table(rows, run.ceilings)
            plot = report.plot_path(path, title)
            drawn = f"\n\n![{title}]({plot.relative_to(ROOT).as_posix()})" if plot.exists() else ""
            if title.startswith("models, fp32"):
                parts.append(f"{title}:{drawn}\n\n{table}")
            elif title.startswith("ops"):
                parts.append(f"<details><summary>{title}</summary>\n\n{table}{drawn}\n\n</details>")
            else:
                parts.append(f"{title}:\n\n{table}")
        if fresh := report.fresh_table(run.rows):
            parts.append(f"{report.FRESH_TITLE}:\n\n{fresh}")
        parts += training_curves(folder)
    if not parts:
        parts.append("CPU: not yet measured. `make bench` measures yours.")
    if not on_gpu:
        parts.append("GPU: not yet measured on a GPU.")
    return "\n\n".join(parts)


def _date(path: Path) -> str:
    return str(json.loads(path.read_text())["machine"]["date"])


def training_curves(folder: Path) -> list[str]:
    """What bench.loss_curve found last on the machine of this folder; nothing where it never ran."""
    path = max(folder.glob("loss_curve/*.json"), default=None, key=_date)
    if path is None:
        return []
    found = json.loads(path.read_text())
    settings, where = found["settings"], path.relative_to(ROOT).as_posix()
    picture = path.with_suffix(".png").relative_to(ROOT).as_posix()
    return [
        f"training, the losses of {settings['steps']} steps on CamVid ({settings['batch']} crops of "
        f"{settings['crop']}x{settings['crop']}): ours are never further than {found['largest_gap']:.1e} from eager "
        f"PyTorch's; eager with another number of threads, {found['largest_noise']:.1e} ([numbers]({where})):\n\n"
        f"![losses of training steps]({picture})"
    ]


PARTS: dict[str, Callable[[], str]] = {
    "models": models,
    "operators": operators,
    "support": support,
    "weights": weights,
    "speed": speed,
}


def updated(text: str) -> str:
    """README.md's text with every part written anew between its two markers.

    Raises:
        ValueError: a part has no place.
    """
    for name, make in PARTS.items():
        start, end = f"<!-- {name}, by `make readme` -->\n", f"<!-- end of {name} -->"
        before, found_start, rest = text.partition(start)
        _, found_end, after = rest.partition(end)
        if not (found_start and found_end):
            raise ValueError(
                f"README.md: part {name} must stand between {start.strip()} and {end}, found no such place"
            )
        text = f"{before}{start}\n{make()}\n\n{end}{after}"
    return text


def _parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _left_aligned(lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(lines[0])
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m bench.readme`."""
    parser = argparse.ArgumentParser(prog="python -m bench.readme", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 where the README is out of date"
    )
    options = parser.parse_args(arguments)
    old = README.read_text(encoding="utf-8")
    new = updated(old)
    if options.check:
        parser.exit(
            0 if new == old else 1, "" if new == old else "README.md is out of date; run `make readme`\n"
        )
    README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
