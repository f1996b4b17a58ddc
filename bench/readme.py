"""Writes the tables of README.md and docs/: `python -m bench.readme` renews them, `--check` only compares.

They come from the code, the shipped weights and the files under bench/results. Nothing is measured here, so
every machine writes the same.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bench import ablation, cards, cpp_runtime, export, film, guide, patching, report, results, small_calls
from bench.campaign import modelled
from bench.campaign.models import EAGER, TABLE
from bench.newest import date_of, is_on_gpu, is_shown, measured_on, newest_runs
from bench.pages import arrows, operators, performance, strip
from bench.rivals import page as rivals
from bench.serve import tables as serving
from oracle.inputs import DTYPES
from segnext.measure.costs import count_costs
from segnext.models import build, list_models
from segnext.weights.catalogue import shipped
from segnext.weights.published import list_published, load_published
from segnext.weights.reading import read_checkpoint
from segnext_kernels import backend
from segnext_kernels.spec import all_specs

ON_GPU = ("T 1x768x1536", "T 32x512x512", "B 32x512x512")  # enough for the README
ROOT = Path(__file__).resolve().parent.parent


def models() -> str:
    """Return parameters and multiply-adds of every SegNeXt, and the encoder that each is built on."""
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


def support() -> str:
    """Return the dtypes of each op, direction and backend that have a kernel, even if this machine cannot run it."""
    lines = [["op", "direction", *backend.BACKENDS]]
    for name, spec in all_specs().items():
        lines.append([f"`{name}`", "forward", *_dtypes(name)])
        if spec.differentiable:
            lines.append(["", "backward", *_dtypes(f"{name}_backward")])
    return _left_aligned(lines)


def _dtypes(op: str) -> list[str]:
    """Return the dtypes of each backend's kernel; "-" if it has none."""
    kernels = backend.KERNELS[op]
    taken = {name: kernel.dtypes or tuple(DTYPES.values()) for name, kernel in kernels.items()}
    return [
        " ".join(short for short, dtype in DTYPES.items() if dtype in taken.get(name, ())) or "-"
        for name in backend.BACKENDS
    ]


def weights() -> str:
    """Return the accuracy of the shipped weights, from their metadata."""
    lines = []
    for name in shipped():
        config = read_checkpoint(name).config
        metrics = config["metrics"]
        size = (ROOT / f"segnext/weights/{name}.safetensors").stat().st_size / 1e6
        lines.append(
            f"Shipped weights: `{name}` ([card](segnext/weights/{name}.md), {size:.1f} MB), {config['architecture']}, "
            f"{len(config['classes'])} classes. On {metrics['images']} validation images: "
            f"mIoU **{metrics['miou']:.3f}**, pixel accuracy {metrics['pixel_accuracy']:.3f}."
        )
    return "\n\n".join(lines) or "No weights are shipped yet."


def published() -> str:
    """Return the weights that are downloaded by name, from the registry."""
    lines = [["name", "architecture", "data", "classes", "mIoU", "at several scales", "from", "file"]]
    for entry in map(load_published, list_published()):
        miou = ["-", "-"] if entry.miou is None else [f"{value:.2f}" for value in entry.miou]
        row = [f"`{entry.name}`", f"`{entry.architecture}`", entry.data, str(entry.num_classes), *miou]
        lines.append([*row, f"[{entry.origin}]({entry.home})", f"[{entry.file}]({entry.url})"])
    return _left_aligned(lines)


def terms() -> str:
    """Return licence, terms, protocol and preprocessing of each group of published weights."""
    parts = {}
    for entry in map(load_published, list_published()):
        values = ", ".join(f"{name} {value}" for name, value in entry.preprocessing.items())
        measured = f" Measured on {entry.protocol}. NMF rank {entry.rank}." if entry.protocol else ""
        parts[entry.group] = f"- `{entry.group}`: {entry.terms}{measured} Input: {values}."
    return "\n".join(parts.values())


