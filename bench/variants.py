"""Times the variants of the ops that the paper's comparisons need: `python -m bench.variants`.

`msca_conv` with other sets of strips than the published one, at SegNeXt-T's shapes, against the same convolutions in
PyTorch, which take turns with it after their results were compared. Then the global contexts of the decoder against
the best way that PyTorch has for each (`bench.contexts`), and every variant of SegNeXt-T from image to mask, deployed
and as a plain module. It writes a JSON under bench/results/<machine>/variants/.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import contexts, machine, report, results, roofline
from bench.models.networks import image
from bench.op_workloads import OpWorkload, forward, forward_backward
from bench.peers import PEERS, Run
from bench.results import OURS, Row, Timing
from segnext import create_model, deploy
from segnext.measure.timing import interleaved, turn
from segnext.models import SegNeXt, list_models
from segnext_kernels.spec import Sample, Spec, all_specs

STRIP_SETS = ((), (7,), (11,), (21,), (7, 11), (7, 11, 21), (3, 7, 11, 21), (7, 11, 21, 31))
SPEC = all_specs()["msca_conv"]
SHAPES = SPEC.model_shapes[:4]  # of T at 512x512
SIDE = 512  # of the image
TOLERANCE = 1e-3  # of the largest logit: rounding through a whole network
TO_THE_MASK = "variants of T, image of 512x512 to mask"
STRIPS_FORWARD, STRIPS_BOTH = "strip sets, forward", "strip sets, forward + backward"


def strip_samples() -> Iterator[tuple[str, Sample]]:
    """Yield every set of strips at every shape, each under its name in the tables."""
    for shape in SHAPES:
        for lengths in STRIP_SETS:
            words = ", ".join(map(str, lengths)) or "none"
            yield f"{shape.name}, strips {words}", shape.resized(strips=lengths)


def strips(
    table: str, name: str, make: Callable[[Spec, Sample], OpWorkload], sample: Sample, seconds: float
) -> Row:
    """Check and time one set of strips."""
    of = make(SPEC, sample)
    peers = {peer: run_of(of.build) for peer, run_of in PEERS.items()}
    return compared(table, name, of, peers, table == STRIPS_FORWARD, seconds)


def compared(
    table: str, name: str, of: OpWorkload, peers: Mapping[str, Run], inference: bool, seconds: float
) -> Row:
    """Check an op's workload and its peers, then time them in turns."""
    runs = {OURS: of.ours, **peers}
    with torch.inference_mode(inference):
        for variant, run in runs.items():
            of.check(variant, run())
        times = timings(runs, seconds)
    return Row(table, name, times, flops=of.flops, bytes_moved=of.bytes_moved, notes={"backend": of.backend})


def to_the_mask(name: str, seconds: float) -> Row:
    """Check and time one variant of a whole network, with random weights, from an image to its mask."""
    model = create_model(name).eval()
    assert isinstance(model, SegNeXt)
    fast, images = deploy(model), image(SIDE)
    with torch.inference_mode():
        expected, logits = model.forward_logits(images), fast.forward_logits(images)
    error = ((logits - expected).abs().max() / expected.abs().max()).item()
    assert error <= TOLERANCE, f"{name}: logits {error:.1e} of the largest one apart"
    runs = {OURS: partial(fast.predict, images), "plain module": partial(model.predict, images)}
    return Row(TO_THE_MASK, name, timings(runs, seconds))


def timings(runs: Mapping[str, Run], seconds: float) -> dict[str, Timing]:
    """Time variants in turns."""
    turns = {name: turn(run) for name, run in runs.items()}
    return {name: Timing.of(times) for name, times in interleaved(turns, seconds, least=7).items()}


def workloads() -> list[tuple[str, Callable[[float], Row]]]:
    """Return every workload: its name, and a function that measures it for about so many seconds."""
    found: list[tuple[str, Callable[[float], Row]]] = []
    for name, sample in strip_samples():
        found.append((name, partial(strips, STRIPS_FORWARD, name, forward, sample)))
        found.append((f"{name}, backward", partial(strips, STRIPS_BOTH, name, forward_backward, sample)))
    for name in list_models("segnext_t*", variants=True):
        found.append((f"{name}, to the mask", partial(to_the_mask, name)))
    return found + contexts.workloads(timings)


def measure(wanted: Sequence[str], seconds: float) -> tuple[list[Row], dict[str, str]]:
    """Return the rows of the workloads whose names hold one of the words, and why others have no number."""
    return measured(workloads(), wanted, seconds)


def measured(
    found: Sequence[tuple[str, Callable[[float], Row]]], wanted: Sequence[str], seconds: float
) -> tuple[list[Row], dict[str, str]]:
    """Return the rows of those workloads whose names hold one of the words, and why others have no number."""
    rows, without_number = [], dict[str, str]()
    chosen = [one for one in found if not wanted or any(word in one[0] for word in wanted)]
    for number, (name, take) in enumerate(chosen, start=1):
        torch.manual_seed(0)
        try:
            rows.append(take(seconds))
            print(
                f"{number} of {len(chosen)}: {name}: {rows[-1].ratio:.2f}x {rows[-1].best_peer}", flush=True
            )
        except AssertionError as error:  # a wrong result gets no number
            without_number[name] = str(error).partition("\n")[0]
            print(f"{number} of {len(chosen)}: {name}: {without_number[name]}", flush=True)
    return sorted(rows, key=lambda row: row.table), without_number


def main(arguments: Any = None) -> None:
    """Entry point of `python -m bench.variants`."""
    command("variants", __doc__, measure, arguments)


def command(
    part: str,
    description: str | None,
    measure: Callable[[Sequence[str], float], tuple[list[Row], dict[str, str]]],
    arguments: Any,
) -> None:
    """Run ``measure`` as `python -m bench.<part>`: measure, store under that name, and print."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{part}", description=description)
    parser.add_argument("only", nargs="*", help="workloads whose names hold one of these words; default: all")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each workload (default: %(default)s)")
    parser.add_argument(
        "--results", type=Path, default=results.FOLDER, help="folder of the machines' results"
    )
    options = parser.parse_args(arguments)
    rows, without_number = measure(options.only, options.seconds)
    if not rows:
        parser.exit(1, f"bench.{part}: no workload with a number\n")
    run = results.Results(machine.describe(), roofline.measure(), rows, without_number)
    path = results.write(run, options.results, part)
    print(report.render(run))
    print(f"\nstored in {path}")


if __name__ == "__main__":
    main()
