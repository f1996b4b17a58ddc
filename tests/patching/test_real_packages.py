"""Tests `segnext.patch` with the real mmsegmentation and PEFT, which are in environments of their own.

`make interop` makes them; SEGNEXT_MMSEG_PYTHON and SEGNEXT_INTEGRATIONS_PYTHON name the interpreters of others.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.integrations import interpreter
from tests.interop import mmsegmentation

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = 3 + 3 + 5 + 2  # of SegNeXt-T
KINDS = {
    **dict.fromkeys(("MSCABlock", "MSCASpatialAttention", "MSCAAttention", "Mlp"), BLOCKS),
    **{
        "Sequential": 1,
        "OverlapPatchEmbed": 3,
        "LightHamHead": 1,
        "ConvModule": 3,
        "Hamburger": 1,
        "NMF2D": 1,
    },
}


def facts(python: Path, module: str) -> dict[str, Any]:
    """Run a module of this folder and return the JSON in its last line.

    Raises:
        RuntimeError: it failed; the message is the end of what it wrote.
    """
    done = subprocess.run(
        [python, Path(__file__).with_name(f"{module}.py")],  # another package may be called "tests" there
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def mmseg() -> dict[str, Any]:
    return facts(mmsegmentation.PYTHON, "mmseg_facts")


@pytest.fixture(scope="module")
def peft() -> dict[str, Any]:
    return facts(interpreter.PYTHON, "peft_facts")


@mmsegmentation.needs_mmsegmentation
def test_all_parts_of_t_are_found_and_agree(mmseg: dict[str, Any]) -> None:
    assert Counter(mmseg["kinds"]) == KINDS and not mmseg["left"], mmseg["report"]
    for mode, output, gradient in mmseg["agreements"]:
        assert output < 1e-4 and gradient < 1e-3, mode


@mmsegmentation.needs_mmsegmentation
def test_a_moving_average_is_patched_too(mmseg: dict[str, Any]) -> None:
    assert mmseg["average is patched"] == sum(KINDS.values())
    assert mmseg["average"] < 1e-4


@mmsegmentation.needs_mmsegmentation
def test_losses(mmseg: dict[str, Any]) -> None:
    before, after = mmseg["losses"]
    assert after == pytest.approx(before, rel=1e-4) and before["decode.loss_ce"] > 0


@mmsegmentation.needs_mmsegmentation
def test_losses_of_pixels_that_are_all_ignored(mmseg: dict[str, Any]) -> None:
    before, after = mmseg["losses without labels"]
    assert after == before == {"decode.loss_ce": 0, "decode.acc_seg": 100}


@pytest.mark.parametrize("case", ["patched, then LoRA", "LoRA, then patched", "LoRA on segnext_t"])
@interpreter.needs_integrations
def test_results_and_gradients_are_those_of_unfused_models(case: str, peft: dict[str, Any]) -> None:
    errors = peft[case]
    assert peft["LoRA shows"] > 0.01
    assert errors["logits"] < 1e-4 and errors["merged"] < 1e-4 and errors["gradients"] < 3e-3, errors


@interpreter.needs_integrations
def test_adapters_are_named(peft: dict[str, Any]) -> None:
    assert peft["patched"] > 20 and len(peft["left"]) == 3 * 5  # of five blocks
    assert all("is a Conv2d of peft instead of a plain Conv2d" in reason for reason in peft["left"])