def exchanged() -> str:
    """Return what exchanging weights with the real packages of other code bases gave, from `make interop`."""
    rows = json.loads((results.FOLDER / "interop.json").read_text(encoding="utf-8"))["rows"]
    lines = [["code base", "model", "logits at 1/8", "at full size", "pixels of another class", "and back"]]
    for row in rows:
        back = "-" if row["back"] is None else "equal" if row["back"] == 0 else f"{row['back']:.1e}"
        numbers = [f"{row['logits']:.1e}", f"{row['full']:.1e}", f"{row['mask']:.2%}", back]
        lines.append([row["peer"], row["model"], *numbers])
    return _left_aligned(lines)


def headline() -> str:
    """Return one sentence: our time from an image to its mask, beside the fastest other runtime."""
    for _, run in newest_runs():
        for row in run.rows:
            if row.table == "models, fp32" and row.name.startswith("T 512x512") and is_shown(row):
                ours = report.number(row.times[results.OURS].median)
                return (
                    f"SegNeXt-T turns an image of 512x512 into its mask in {ours} ms on "
                    f"{run.machine['threads']} threads of a CPU ({run.machine['device']}): **{row.ratio:.1f} times "
                    f"as fast as {row.best_peer}**, the fastest of the other runtimes there."
                )
    return "Speed: not yet measured; `make bench` measures your machine."


def speed() -> str:
    """Return the newest run of each CPU in a few rows: our time, and the fastest peer's over it."""
    runs = [run for _, run in newest_runs() if not is_on_gpu(run)]
    if not runs:
        return "Not yet measured."
    by_workload: dict[str, list[str]] = {}
    for column, run in enumerate(runs):
        for row in filter(is_shown, run.rows):
            name = f"{row.name.removesuffix(', to the mask')}, {row.table.rpartition(', ')[2]}"
            ours = report.number(row.times[results.OURS].median)
            cells = by_workload.setdefault(name, ["-"] * len(runs))
            cells[column] = f"{ours}, {row.ratio:.2f}x {row.best_peer}"
    header = ["workload", *(run.machine["device"] for run in runs)]
    table = _left_aligned([header, *([name, *cells] for name, cells in by_workload.items())])
    return "\n\n".join([table, *(f"{measured_on(run)}." for run in runs)])


def gpu_speed() -> str:
    """Return one sentence for the newest run of each GPU: images per second, and the fastest peer's time over ours."""
    sentences = []
    by_device: dict[str, results.Results] = {}
    for run in (run for _, run in newest_runs() if is_on_gpu(run)):
        by_device.setdefault(run.machine["device"], run)
    for run in by_device.values():
        rows = [row for row in run.rows if row.table == TABLE and row.name.startswith(ON_GPU)]
        peers = " or ".join(dict.fromkeys(row.best_peer for row in rows))
        words = [
            f"{row.name.partition(',')[0]} {row.notes['images_per_s'][results.OURS]:,.0f} ({row.ratio:.1f}x)"
            for row in rows
        ]
        sentences.append(f"{measured_on(run)}; images/s (to {peers}): {', '.join(words)}.")
    return "\n\n".join(sentences) or "No GPU was measured yet."


def measured_models() -> str:
    """Return what the issue model said of a GPU's kernels and models beside what was measured, by each run."""
    runs = [run for _, run in newest_runs() if is_on_gpu(run)]
    lines = [["workload", "commit", "measured us", "modelled us", "measured over modelled", "eager us"]]
    for run, row in ((each, row) for each in runs for row in each.rows if modelled.NOTE in row.notes):
        ours, model = 1e3 * row.times[results.OURS].median, row.notes[modelled.NOTE]
        eager = row.times.get(EAGER)
        name = f"{row.name}{', and backward' if row.table.endswith('backward') else ''}"
        times = [f"{ours:,.1f}", f"{model:,.1f}", f"{ours / model:.1f}"]
        shown = "-" if eager is None else f"{1e3 * eager.median:,.1f}"
        lines.append([name, run.machine["commit"], *times, shown])
    return report.aligned(lines) if len(lines) > 1 else "No GPU was measured yet."


