"""The command that kills trainings: a small one from end to end, and what its comparison sees."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from segnext.training.loop import CHECKPOINT, FINAL
from tests.data.miniatures import write_miniature
from tools.kill_and_resume.__main__ import main
from tools.kill_and_resume.comparison import differences
from tools.kill_and_resume.killing import draw
from tools.kill_and_resume.losses import Step

STEPS = [Step(1, 2.5, 0.1), Step(2, 1.1, 0.1)]


@pytest.mark.proof
def test_a_training_is_killed_in_a_step_and_in_a_save(tmp_path, capfd):
    write_miniature("camvid", "inside", tmp_path / "camvid")
    small = "--kills 1 --saves 1 --steps 9 --checkpoint-every 3 --crop 32 --photographs 2 --seed 0"
    with pytest.raises(SystemExit) as exit_:
        main([str(tmp_path / "out"), "--root", str(tmp_path / "camvid"), *small.split()])
    printed = capfd.readouterr().out
    assert exit_.value.code == 0, printed
    assert "a save: " in printed and "all equal to the last bit" in printed
    assert (tmp_path / "out" / "kills.png").stat().st_size > 10_000


def _run(folder: Path, **tensors: torch.Tensor) -> Path:
    folder.mkdir()
    for name in (CHECKPOINT, FINAL):
        save_file({"weight": torch.tensor([1.0, 0.0]), "count": torch.tensor(3), **tensors}, folder / name)
    return folder


def test_equal_runs_do_not_differ(tmp_path):
    nan = torch.tensor(float("nan"))
    one, other = _run(tmp_path / "one", nan=nan), _run(tmp_path / "other", nan=nan)
    assert differences(one, other, STEPS, [STEPS[:1], STEPS]) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"weight": torch.tensor([1.0, -0.0])},
        {"weight": torch.tensor([1.0 + 2**-23, 0.0])},
        {"weight": torch.tensor([[1.0, 0.0]])},
        {"count": torch.tensor(3, dtype=torch.int32)},
    ],
    ids=["sign-of-zero", "last-bit", "shape", "type"],
)
def test_one_bit_of_a_tensor_is_seen(tmp_path, changed):
    found = differences(_run(tmp_path / "one"), _run(tmp_path / "other", **changed), STEPS, [STEPS])
    assert found == [f"{name}: {key}" for name in (CHECKPOINT, FINAL) for key in changed]


def test_a_tensor_too_many_is_seen(tmp_path):
    found = differences(_run(tmp_path / "one"), _run(tmp_path / "other", more=torch.zeros(1)), STEPS, [STEPS])
    assert found == [f"{CHECKPOINT}: more", f"{FINAL}: more"]


@pytest.mark.parametrize(
    ("sessions", "found"),
    [
        ([[STEPS[0]], [Step(1, 2.5 + 2**-51, 0.1), STEPS[1]]], "loss of step 1: .* in process 1"),
        ([STEPS[:1]], "step 2 was done by one run alone"),
        ([STEPS, [Step(3, 1.0, 0.1)]], "step 3 was done by one run alone"),
    ],
    ids=["last-bit", "missing", "too-many"],
)
def test_one_bit_of_a_loss_is_seen(tmp_path, sessions, found):
    one, other = _run(tmp_path / "one"), _run(tmp_path / "other")
    (line,) = differences(one, other, STEPS, sessions)
    assert re.match(found, line)


def test_kills_come_in_order_at_steps_and_saves_of_their_own():
    plans = draw(random.Random(3), kills=5, saves=2, steps=48, every=4)
    assert [plan.step for plan in plans] == sorted(plan.step for plan in plans)
    assert all(plan.step % 4 == 0 and plan.step < 44 for plan in plans if plan.saving)
    for saving, count in ((False, 5), (True, 2)):
        assert len({plan.step for plan in plans if plan.saving == saving}) == count
    with pytest.raises(ValueError, match="saves must be at most 1 in 9 steps with a checkpoint per 3, got 2"):
        draw(random.Random(3), kills=1, saves=2, steps=9, every=3)
