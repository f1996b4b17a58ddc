"""Makes an environment per peer, with the peer's real packages, and names the runner that uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

RUNNERS = Path(__file__).with_name("runners")
TORCH = ("torch==2.13.0", "numpy<2.3", "setuptools<81")
FOR_SEGNEXT = ("safetensors",)  # beside what the peer has: a test deploys the peer's models there


class Environment(NamedTuple):
    """One peer.

    Attributes:
        name: folder of the environment.
        title: versions, for the table.
        runner: stem of the file in ``runners/``.
        suffix: of the files that segnext writes for it.
        installs: arguments of ``pip install``, in this order.
    """

    name: str
    title: str
    runner: str
    suffix: str
    installs: tuple[tuple[str, ...], ...]


ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        Environment(
            "mmsegmentation",
            "mmsegmentation 1.2.2, mmengine 0.10.7",
            "openmmlab",
            ".pth",
            # mmcv-lite has no compiled operators; SegNeXt calls none
            (
                TORCH,
                ("mmsegmentation==1.2.2", "mmengine==0.10.7", "mmcv-lite==2.1.0", "ftfy", "regex"),
                FOR_SEGNEXT,
            ),
        ),
        Environment(
            "onedl",
            "onedl-mmsegmentation 1.4.2, onedl-mmengine 0.10.12",
            "openmmlab",
            ".pth",
            (
                TORCH,
                ("--no-deps", "onedl-mmsegmentation==1.4.2", "onedl-mmengine==0.10.12", "onedl-mmcv==2.3.6"),
                (
                    "addict",
                    "yapf",
                    "rich",
                    "termcolor",
                    "matplotlib",
                    "opencv-python-headless",
                    "prettytable",
                ),
                ("packaging", "scipy", "ftfy", "regex", "pyyaml", "pillow"),
                FOR_SEGNEXT,
            ),
        ),
        Environment(
            "paddleseg",
            "PaddleSeg 2.8.0, paddlepaddle 3.3.1",
            "paddle_seg",
            ".pdparams",
            # its OpenCV is built for NumPy 1
            (("setuptools<81", "paddlepaddle==3.3.1"), ("paddleseg==2.8.0",), ("numpy<2",)),
        ),
        Environment("jittor", "jittor 1.3.11.0", "jseg", ".pth", (("setuptools<81", "jittor==1.3.11.0"),)),
        Environment("geti", "otx 2.6.0", "geti", "", (TORCH, ("--no-deps", "otx==2.6.0"))),
    )
}

# exchanges no files: tests/integrations run segnext in it
INTEGRATIONS = Environment(
    "integrations",
    "timm 1.0.31, transformers 5.24.0",
    "",
    "",
    (
        ("torch==2.13.0", "torchvision==0.28.0", "numpy"),
        ("timm==1.0.31", "segmentation_models_pytorch==0.6.0"),
        ("transformers==5.24.0", "accelerate==1.15.0", "peft==0.21.2"),
        ("safetensors>=0.4", "pyyaml", "pillow>=10.1"),
    ),
)


def ensure(environment: Environment, folder: Path) -> None:
    """Make the environment in ``folder``, unless it is there; a file marks that all was installed.

    Raises:
        subprocess.CalledProcessError: an installation failed; pip has said why.
    """
    place = folder / environment.name
    python, done = place / "bin" / "python", place / "installed"
    wanted = repr(environment.installs)
    if done.is_file() and done.read_text() == wanted:
        return
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
    for packages in environment.installs:
        print(f"{environment.name}: installing {' '.join(packages)}", flush=True)
        command = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *packages]
        subprocess.run(command, check=True)
    done.write_text(wanted)
