"""Two processes evaluate at their own speed; what happens to one happens to both."""

import pytest

from tests.processes import ended, start

# The first process has done its share long before the second one.
SCRIPT = """
import os, signal, sys, time
import torch
from segnext.evaluation.classification import Accuracy
from segnext.evaluation.together import evaluate_together
from segnext.models.finite import NonFiniteError
from segnext.ranks import joined_ranks
from segnext.signals import stop_signals

class Images(list):
    def share(self, rank, ranks):
        return Images(self[rank::ranks])

def evaluated(share, after_image):
    for image in share:
        time.sleep(0.3 * rank)
        if image == 5:
            happens[sys.argv[1]]()
        after_image()
    return Accuracy((sum(share), len(share)), len(share), 0.0)

def signalled():
    os.kill(os.getpid(), signal.SIGTERM)

def not_finite():
    raise NonFiniteError("image 5 gives NaN")

def damaged():
    raise ValueError("image 5 is damaged")

happens = {"nothing": bool, "signal": signalled, "nan": not_finite, "error": damaged}
seen = [0]
with joined_ranks("val", torch.device("cpu"), "begin again") as (ranks, _), stop_signals("stopping") as stop:
    rank = ranks.rank
    try:
        print(*evaluate_together(evaluated, Images(range(9)), ranks, stop, seen.append))
    except KeyboardInterrupt:
        print("stopped")
print(max(seen) >= 9)
"""


@pytest.mark.parametrize(
    ("what", "result"),
    [
        ("nothing", "Accuracy(hits=(36, 9), images=9, seconds=0.0) None\nTrue\n"),
        ("signal", "stopped\nFalse\n"),
        ("nan", "None image 5 gives NaN\nFalse\n"),
    ],
)
def test_both_have_one_result(what, result):
    assert [(status, printed) for status, printed, _ in ended(start(2, "-c", SCRIPT, what))] == [
        (0, result)
    ] * 2


def test_an_error_of_one_ends_both():
    first, second = ended(start(2, "-c", SCRIPT, "error"))
    assert first[0] == second[0] == 1 and not first[1] + second[1]
    assert second[2].endswith("ValueError: image 5 is damaged\n")
    assert "RankFailed: val: all 2 processes must be at work, got none" in first[2]
