"""What `segnext predict --show` writes beside mask and overlay: maps of certainty, features as colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segnext.models.config import STAGES

if TYPE_CHECKING:
    from segnext.predict.prediction import Prediction
    from segnext.predict.predictor import Predictor

TITLES = {
    "confidence": "confidence (probability of the most likely class)",
    "entropy": "entropy (of the probabilities of all classes, 1 if they are equal)",
    "margin": "margin (probability of the most likely class minus that of the next)",
}
STAGE = 3  # of "features" alone: at a sixteenth of the size, shapes are still to be seen
FEATURES = tuple(f"features{stage}" for stage in range(1, STAGES + 1))
KINDS = (*TITLES, *FEATURES)
ENDINGS = tuple(f"_{kind}.png" for kind in KINDS)


def parse_shown(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the kinds that ``--show`` names, in the order of `KINDS`: ``features:2`` is ``features2``.

    Raises:
        ValueError: a word is something else.
    """
    kinds = set()
    for word in (word.strip() for text in texts for word in text.split(",")):
        name, colon, stage = word.partition(":")
        kind = f"{name}{stage if colon else STAGE}" if name == "features" else word
        if kind not in KINDS or (colon and name != "features"):
            raise ValueError(
                f"predict: --show must be some of {', '.join(TITLES)}, features, features:1 ... features:{STAGES}, got "
                f"{word!r}; for example --show confidence,features"
            )
        kinds.add(kind)
    return tuple(kind for kind in KINDS if kind in kinds)


def expect_shown(predictor: Predictor, kinds: Sequence[str]) -> None:
    """Refuse what a model cannot show, before the first photograph.

    Raises:
        ValueError: an exported file has no features, one that gives masks has no probabilities; or the features of
            windows are asked for.
    """
    from segnext.export.network import ExportedNetwork

    model = predictor.model
    if any(kind in FEATURES for kind in kinds):
        if isinstance(model, ExportedNetwork):
            raise ValueError(
                f"predict: --show features must come with weights for PyTorch, got {model.file}; use those that it "
                "was exported from"
            )
        if predictor.inference.mode != "whole":
            raise ValueError(
                "predict: --show features must come with --mode whole, got slide; --short-side makes large images fit"
            )
    is_map = any(kind in TITLES for kind in kinds)
    if is_map and isinstance(model, ExportedNetwork) and not model.gives_logits:
        raise ValueError(
            f"predict: --show {kinds[0]} must come with a model that gives logits, got {model.file}, which "
            "gives masks; export it without --mask"
        )


def save_shown(
    predictor: Predictor, prediction: Prediction, file: Path, paths: Mapping[str, Path]
) -> dict[str, str]:
    """Write what is shown of a photograph.

    Args:
        predictor: the model.
        prediction: its mask.
        file: the photograph.
        paths: the files by kind; others than `KINDS` are left out.

    Returns:
        The names of the files by kind.

    Raises:
        Exception: as `Predictor.inspect` and `Predictor.features`, and for files that cannot be written.
    """
    from PIL import Image

    from segnext.atomic import replace_bytes
    from segnext.drawing.encoding import encoded
    from segnext.drawing.maps import draw_caption, draw_map
    from segnext.predict.inspection import principal_colours

    names = {}
    maps = [kind for kind in TITLES if kind in paths]
    for kind, values in (predictor.inspect(file, maps) if maps else {}).items():
        replace_bytes(paths[kind], encoded(draw_map(values, TITLES[kind]), format="PNG"))
        names[kind] = paths[kind].name
    height, width = prediction.mask.shape
    for kind in FEATURES:
        if kind in paths:
            stage = FEATURES.index(kind) + 1
            features = predictor.features(file, stage)
            shown = principal_colours(features)
            picture = Image.fromarray(shown.colours).resize((width, height), Image.Resampling.BICUBIC)
            shares = ", ".join(f"{100 * share:.0f}" for share in shown.shares)
            text = f"features of stage {stage} (first components as red, green, blue; {shares} % of the variance)"
            replace_bytes(paths[kind], encoded(draw_caption(picture, text), format="PNG"))
            names[kind] = paths[kind].name
    return names
