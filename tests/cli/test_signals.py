"""Ctrl-C and closed pipes end a command without a traceback."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.synthetic import write_data_set

ROOT = Path(__file__).parents[2]


def start(*words: object, python: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start `python -m segnext` with the signals of a terminal; a background shell would have some ignored."""
    return subprocess.Popen(
        [sys.executable, *python, "-m", "segnext", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize("module", ["typer", "torch._utils"])
def test_ctrl_c_while_modules_are_imported(module):
    process = start(
        "val", "nowhere.yaml", "-w", "camvid", python=("-X", "importtime")
    )  # prints a line per imported module
    assert process.stderr is not None
    for line in process.stderr:
        if line.rstrip().endswith(f" {module}"):
            process.send_signal(signal.SIGINT)
            break
    printed, errors = process.communicate()
    assert process.returncode == -signal.SIGINT and printed == "" and "Traceback" not in errors


def test_a_pipe_that_is_closed_ends_a_training_with_a_checkpoint(tmp_path):
    data = write_data_set(tmp_path)
    options = "--steps 500 --warmup 0 --batch-size 2 --crop 32 --log-every 1 --device cpu --threads 1"
    process = start("train", data, "-o", tmp_path / "run", *options.split())
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().startswith("step 1/500")
    process.stdout.close()  # what `| head -1` does
    errors = process.stderr.read()
    assert process.wait() == 1 and "Traceback" not in errors
    assert errors.startswith("stopped at step ") and errors.endswith("; go on with --resume\n")
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_a_pipe_that_is_closed_leaves_the_measures(weights, tmp_path):
    data = write_data_set(tmp_path)
    process = start("val", data, "-w", weights, "-o", tmp_path / "val.json", "--device", "cpu")
    assert process.stdout is not None and process.stderr is not None
    while not process.stdout.readline().startswith("protocol "):  # the last line before the evaluation
        assert process.poll() is None
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait() == 1 and "Traceback" not in errors
    assert json.loads((tmp_path / "val.json").read_text())["images"] == 2