def benchmarks() -> str:
    """Return all tables of the newest run of each machine, for docs/benchmarks.md."""
    parts = []
    on_gpu = False
    for path, run in newest_runs():
        on_gpu |= is_on_gpu(run)
        versions = ", ".join(f"{name} {version}" for name, version in run.machine["versions"].items())
        parts += [
            f"## {run.machine['device']}, "
            + (f"commit {run.machine['commit']}" if is_on_gpu(run) else f"{run.machine['threads']} threads"),
            f"{measured_on(run)} ([all numbers]({_from_docs(path)})). Versions: {versions}.",
            f"Ceilings of this machine, measured: {report.measured_ceilings(run.ceilings)}.",
        ]
        for title, rows in run.tables().items():
            plot = report.plot_path(path, title)
            drawn = f"\n\n![{title}]({_from_docs(plot)})" if plot.exists() else ""
            parts.append(f"### {title}\n\n{report.table(rows, run.ceilings)}{drawn}")
        title, fresh = report.fresh(run)
        if fresh:
            parts.append(f"### {title}\n\n{fresh}")
        parts += where_the_time_goes(path.parent)
        parts += training_curves(path.parent) + waits_for_data(path.parent) + costs_of_calls(path.parent)
    if not parts:
        parts.append("No machine was measured yet.")
    if not on_gpu:
        parts.append(
            "## GPU\n\nNo GPU was measured; "
            "[docs/kernels.md, section 7](kernels.md#7-gpu-measured-and-modelled) says what is modelled."
        )
    return "\n\n".join(parts)


def _from_docs(path: Path) -> str:
    """Return a link from a document in docs/."""
    return f"../{path.relative_to(ROOT).as_posix()}"


def _newest(folder: Path) -> Path | None:
    """Return the newest result file of a folder; None if there is none."""
    return max(folder.glob("*.json"), default=None, key=date_of)


def where_the_time_goes(folder: Path) -> list[str]:
    """Return what bench.anatomy found last on the machine of this folder; nothing if it never ran."""
    path = _newest(folder / "anatomy")
    if path is None:
        return []
    run = results.read(path)
    plot = report.plot_path(path, report.ANATOMY_TITLE)
    drawn = f"\n\n![{report.ANATOMY_TITLE}]({_from_docs(plot)})" if plot.exists() else ""
    head = (
        f"### {report.ANATOMY_TITLE}\n\n"
        f"From image to mask, on {run.machine['threads']} threads, commit {run.machine['commit']} "
        f"([numbers]({_from_docs(path)})). Ceilings of this run: {report.measured_ceilings(run.ceilings)}.{drawn}"
    )
    return [head, *(f"#### {one.title}\n\n{report.anatomy(one, run.ceilings)}" for one in run.anatomy)]


def training_curves(folder: Path) -> list[str]:
    """Return what bench.loss_curve found last on the machine of this folder; nothing if it never ran."""
    path = _newest(folder / "loss_curve")
    if path is None:
        return []
    found = json.loads(path.read_text())
    settings = found["settings"]
    return [
        "### training, losses step by step\n\n"
        f"SegNeXt-T, {settings['steps']} steps on CamVid ({settings['batch']} crops of "
        f"{settings['crop']}x{settings['crop']}), with our kernels and in eager PyTorch. Our losses stay within "
        f"{found['largest_gap']:.1e} of eager PyTorch's. Eager's own losses move by {found['largest_noise']:.1e} "
        f"when only its number of threads changes ([numbers]({_from_docs(path)})).\n\n"
        f"![losses of training steps]({_from_docs(path.with_suffix('.png'))})"
    ]


