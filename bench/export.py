"""Measures exported files beside plain PyTorch's own export: `python -m bench.export --data FOLDER`.

Speed: the file of `segnext export`, the ONNX of the same network exported from plain PyTorch, and ours take turns in
ONNX Runtime and OpenVINO. Accuracy, with `--data`: mIoU of every format on CamVid's validation images with the shipped
weights, and the share of pixels that are those of `segnext predict`. It writes a JSON under
bench/results/<machine>/export/; `make readme` makes docs/export.md of it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from bench import machine, report, results, roofline
from bench.results import OURS, Row, Timing
from segnext import create_model, deploy, export_model
from segnext.data.config import load_data_config
from segnext.evaluation.exported import compare_on_labels
from segnext.export.exporting import files_of
from segnext.export.targets import TARGETS
from segnext.measure import agreement, runtimes
from segnext.measure.timing import interleaved, turn
from segnext.models import SegNeXt
from segnext.predict.inference import Inference

SPEED, ACCURACY = "logits of an exported file, ms", "masks on CamVid val"
SIDE, CLASSES = 512, 150
HEIGHT, WIDTH = 720, 960  # CamVid's
TOLERANCE = 1e-4
PLAIN = {"onnx": "ONNX Runtime, plain export", "openvino": "OpenVINO, plain export"}
EXPORTED = {"onnx": "ONNX Runtime, segnext export", "openvino": "OpenVINO, segnext export"}
# what is compared on labelled images: format, dtype
KINDS = (
    ("onnx", "float32"),
    ("onnx", "float16"),
    ("openvino", "float32"),
    ("openvino", "float16"),
    ("openvino", "int8"),
    ("pt2", "float32"),
    ("torchscript", "float32"),
    ("aoti", "float32"),
)


def speed(size: str, seconds: float) -> Row:
    """Time a size with random weights; every variant's logits are checked first."""
    torch.manual_seed(0)
    model = create_model(f"segnext_{size}", num_classes=CLASSES).eval()
    assert isinstance(model, SegNeXt)
    images = torch.randn(1, 3, SIDE, SIDE)
    plain = runtimes.plain(model, images)
    graph = runtimes.export_onnx(plain, images)
    runs: dict[str, runtimes.Run] = {OURS: partial(deploy(model).forward_logits, images)}
    runs[PLAIN["onnx"]] = runtimes.onnx_runtime(graph, images)
    runs[PLAIN["openvino"]] = runtimes.openvino(graph, images)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for target, name in EXPORTED.items():
            path = Path(folder) / f"m{TARGETS[target].suffix}"
            network = export_model(model, path, target, height=SIDE, width=SIDE)
            assert network is not None
            runs[name] = partial(network.forward_logits, images)
        oracle = plain(images)
        for name, run in runs.items():
            if wrong := agreement.disagreement(run(), oracle, TOLERANCE):
                raise ValueError(f"bench.export: {name}: {wrong}")
        times = interleaved({name: turn(run) for name, run in runs.items()}, seconds, least=5, most=100)
    timings = {name: Timing.of(each) for name, each in times.items()}
    ratios = {target: timings[EXPORTED[target]].median / timings[PLAIN[target]].median for target in EXPORTED}
    return Row(SPEED, f"{size.upper()} 1x{SIDE}x{SIDE}", timings, notes={"of plain export": ratios})


def accuracy(target: str, dtype: str, root: Path) -> Row:
    """Compare one format with the shipped weights on all of CamVid val; a file that fails its rule gets no row."""
    model = create_model(weights="camvid").eval()
    assert isinstance(model, SegNeXt)
    config = load_data_config("camvid", root)
    train = [image for image, _ in config.open("train").pairs]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"m{TARGETS[target].suffix}"
        network = export_model(
            model,
            path,
            target,
            dtype=dtype,
            height=HEIGHT,
            width=WIDTH,
            calibrate=train if dtype == "int8" else None,
        )
        assert network is not None
        found = compare_on_labels(deploy(model), network, config.open("val"), Inference())
        megabytes = sum(file.stat().st_size for file in files_of(path)) / 1e6
    if (failure := found.failure(dtype)) is not None:
        raise ValueError(f"bench.export: {target}, {dtype}: {failure}")
    assert found.miou is not None
    notes = {
        "equal": found.share,
        "least": found.worst[1],
        "images": found.images,
        "mIoU": found.miou[1],
        "mIoU of the weights": found.miou[0],
        "MB": megabytes,
        "runtime": network.runtime,
    }
    return Row(ACCURACY, f"{target}, {dtype}", {}, notes=notes)


def masks(run: results.Results) -> str:
    """Return the table of the masks, in docs/export.md."""
    compared = [row for row in run.rows if row.table == ACCURACY]
    lines = [["file", "runtime", "MB", "mIoU %", "equal pixels %", "least of an image %"]]
    lines += [
        [
            row.name,
            row.notes["runtime"],
            f"{row.notes['MB']:.1f}",
            f"{100 * row.notes['mIoU']:.2f}",
            f"{100 * row.notes['equal']:.4f}",
            f"{100 * row.notes['least']:.3f}",
        ]
        for row in compared
    ]
    notes = compared[0].notes
    return (
        f"{report.aligned(lines)}\n\nOf {notes['images']} validation images of CamVid at {WIDTH}x{HEIGHT}; the weights "
        f"themselves reach {100 * notes['mIoU of the weights']:.2f} %."
    )


def speeds(run: results.Results) -> str:
    """Return the table of the times, in docs/export.md."""
    timed = [row for row in run.rows if row.table == SPEED]
    names = [OURS, *(one[target] for target in EXPORTED for one in (PLAIN, EXPORTED))]
    lines = [["to logits, ms", *names]]
    lines += [[row.name, *(f"{row.times[name].median:.1f}" for name in names)] for row in timed]
    shares = [
        f"{row.name.split()[0]} {row.notes['of plain export'][target]:.2f} in {name.split(',')[0]}"
        for row in timed
        for target, name in EXPORTED.items()
    ]
    return f"{report.aligned(lines)}\n\nOur file's time over the plain export's: {', '.join(shares)}."


TABLES = {ACCURACY: masks, SPEED: speeds}


def tables(run: results.Results) -> str:
    """Return those tables that the run has rows of."""
    return "\n\n".join(
        table(run) for name, table in TABLES.items() if any(row.table == name for row in run.rows)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m bench.export`."""
    parser = argparse.ArgumentParser(prog="python -m bench.export", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of CamVid; without it, no masks are compared")
    parser.add_argument("--sizes", default="t,b", help="that are timed; may be empty (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=40.0, help="per size (default: %(default)s)")
    parser.add_argument(
        "--results", type=Path, default=results.FOLDER, help="folder of the machines' results"
    )
    options = parser.parse_args(arguments)
    host, ceilings = machine.describe(), roofline.measure()
    rows = [speed(size, options.seconds) for size in options.sizes.split(",") if size]
    without_number: dict[str, str] = {}
    path = None
    for target, dtype in KINDS if options.data else ():
        try:
            rows.append(accuracy(target, dtype, options.data))
            print(rows[-1].name, rows[-1].notes, flush=True)
        except ImportError as error:
            without_number[f"{target}, {dtype}"] = str(error)
        run = results.Results(host, ceilings, rows, without_number)
        if path is None:
            path = results.write(run, options.results, "export")
        else:
            results.save(run, path)  # after each format, so that an interruption loses one
    if path is None:
        run = results.Results(host, ceilings, rows, without_number)
        path = results.write(run, options.results, "export")
    print(tables(run))
    print(f"\nstored in {path}")


if __name__ == "__main__":
    main()
