"""The time that is left counts the evaluations to come."""

import io

import pytest
from rich.console import Console

from segnext.training.progress import RunProgress, coming_evaluations, in_words


def progress(eval_every: int | None, width: int = 80) -> tuple[RunProgress, io.StringIO]:
    file = io.StringIO()
    return RunProgress(Console(file=file, width=width, force_terminal=True), 100, 0, eval_every), file


@pytest.mark.parametrize("every", [0, 1, 7, 10, 100, 300])
def test_evaluations_to_come_are_counted(every):
    due = [step for step in range(1, 101) if step == 100 or (every and step % every == 0)]
    for step in (0, 1, 6, 7, 50, 69, 70, 99, 100):
        assert coming_evaluations(step, 100, every) == sum(later > step for later in due)


def test_the_time_that_is_left():
    shown, _ = progress(20)
    assert shown.left(0) is None
    shown.seconds_per_step = 0.5
    assert shown.left(10) == 45
    shown.evaluated("mIoU", 0.5, 30)
    assert shown.left(10) == 45 + 5 * 30 and shown.left(99) == 0.5 + 30 and shown.left(100) == 0
    without, _ = progress(None)
    without.seconds_per_step, without.evaluation_seconds = 2.0, 30.0
    assert without.left(90) == 20


def test_both_lines_fit_on_a_terminal():
    shown, file = progress(20)
    with shown:
        shown.seconds_per_step = 3600.0
        shown.numbers.plain = "loss 1.2345  lr 6.00e-05  1234.5 images/s  wait 100%  123.4 GiB"
        shown.evaluated("mIoU", 0.4321, 123)
        shown.step(42)
    assert "loss 1.2345" in file.getvalue() and "123.4 GiB" in file.getvalue()
    assert "2 days, 10:06:09 left mIoU 0.4321 (123 s)" in file.getvalue()  # 58 hours and three evaluations


def test_memory_in_words():
    assert in_words(3 << 29) == "1.5 GiB"
