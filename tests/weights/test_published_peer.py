"""Checkpoints that the real mmsegmentation saved are loaded by name through a server, and compute what its models do.

`make interop` makes the environment with mmsegmentation; SEGNEXT_MMSEG_PYTHON names the interpreter of another one.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from segnext import create_model
from segnext.models import SegNeXt
from segnext.weights.published import load_published
from tests.interop.compare import ALLOWED, relative_error
from tests.interop.environments import RUNNERS
from tests.interop.mmsegmentation import PYTHON, needs_mmsegmentation
from tests.interop.runners import common
from tests.weights.file_server import serving
from tests.weights.registry import use

pytestmark = needs_mmsegmentation


@pytest.mark.parametrize("size", ["t", "b"])
def test_a_real_checkpoint_by_name(size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "task.json").write_text(json.dumps({"size": size, "changes": {}}))
    done = subprocess.run(
        [PYTHON, RUNNERS / "openmmlab.py", "write", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = np.load(tmp_path / "peer.npz")
    with serving({}) as server:
        use(monkeypatch, tmp_path, server, {f"ade20k-{size}": (tmp_path / "peer.pth").read_bytes()})
        model = create_model(f"segnext_{size}", weights="ade20k").eval()
        assert [asked["path"].rpartition("/")[2] for asked in server.asked] == [
            load_published(f"ade20k-{size}").file
        ]
    assert isinstance(model, SegNeXt)
    assert model.config.rank == load_published(f"ade20k-{size}").rank
    # Their model draws its bases, which the file lacks; the runner pinned them.
    bases = common.bases(model.config.decoder_channels, model.config.rank)
    model.decoder.hamburger.bases.copy_(torch.from_numpy(bases))
    with torch.no_grad():
        for index, image in enumerate(map(torch.from_numpy, common.images())):
            small, full = model.forward_logits(image).numpy(), model(image).numpy()
            errors = [
                relative_error(small, theirs[f"small{index}"]),
                relative_error(full, theirs[f"full{index}"]),
            ]
            print(
                f"segnext_{size}, {tuple(image.shape[2:])}: {errors[0]:.1e} at 1/8, {errors[1]:.1e} at full size"
            )
            assert max(errors) <= ALLOWED