def waits_for_data(folder: Path) -> list[str]:
    """Return what bench.data_loading measured last on the machine of this folder; nothing if it never ran."""
    path = _newest(folder / "data_loading")
    if path is None:
        return []
    found = json.loads(path.read_text())
    settings, machine = found["settings"], found["machine"]
    steps = [["dtype", "seconds a step", "images/s", "of the time waiting", "memory"]]
    for dtype, row in found["training"].items():
        speed, wait = f"{row['images_per_second']:.2f}", f"{row['data_wait']:.2%}"
        steps.append([dtype, f"{row['step_seconds']:.2f}", speed, wait, f"{row['memory'] / 1e9:.1f} GB"])
    speeds = found["samples_per_second"]
    makers = [["workers", *speeds]]
    makers += [[n, *(f"{of[n]:.0f}" for of in speeds.values())] for n in next(iter(speeds.values()))]
    return [
        "### training, and what it waits for\n\n"
        f"`segnext train camvid` with SegNeXt-T, crops of {settings['crop']}, batches of {settings['batch']}, on "
        f"{machine['threads']} threads, commit {machine['commit']} ([numbers]({_from_docs(path)})).\n\n"
        f"{report.aligned(steps)}\n\n"
        "Samples a second that threads make, as `segnext train` has them, and processes of PyTorch's `DataLoader`, "
        f"with nothing else to do:\n\n{report.aligned(makers)}\n\n"
        f"A thread that makes samples holds the interpreter's lock for {found['share_of_the_lock']:.0%} of the time."
    ]


def costs_of_calls(folder: Path) -> list[str]:
    """Return what bench.small_calls measured last on the machine of this folder; nothing if it never ran."""
    path = _newest(folder / "small_calls")
    if path is None:
        return []
    machine = json.loads(path.read_text())["machine"]
    return [
        "### one call of each op on a small input\n\n"
        "Microseconds on one thread, without a gradient: the whole call of the op's first sample, its parts, and the "
        f"definition in eager PyTorch. Commit {machine['commit']} ([numbers]({_from_docs(path)})).\n\n"
        f"{small_calls.table(small_calls.read(path))}"
    ]


def protocols() -> str:
    """Return how many pixels of our masks differ from the published pipelines', from bench/results/protocols.json."""
    found = json.loads((results.FOLDER / "protocols.json").read_text())
    lines = [["protocol", "photographs of CamVid", "short side", "views", "pixels of another class"]]
    for row in found["rows"]:
        scales = ", ".join(f"{scale:g}" for scale in row["scales"])
        lines.append(
            [
                f"`{row['protocol']}`",
                str(row["photographs"]),
                str(row["short_side"] or "native"),
                f"scales {scales}, mirrored too" if row["flip"] else "one",
                f"{row['differing']} of {row['pixels']:,}",
            ]
        )
    return _left_aligned(lines)


def parts() -> str:
    """Return what bench.variants measured last on each machine."""
    return _tables_of("variants")


def family() -> str:
    """Return what bench.depthwise_family measured last on each machine."""
    return _tables_of("depthwise_family")


def _tables_of(part: str) -> str:
    found = []
    for path in _newest_of_each(part):
        run = results.read(path)
        found.append(f"{measured_on(run)} ([numbers]({_from_docs(path)})).")
        found += [
            f"#### {title}\n\n{report.table(rows, run.ceilings)}" for title, rows in run.tables().items()
        ]
    return "\n\n".join(found) or "Not yet measured."


def patched() -> str:
    """Return what bench.patching measured last on each machine."""
    return _of_each_machine("patching", patching.tables)


def in_cpp() -> str:
    """Return what bench.cpp_runtime measured last on each machine."""
    return _of_each_machine("cpp_runtime", cpp_runtime.table)


def served() -> str:
    """Return what bench.serve measured last on each machine."""
    return _of_each_machine("serve", serving.tables)


def filmed() -> str:
    """Return what bench.film measured last on each machine."""
    return _of_each_machine("film", film.table)


def exported() -> str:
    """Return what bench.export measured last on each machine; masks and times may be of two runs."""
    found = []
    for folder in sorted(results.FOLDER.glob("*/export")):
        runs = [
            (path, results.read(path)) for path in sorted(folder.glob("*.json"), key=date_of, reverse=True)
        ]
        for name, table in export.TABLES.items():
            of_table = [(path, run) for path, run in runs if any(row.table == name for row in run.rows)]
            for path, run in of_table[:1]:
                found.append(_with_source(path, run, table(run)))
    return "\n\n".join(found) or "Not yet measured."


