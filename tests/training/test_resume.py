"""A run that is stopped or killed goes on as if nothing had happened, to the last bit."""

import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from segnext.data.config import DataConfig, load_data_config
from segnext.models import SegNeXt
from segnext.signals import StoppedAtOnce
from segnext.training.determining import LATER, PREFIXES
from segnext.training.loop import CHECKPOINT
from segnext.training.settings import Reporting
from tests.data.synthetic import write_data_set
from tests.training.runs import Trigger, assert_equal_runs, header, narrow, rows, run, tensors


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """Return the folder of a run of six steps without a stop."""
    folder = tmp_path_factory.mktemp("whole")
    run(data, folder)
    return folder


def test_equal_runs_are_equal(data, whole, tmp_path):
    run(data, tmp_path / "run")
    assert_equal_runs(whole, tmp_path / "run")


def test_the_comparison_sees_another_seed(data, whole, tmp_path):
    run(data, tmp_path / "run", seed=4)
    with pytest.raises(AssertionError, match="tensors differ"):
        assert_equal_runs(whole, tmp_path / "run")


def _command(data: DataConfig, folder: Path, arguments: str) -> dict[str, Any]:
    """Describe a process that calls `run(data, folder, {arguments})`; its signals do not reach the other tests."""
    root = Path(__file__).parents[2]
    yaml = next(data.splits["train"].images.parents[1].glob("*.yaml"))
    script = (
        "import sys; from pathlib import Path; from signal import *; from tests.training.runs import *; "
        "from segnext.data.config import load_data_config; torch.set_num_threads(int(sys.argv[3])); "
        f"run(load_data_config(sys.argv[1]), Path(sys.argv[2]), {arguments})"
    )
    return {
        "args": [sys.executable, "-u", "-c", script, str(yaml), str(folder), str(torch.get_num_threads())],
        "cwd": root,
        "env": {**os.environ, "PYTHONPATH": str(root)},
        "text": True,
    }


