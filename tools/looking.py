"""Draws docs/looking.jpg: what `segnext predict --show` and `segnext compare` show of one photograph.

python -m tools.looking
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import segnext
from segnext.drawing.maps import coloured
from segnext.drawing.pair import draw_differences
from segnext.evaluation.comparison import segment_pair, share_classes
from segnext.models import SegNeXt
from segnext.predict.inspection import principal_colours

DOCS = Path(__file__).parents[1] / "docs"
PHOTOGRAPH, PICTURE = DOCS / "street.jpg", DOCS / "looking.jpg"
BITS = 4  # of the weights that the shipped ones are compared with
WIDTH, LINE, GAP, TEXT = 600, 30, 8, 17  # pixels: of a panel, of its title, between panels, of letters


def rounded(model: SegNeXt, bits: int) -> SegNeXt:
    """Return a model whose convolutions are rounded to so many bits per weight, each output channel by its largest."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            step = parameter.detach().abs().amax((1, 2, 3), keepdim=True).clamp_(min=1e-12) / (
                2 ** (bits - 1) - 1
            )
            parameter.data = (parameter.detach() / step).round() * step
    return model


def panels() -> list[tuple[str, Image.Image]]:
    """Return title and picture of each panel."""
    predictor = segnext.Predictor("camvid", device="cpu")
    model = segnext.create_model(weights="camvid")
    assert isinstance(model, SegNeXt)
    other = segnext.Predictor(rounded(model, BITS), device="cpu")
    pair = segment_pair(predictor, other, PHOTOGRAPH, share_classes(predictor, other))
    features = principal_colours(predictor.features(PHOTOGRAPH, 3)).colours
    return [
        ("the mask", predictor(PHOTOGRAPH).overlay(legend=False)),
        (
            "--show entropy: bright where the model is in doubt",
            _map(predictor.inspect(PHOTOGRAPH, ["entropy"])["entropy"]),
        ),
        ("--show features: what stage 3 tells apart", Image.fromarray(features)),
        (
            f"compare with weights of {BITS} bits: {100 * (1 - pair.agreement):.1f} % differ",
            draw_differences(pair.image, pair.differences()),
        ),
    ]


def _map(values: np.ndarray) -> Image.Image:
    return Image.fromarray(coloured(values))


def main() -> None:
    """Write the picture."""
    torch.manual_seed(0)
    width, height = Image.open(PHOTOGRAPH).size
    size = (WIDTH, round(WIDTH * height / width))
    sheet = Image.new("RGB", (2 * WIDTH + GAP, 2 * (size[1] + LINE)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT)
    for index, (title, picture) in enumerate(panels()):
        left, top = index % 2 * (WIDTH + GAP), index // 2 * (size[1] + LINE)
        draw.text((left, top + LINE // 2), title, font=font, fill="black", anchor="lm")
        sheet.paste(picture.resize(size, Image.Resampling.BICUBIC), (left, top + LINE))
    sheet.save(PICTURE, quality=76)
    print(f"{PICTURE.name}: {sheet.width}x{sheet.height}, {PICTURE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
