"""Shows that a training which is killed and resumed gives the same bits as one that is never stopped.

Start it in the root of the repository; it takes a few minutes:

python -m tools.kill_and_resume out/kills --root ../camvid

It trains SegNeXt-T on photographs of CamVid, once without a stop, and once with SIGKILL at random moments and while a
checkpoint is being written; each killed process is followed by `segnext train --resume`. Then it compares the exact
loss of each step, steps that were done again included, and each tensor of checkpoint.safetensors and
final.safetensors, and draws OUT/kills.png. The exit status is 1 if a single bit differs.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from segnext.data.config import load_data_config
from segnext.training.loop import CHECKPOINT
from tools.kill_and_resume import killing, picture
from tools.kill_and_resume.comparison import count_tensors, differences
from tools.kill_and_resume.killing import Kill


def main(words: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(words)
    console = Console()
    if options.out.exists():
        raise SystemExit(f"kill_and_resume: {options.out} must not exist, got a file or folder; name another")
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    console.print(f"the moments of the kills come from --seed {seed}", highlight=False)
    randomness = random.Random(seed)
    plans = killing.draw(randomness, options.kills, options.saves, options.steps, options.checkpoint_every)
    options.out.mkdir(parents=True)
    data = few_photographs(options.root, options.photographs, options.out)
    arguments = (
        f"{data} --model t --device cpu --seed 1 --steps {options.steps} --warmup {options.steps // 4} "
        f"--batch-size {killing.BATCH} --crop {options.crop} --checkpoint-every {options.checkpoint_every} "
        "--log-every 1 --eval-every 0"
    ).split()

    whole, killed = options.out / "whole", options.out / "killed"
    steps = killing.train_whole(arguments, whole)
    size = (whole / killing.RUN / CHECKPOINT).stat().st_size
    sessions, kills = killing.train_killed(arguments, killed, plans, randomness, steps, size)
    found = differences(whole / killing.RUN, killed / killing.RUN, steps, sessions)
    picture.draw(options.out / "kills.png", steps, sessions, kills, not found)
    console.print(table(kills))
    for line in found[:20]:
        console.print(f"differs: {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"{len(steps)} losses, {sum(map(len, sessions)) - len(steps)} of steps that were done again, "
        f"{count_tensors(whole / killing.RUN)} tensors: "
        f"{f'{len(found)} differ' if found else 'all equal to the last bit'}; {options.out / 'kills.png'}",
        highlight=False,
        soft_wrap=True,
    )
    sys.exit(1 if found else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the two runs and the picture; it must not exist")
    parser.add_argument("--root", type=Path, required=True, help="the folder of CamVid")
    parser.add_argument("--kills", type=int, default=5, help="at random moments of random steps")
    parser.add_argument("--saves", type=int, default=2, help="kills while a checkpoint is being written")
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--checkpoint-every", type=int, default=4)
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument(
        "--photographs", type=int, default=60, help="for training; a tenth for the evaluation"
    )
    parser.add_argument("--seed", type=int, help="of the moments; default: another one each time")
    return parser


def few_photographs(root: Path, count: int, folder: Path) -> Path:
    """Write a data YAML with a part of CamVid, so that checks and evaluation take seconds; return its path.

    Args:
        root: the folder of CamVid.
        count: photographs for training, from the whole split; a tenth of it for the evaluation.
        folder: where the YAML and its lists of names go.
    """
    data = load_data_config("camvid", root)
    content = {"name": "photographs", "path": str(root.resolve()), "classes": list(data.classes)}
    content["palette"] = [list(colour) for colour in data.palette]
    for split, wanted in (("train", count), ("val", max(count // 10, 1))):
        pairs = data.open(split).pairs
        names = [image.stem for image, _ in pairs[:: max(len(pairs) // wanted, 1)]][:wanted]
        listed = folder.resolve() / f"{split}.txt"
        listed.write_text("".join(f"{name}\n" for name in names))
        content[split] = {"images": f"images/{split}", "labels": f"labels/{split}", "list": str(listed)}
    path = folder / "photographs.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def table(kills: Sequence[Kill]) -> Table:
    """Return what each kill hit, and from where the next process went on."""
    shown = Table("kill", "after step", "what it hit", "goes on after step", title="SIGKILL, each time")
    for number, kill in enumerate(kills, 1):
        half = f"a save: {kill.written / 1e6:.1f} of {kill.whole / 1e6:.1f} MB"
        what = half if kill.written else ("just beside a save, so again" if kill.saving else "a step")
        shown.add_row(str(number), str(kill.step), what, str(kill.checkpoint))
    return shown


if __name__ == "__main__":
    main()
