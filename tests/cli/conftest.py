"""Runs commands; photographs, narrow weights, and a call of `segnext predict` on them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segnext import segnext_t
from segnext.cli.main import main
from segnext.weights import save
from tests.cli.commands import ended

CLASSES, COLOURS = ["road", "sky", "tree"], [[128, 64, 128], [70, 130, 180], [0, 128, 0]]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save(segnext_t(num_classes=3), path, {"classes": CLASSES, "palette": COLOURS})
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, (height, width) in enumerate([(40, 60), (33, 47), (64, 32)]):
        pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def segnext(capsys) -> Callable[..., tuple[object, str, str]]:
    """Return a function that runs a command line and gives exit status, standard output and standard error."""

    def run(*words: object) -> tuple[object, str, str]:
        status = ended(*words)
        output = capsys.readouterr()
        return status, output.out, output.err

    return run


@pytest.fixture
def run(weights, tmp_path, capsys) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs `segnext predict` into tmp_path/out and gives status, output and errors."""

    def call(*words: object) -> tuple[int, str, str]:
        arguments = ["predict", *map(str, words), "-w", str(weights), "-o", str(tmp_path / "out")]
        status = 0
        try:
            main(arguments)
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call
