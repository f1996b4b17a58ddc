"""Deploys the real mmsegmentation's models without a file: ``python in_memory.py SIZE [CHANGES]``.

It prints as JSON what `segnext.deploy` made of the model, and how much its outputs differ. segnext is on PYTHONPATH.
CHANGES is a dictionary for mmsegmentation's own configuration.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import common
import numpy as np
import openmmlab
import torch
from mmseg.models.decode_heads import ham_head

from segnext import deploy
from segnext.models.ham import seeded_bases

TIMED = (1, 3, 256, 256)


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert np.isfinite(ours).all() and np.isfinite(theirs).all()
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def seconds(run: Any) -> float:
    """Return the shortest of five calls."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main(size: str, changes: dict[str, Any]) -> dict[str, Any]:
    drawing = ham_head.NMF2D._build_bases
    model = openmmlab.build(openmmlab.configuration({"size": size, "changes": changes}))
    ham_head.NMF2D._build_bases = drawing  # deploy meets the model as it is, with random bases
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    start = time.perf_counter()
    fast = deploy(model)
    took = time.perf_counter() - start
    unchanged = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    unchanged &= torch.equal(random, torch.get_rng_state()) and all(m.training for m in model.modules())
    # The factorisation of every image begins where the deployed model begins.
    bases = seeded_bases((1, fast.config.decoder_channels, fast.config.rank))
    ham_head.NMF2D._build_bases = lambda self, B, S, D, R, device=None: bases.repeat(B * S, 1, 1)
    theirs = openmmlab.outputs(model)
    ours = [
        (fast.forward_logits(image).numpy(), fast(image).numpy())
        for image in map(torch.from_numpy, common.images())
    ]
    image = torch.randn(TIMED)
    with torch.no_grad():
        metas = [{"img_shape": image.shape[2:]}]
        times = [seconds(lambda: model.encode_decode(image, metas)), seconds(lambda: fast(image))]
    return {
        "size": size,
        "logits": max(relative_error(a[0], b[0]) for a, b in zip(ours, theirs, strict=True)),
        "full": max(relative_error(a[1], b[1]) for a, b in zip(ours, theirs, strict=True)),
        "unchanged": unchanged,
        "config": {
            name: getattr(fast.config, name) for name in ("rank", "eval_steps", "align_corners", "threshold")
        },
        "metadata": fast.metadata,
        "deploy_seconds": took,
        "seconds": times,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {})))