def _with_source(path: Path, run: results.Results, text: str) -> str:
    """Return a table below the line that says where, when and from which commit it was measured."""
    return f"{measured_on(run)} ([numbers]({_from_docs(path)})).\n\n{text}"


def _of_each_machine(part: str, tables: Callable[[results.Results], str]) -> str:
    found = []
    for path in _newest_of_each(part):
        run = results.read(path)
        found.append(_with_source(path, run, tables(run)))
    return "\n\n".join(found) or "Not yet measured."


def ablated() -> str:
    """Return what bench.ablation found last on each machine."""
    return (
        "\n\n".join(ablation.section(path, _from_docs) for path in _newest_of_each("ablation"))
        or "Not yet run."
    )


def _newest_of_each(part: str) -> list[Path]:
    """Return the newest result file of a part on each machine that has one."""
    folders = sorted(folder / part for folder in results.FOLDER.iterdir())
    return [path for path in map(_newest, folders) if path is not None]


DOCUMENTS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "headline": headline,
        "models": models,
        "weights": weights,
        "speed": speed,
        "gpu speed": gpu_speed,
    },
    "docs/model.md": {"protocols": protocols, "interop": exchanged},
    "docs/kernels.md": {"support": support, "measured models": measured_models},
    "docs/benchmarks.md": {"benchmarks": benchmarks},
    "docs/variants.md": {
        "beside the paper": cards.of_the_paper,
        "every variant": cards.of_every_variant,
        "parts": parts,
        "ablation": ablated,
    },
    "docs/weights.md": {"published": published, "terms": terms},
    "docs/cpp.md": {"in C++": in_cpp},
    "docs/export.md": {"exported": exported},
    "docs/patching.md": {"patched": patched},
    "docs/performance.md": {"speed": speed, "gpu speed": gpu_speed, **performance.PARTS},
    "docs/strip_convolution.md": strip.PARTS,
    "docs/serving.md": {"serving": served},
    "docs/film.md": {"film": filmed},
    "docs/depthwise.md": {"family": family},
    "docs/choosing.md": {"choices": guide.choices},
    "docs/protocols.md": {"recipes": guide.recipes, "accuracies": guide.accuracies},
    "docs/rivals.md": {"rivals": rivals.documents, "published": rivals.published},
}


def whole_files() -> dict[Path, str]:
    """Return the files that are written as a whole: pages and drawings of docs/ops, and the plots of docs/figures."""
    return {**operators.pages(), **performance.plots(), **strip.plots(), **arrows.plots()}


def updated(document: str, text: str) -> str:
    """Return a document's text with every part between its two markers written anew.

    Raises:
        ValueError: the document lacks the markers of a part.
    """
    for name, make in DOCUMENTS[document].items():
        start, end = f"<!-- {name}, by `make readme` -->\n", f"<!-- end of {name} -->"
        before, found_start, rest = text.partition(start)
        _, found_end, after = rest.partition(end)
        if not (found_start and found_end):
            raise ValueError(
                f"{document}: part {name} must stand between {start.strip()} and {end}, found no such place"
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
        "--check", action="store_true", help="change nothing; exit 1 where a document is out of date"
    )
    parser.add_argument("documents", nargs="*", metavar="DOCUMENT", help="such as README.md; default: all")
    options = parser.parse_args(arguments)
    if unknown := [document for document in options.documents if document not in DOCUMENTS]:
        parser.error(f"documents must be among {', '.join(DOCUMENTS)}, got {unknown[0]}")
    stale = []
    for document in options.documents or DOCUMENTS:
        path = ROOT / document
        old = path.read_text(encoding="utf-8")
        new = updated(document, old)
        if new != old:
            stale.append(document)
            if not options.check:
                path.write_text(new, encoding="utf-8")
    for file, text in {} if options.documents else whole_files().items():
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            stale.append(file.relative_to(ROOT).as_posix())
            if not options.check:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
    if options.check:
        message = f"{', '.join(stale)}: out of date; run `make readme`\n"
        parser.exit(1 if stale else 0, message if stale else "")


if __name__ == "__main__":
    main()