def _stopped(data: DataConfig, folder: Path, arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the process until it ends by KeyboardInterrupt or StoppedAtOnce."""
    done = subprocess.run(**_command(data, folder, arguments), capture_output=True)
    assert done.stderr.rstrip().endswith(("KeyboardInterrupt", "StoppedAtOnce")), done.stderr
    return done


def test_stopped_after_three_steps(data, whole, tmp_path):
    reporting = "Reporting(checkpoint_every=100, log_every=1)"
    interrupt = "Trigger('step 3/6', lambda: raise_signal(SIGINT), sys.stdout)"
    done = _stopped(data, tmp_path, f"reporting={reporting}, file={interrupt}")
    assert header(tmp_path / CHECKPOINT)["step"] == "3" and len(rows(tmp_path)) == 3
    assert "stopped at step 3; go on with --resume" in done.stdout
    assert "stopping after this step" in done.stderr
    assert not (tmp_path / "final.safetensors").exists()
    report = io.StringIO()
    # Initial model and generator state differ here: both must come from the checkpoint.
    torch.manual_seed(99)
    run(data, tmp_path, model=narrow(seed=5), resume=True, file=report)
    assert "resuming at step 3 of 6" in report.getvalue()
    assert_equal_runs(whole, tmp_path)


def test_a_second_signal_stops_at_once(data, tmp_path):
    _stopped(
        data, tmp_path, "file=Trigger('step 2/6', lambda: (raise_signal(SIGTERM), raise_signal(SIGTERM)))"
    )
    assert not (tmp_path / CHECKPOINT).exists()


def test_the_handlers_of_the_caller_are_back(data, tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    during = []
    run(data, tmp_path, file=Trigger("step 2/6", lambda: during.append(signal.getsignal(signal.SIGTERM))))
    assert during[0] not in (*before, signal.SIG_DFL)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_nohup_is_obeyed(data, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run(data, tmp_path, file=Trigger("step 2/6", lambda: signal.raise_signal(signal.SIGHUP)))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert header(tmp_path / CHECKPOINT)["step"] == "6"


def _stop_at_once() -> None:
    raise StoppedAtOnce


def test_killed_between_two_checkpoints(data, whole, tmp_path):
    with pytest.raises(StoppedAtOnce):
        run(data, tmp_path, file=Trigger("step 5/6", _stop_at_once))
    assert header(tmp_path / CHECKPOINT)["step"] == "3" and len(rows(tmp_path)) == 5
    half = tmp_path / f".{CHECKPOINT}.a7b.tmp" / CHECKPOINT
    half.parent.mkdir()
    half.write_bytes(b"half a checkpoint")
    run(data, tmp_path, resume=True)
    assert not half.parent.exists()
    assert_equal_runs(whole, tmp_path)


def test_killed_for_real(data, whole, tmp_path):
    """The process dies by SIGKILL in the middle of a step or of a write."""
    reporting = "Reporting(checkpoint_every=1, log_every=1, workers=0)"
    command = _command(data, tmp_path, f"reporting={reporting}, file=sys.stdout")
    process = subprocess.Popen(**command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 3/6"):
            process.kill()
    assert process.wait() == -signal.SIGKILL
    run(data, tmp_path, resume=True)
    assert_equal_runs(whole, tmp_path)


def test_loss_rows_do_not_notice_the_interruption(data, tmp_path):
    every_four = Reporting(checkpoint_every=100, log_every=4, eval_every=2, workers=0)
    run(data, tmp_path / "whole", reporting=every_four)
    reporting = "Reporting(checkpoint_every=100, log_every=4, eval_every=2, workers=0)"
    interrupt = "Trigger('step 2/6  val', lambda: raise_signal(SIGTERM))"
    _stopped(data, tmp_path / "stopped", f"reporting={reporting}, file={interrupt}")
    assert [row[0] for row in rows(tmp_path / "stopped")] == ["2"]
    run(data, tmp_path / "stopped", reporting=every_four, resume=True)
    assert [row[0] for row in rows(tmp_path / "stopped")] == ["2", "4", "4", "6", "6"]
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(data, whole, tmp_path, workers):
    run(data, tmp_path, reporting=Reporting(checkpoint_every=3, log_every=1, workers=workers))
    assert_equal_runs(whole, tmp_path)


def test_looking_at_a_run_does_not_change_it(data, whole, tmp_path):
    run(data, tmp_path, reporting=Reporting(eval_every=3, checkpoint_every=2, log_every=2, workers=0))
    for name in (CHECKPOINT, "final.safetensors"):
        mine, theirs = tensors(whole / name), tensors(tmp_path / name)
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_resuming_a_finished_run_evaluates_it_again(data, tmp_path):
    first = run(data, tmp_path)
    before = tensors(tmp_path / "final.safetensors")
    again = run(data, tmp_path, resume=True)
    assert torch.equal(first.confusion.counts, again.confusion.counts)
    after = tensors(tmp_path / "final.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_resuming_nothing_starts_a_run(data, whole, tmp_path):
    run(data, tmp_path / "new", resume=True)
    assert_equal_runs(whole, tmp_path / "new")


def test_another_thread_can_train(data, whole, tmp_path):
    """Only the main thread may set signal handlers; training works without."""
    threads = torch.get_num_threads()

    def work() -> None:
        torch.set_num_threads(threads)
        run(data, tmp_path)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert_equal_runs(whole, tmp_path)


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"lr": 2e-3}, r"lr 0\.001 -> 0\.002"),
        ({"steps": 7, "scale": (0.7, 1.5)}, r"scale \[0\.5, 1\.5\] -> \[0\.7, 1\.5\], steps 6 -> 7"),
    ],
)
def test_other_settings_are_refused(data, whole, settings, changes):
    with pytest.raises(ValueError, match=rf"settings must be those that .* was trained with, got {changes};"):
        run(data, whole, resume=True, **settings)


def test_another_preprocessing_is_refused(data, whole):
    with pytest.raises(ValueError, match=r"got preprocessing .* -> .*'short_side': 20"):
        run(dataclasses.replace(data, short_side=20), whole, resume=True)


@pytest.mark.parametrize(
    ("reading", "changes"),
    [
        (
            {"ignore_index": 9, "label_map": {0: 0, 1: 1, 2: 2, 255: 9}},
            r"data\.ignore_index 255 -> 9, data\.label_map None ->",
        ),
        ({"label_map": {0: 1, 1: 0, 2: 2}}, r"data\.label_map None -> \[\[0, 1\], \[1, 0\], \[2, 2\]\]"),
        ({"exif": "ignore"}, r"data\.exif apply -> ignore"),
        ({"classes": ("other", "b", "c")}, r"data\.classes \[.*\] -> \['other', 'b', 'c'\]"),
    ],
    ids=["ignored", "map", "exif", "classes"],
)
def test_labels_that_are_read_otherwise_are_refused(data, whole, reading, changes):
    with pytest.raises(ValueError, match=rf"settings must be those that .* was trained with, got {changes}"):
        run(dataclasses.replace(data, **reading), whole, resume=True)


def test_a_checkpoint_of_earlier_names_goes_on(data, whole, tmp_path):
    """Settings once said "precision" instead of "dtype", and had no preprocessing nor the model's configuration."""
    shutil.copytree(whole, tmp_path / "old")
    path = tmp_path / "old" / CHECKPOINT
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    settings = json.loads(metadata["settings"])
    settings["precision"] = settings.pop("dtype")
    for key in [key for key in settings if key == "preprocessing" or key.startswith(PREFIXES)]:
        del settings[key]
    for key in LATER:
        settings.pop(key, None)
    settings["model.decoder"] = "light_ham"
    save_file(tensors(path), path, metadata | {"settings": json.dumps(settings)})
    run(data, tmp_path / "old", resume=True)
    with pytest.raises(
        ValueError, match="got model.gate True -> False;"
    ):  # whose tensors have the same names
        run(data, tmp_path / "old", model=narrow(gate=False), resume=True)
    with pytest.raises(ValueError, match="got dtype float32 -> bfloat16;"):
        run(data, tmp_path / "old", resume=True, dtype="bfloat16")


def test_another_data_set_is_refused(data, whole):
    with pytest.raises(ValueError, match="got data houses -> streets; repeat"):
        run(dataclasses.replace(data, name="streets"), whole, resume=True)


def test_it_goes_on_after_an_image_was_removed_and_says_so(tmp_path):
    data = load_data_config(write_data_set(tmp_path))
    with pytest.raises(StoppedAtOnce):
        run(data, tmp_path / "run", file=Trigger("step 5/6", _stop_at_once))
    for kind in ("images", "labels"):
        (tmp_path / kind / "train" / "scene03.png").unlink()
    report = io.StringIO()
    run(data, tmp_path / "run", resume=True, file=report)
    assert report.getvalue().splitlines()[0] == (
        "note: images 5 -> 4 since the checkpoint; the result is not that of an undisturbed run"
    )
    assert [row[0] for row in rows(tmp_path / "run")] == ["1", "2", "3", "4", "5", "6", "6"]


def test_another_model_is_refused(data, whole):
    for option, change in {
        "decoder_channels": (32, 64),
        "depths": ([1, 1, 1, 2], [2, 1, 1, 2]),
        "align_corners": (False, True),  # in no tensor
        "drop_path": (0.1, 0.2),
    }.items():
        message = (
            rf"resume: settings must be .* got model\.{option} {re.escape(f'{change[0]} -> {change[1]}')};"
        )
        with pytest.raises(ValueError, match=message):
            run(data, whole, model=narrow(**{option: change[1]}), resume=True)
    frozen = narrow()
    frozen.backbone.requires_grad_(False)
    with pytest.raises(ValueError, match=r"got model\.frozen 0 -> \d+;"):
        run(data, whole, model=frozen, resume=True)
    run(data, whole, model=narrow(recompute=True), resume=True)


def _refusal(data: DataConfig, folder: Path, model: SegNeXt | None = None) -> str:
    with pytest.raises(ValueError, match=r"^resume: .*checkpoint\.safetensors") as error:
        run(data, folder, model=model, resume=True)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    return str(error.value)


def test_files_that_are_no_checkpoint_are_refused(data, whole, tmp_path):
    path, content = tmp_path / CHECKPOINT, (whole / CHECKPOINT).read_bytes()
    for damaged in (content[:-5], content[:100], b""):
        path.write_bytes(damaged)
        assert re.search(
            "got a damaged or cut one|got 0 bytes|got one that begins with", _refusal(data, tmp_path)
        )
    path.write_bytes((whole / "final.safetensors").read_bytes())
    assert "of format segnext-training-1, got pt; use --weights" in _refusal(data, tmp_path)
    save_file({"x": torch.zeros(1)}, path)
    assert "of format segnext-training-1, got None" in _refusal(data, tmp_path)
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    assert "a link to nothing" in _refusal(data, tmp_path)


MOMENT = "optimiser.decoder.classifier.bias.exp_avg"


def _without(prefix: str) -> Callable[[dict[str, Any], dict[str, str]], None]:
    def damage(content: dict[str, Any], metadata: dict[str, str]) -> None:
        for key in [key for key in content if key.startswith(prefix)]:
            del content[key]

    return damage


def _uncounted(content: dict[str, Any], metadata: dict[str, str]) -> None:
    _without("optimiser.")(content, metadata)
    del metadata["tensors"]


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda content, metadata: metadata.pop("settings"), "got no settings"),
        (lambda content, metadata: metadata.pop("step"), "got no step"),
        (lambda content, metadata: metadata.update(step="x"), "got a damaged header"),
        (lambda content, metadata: metadata.update(seconds="inf"), "got a damaged header"),
        (lambda content, metadata: metadata.update(step="7"), "got step 7 of 6"),
        (lambda content, metadata: metadata.update(step="2"), "got impossible values of the optimiser"),
        (
            lambda content, metadata: content[f"{MOMENT}_sq"].fill_(-1.0),
            "got impossible values of the optimiser",
        ),
        (lambda content, metadata: metadata.update(settings='{"a\\nb": 1}'), r"got a\\nb 1 -> None, "),
        (lambda content, metadata: metadata.update(settings="[1]"), "got a damaged header"),
        (lambda content, metadata: metadata.update(settings="[" * 100_000), "got a damaged header"),
        (lambda content, metadata: metadata.update(settings="{}"), "got architecture None -> segnext_t, "),
        (
            lambda content, metadata: content.update({"a\n" * 40: torch.zeros(1)}),
            "names of tensors must be one line",
        ),
        (_without("random."), "got .* tensors|got no state of the random numbers"),
        (_without("average."), "got .* tensors that differ"),
        (_without("optimiser."), r"got \d+ of \d+ tensors"),
        (_uncounted, "got no optimiser"),
        (_without(MOMENT), "got half an optimiser"),
        (
            lambda content, metadata: content.update({"optimiser.x.step": torch.zeros([])}),
            "of other parameters",
        ),
        (lambda content, metadata: content.update({MOMENT: torch.zeros(2)}), "of other parameters"),
        (lambda content, metadata: content[MOMENT].fill_(float("inf")), "not finite in optimiser"),
        (
            lambda content, metadata: content.update({"random.cpu": torch.zeros(9, dtype=torch.uint8)}),
            "got no state of the random numbers",
        ),
        (
            lambda content, metadata: content.update(
                {"model.decoder.classifier.bias": torch.zeros(3, dtype=torch.int32)}
            ),
            "got 1 tensors that differ",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_changes_nothing(data, whole, tmp_path, damage, found):
    with safe_open(whole / CHECKPOINT, framework="pt") as file:
        metadata = file.metadata()
    content = tensors(whole / CHECKPOINT)
    damage(content, metadata)
    save_file(content, tmp_path / CHECKPOINT, metadata)
    model = narrow()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert re.search(found, _refusal(data, tmp_path, model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
