"""Measures a film beside the library in a loop: `python -m bench.film`; `--clip FILE` writes the film alone.

The film is a slow pan over docs/street.jpg. `Predictor` on its decoded frames, one after another, and `segment_film`,
which also decodes, draws and encodes, take turns. Both see every frame, and their masks are compared first. It writes a
JSON under bench/results/<machine>/film/; `make readme` makes docs/film.md of it.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from bench import machine, report, results, roofline
from bench.results import OURS, Row, Timing
from segnext.film import read_frames, segment_film
from segnext.film.writing import FilmWriter
from segnext.measure.timing import interleaved, turn
from segnext.predict.inference import Inference
from segnext.predict.predictor import Predictor

TABLE = "a frame of a film, ms"
LOOP = "Predictor in a loop over decoded frames"
SIZES = ((512, 512), (720, 1280))  # height, width
RATE = Fraction(25)  # frames per second


def write_clip(path: Path, height: int, width: int, frames: int) -> None:
    """Write a film that pans and zooms slowly over the photograph."""
    photograph = Image.open(machine.ROOT / "docs" / "street.jpg").convert("RGB")
    with FilmWriter(path, (height, width), RATE) as writer:
        for index in range(frames):
            place = index / max(frames - 1, 1)
            zoom = 0.7 - 0.15 * place  # of the photograph's width
            right = photograph.width * zoom
            bottom = min(right * height / width, photograph.height)
            left = (photograph.width - right) * (0.1 + 0.8 * place)
            top = (photograph.height - bottom) / 2
            box = (left, top, left + right, top + bottom)
            frame = photograph.resize((width, height), Image.Resampling.BICUBIC, box=box)
            writer.write(np.asarray(frame), float(index / RATE))


def measure(height: int, width: int, frames: int, seconds: float) -> Row:
    """Return the times of a frame in both ways.

    Raises:
        ValueError: the masks of the two ways differ.
    """
    predictor = Predictor("camvid", inference=Inference(short_side=0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / "clip.mp4"
        write_clip(clip, height, width, frames)
        decoded = [frame.pixels for frame in read_frames(clip)]
        _expect_equal(predictor, clip, decoded, folder / "masks")

        def loop() -> None:
            for pixels in decoded:
                predictor(pixels)

        def film() -> None:
            segment_film(predictor, read_frames(clip), overlay=folder / "o.mp4", shares=folder / "s.jsonl")

        times = interleaved({OURS: turn(film), LOOP: turn(loop)}, seconds, least=3, most=20)
    per_frame = {way: Timing.of([one / frames for one in each]) for way, each in times.items()}
    notes = {"frames": frames, "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    return Row(TABLE, f"T 1x{height}x{width}", per_frame, notes=notes)


def _expect_equal(predictor: Predictor, clip: Path, decoded: Sequence[np.ndarray], folder: Path) -> None:
    segment_film(predictor, read_frames(clip), masks=folder, most=3)
    for index in range(min(3, len(decoded))):
        mask = np.asarray(Image.open(folder / f"{index:06d}.png"))
        if not np.array_equal(mask, predictor(decoded[index]).mask):
            raise ValueError(f"bench.film: masks of frame {index} must be equal, got others")


def table(run: results.Results) -> str:
    """Return the table of docs/film.md."""
    lines = [
        ["weights `camvid`", "film: decode, model, draw, encode; ms", "model in a loop, ms", "film over loop"]
    ]
    for row in run.rows:
        film, loop = row.times[OURS].median, row.times[LOOP].median
        lines.append([row.name, f"{film:.1f}", f"{loop:.1f}", f"{film / loop:.3f}"])
    notes = run.rows[-1].notes
    return (
        f"{report.aligned(lines)}\n\nPer frame of a film of {notes['frames']} frames. Peak memory of the process, "
        f"which also held the decoded frames for the loop: {notes['peak MiB']:,.0f} MiB."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `python -m bench.film`."""
    parser = argparse.ArgumentParser(prog="python -m bench.film", description=__doc__)
    parser.add_argument("--clip", type=Path, help="write a film of 640x480 to this file, and measure nothing")
    parser.add_argument("--frames", type=int, default=50, help="of a film (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="per size (default: %(default)s)")
    parser.add_argument(
        "--results", type=Path, default=results.FOLDER, help="folder of the machines' results"
    )
    options = parser.parse_args(arguments)
    if options.clip is not None:
        write_clip(options.clip, 480, 640, options.frames)
        print(f"{options.clip}: {options.frames} frames")
        return
    host, ceilings = machine.describe(), roofline.measure()
    rows = [measure(*size, options.frames, options.seconds) for size in SIZES]
    run = results.Results(host, ceilings, rows, {})
    path = results.write(run, options.results, "film")
    print(f"{table(run)}\n\nstored in {path}")


if __name__ == "__main__":
    main()
