"""Plans the deployed model, from the image to the mask: the launches of a forward pass at batch 1 in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F

from bench.issue_model.plan import Plan, Step
from bench.issue_model.record import Recorder

SIZES = ((512, 512), (768, 1536), (1024, 2048))
CLASSES = 19
REGIONS = 8  # per side of the label map; in a real one too, most cells have one class at all corners


def _label_map(args: Any) -> Any:
    """Make logits with regions of one class, so that the resizing argmax branches as on a real image."""
    logits, size, *rest = args
    noise = torch.randn(1, logits.shape[1], REGIONS, REGIONS, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(noise, logits.shape[2:], mode="bilinear").to(logits.dtype)
    result = torch.empty_strided(logits.shape, logits.stride(), dtype=logits.dtype)
    return result.copy_(smooth.expand_as(result)), size, *rest


def steps(recorder: Callable[[], Recorder], size: str, height: int, width: int, blocks: int) -> list[Step]:
    """Plan one forward pass of SegNeXt-``size``, op by op.

    Args:
        size: "t", "s", "b" or "l".
    """
    from segnext import create_model
    from segnext.deployment.folding import fold
    from segnext.deployment.model import DeployedSegNeXt
    from segnext.models import SegNeXt

    model = cast(SegNeXt, create_model(f"segnext_{size}", num_classes=CLASSES)).eval()
    weights = fold(model)
    plan = Plan(recorder, blocks, data={"upsample_argmax": _label_map})
    fast = DeployedSegNeXt(model.config, weights, torch.bfloat16, device="meta")
    images = torch.empty(1, 3, height, width, device="meta").contiguous(memory_format=torch.channels_last)
    plan.call(fast.predict, images)
    return plan.steps
