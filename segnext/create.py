"""Models by name, with or without weights."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, cast

from segnext.models import MSCAN, SegNeXt, build

if TYPE_CHECKING:
    from segnext.weights.loading import Checkpoint, LoadReport

Source = str | os.PathLike[str]
logger = logging.getLogger("segnext")


def create_model(
    name: str | None = None,
    weights: Source | None = None,
    num_classes: int | None = None,
    head: str = "strict",
    part: str = "all",
    **overrides: Any,
) -> SegNeXt | MSCAN:
    """Build a model, in training mode as every new ``nn.Module``; call ``.eval()`` before predicting.

    Args:
        name: one of ``list_models()``; by default what the weights are of.
        weights: a shipped name, a checkpoint in any known layout, or None for random weights. The model
            takes class count, input channels, decoder width, NMF rank and ``metadata`` from them.
        num_classes: 150 (segmentation) or 1000 (MSCAN) by default, or the weights'.
        head: ``"reinit"`` leaves the classifier at random, for another ``num_classes`` than the weights'.
        part: ``"backbone"`` loads only the encoder, for example from ImageNet weights into a SegNeXt.
        **overrides: other fields of the configuration. ``in_channels`` other than the weights' adapts their
            first convolution. ``rank`` is also what a foreign checkpoint is taken to be trained with.

    Raises:
        ValueError: unknown name, weights that do not fit, values out of range.
        TypeError: neither name nor weights, or an unknown override.
        FileNotFoundError: no such weights.

    Example:
        >>> model = create_model("segnext_t", weights="mscan_t.pth", part="backbone", num_classes=19)
    """
    if num_classes is not None:
        overrides["num_classes"] = num_classes
    if weights is not None:
        return build_from_weights(weights, name, head, part, **overrides)[0]
    if name is None:
        raise TypeError("create_model: name or weights must be given, got neither; see segnext.list_models()")
    return build(name, **overrides)


def build_from_weights(
    weights: Source, name: str | None = None, head: str = "strict", part: str = "all", **overrides: Any
) -> tuple[SegNeXt | MSCAN, LoadReport]:
    """The model that :func:`create_model` builds from weights, and the report on loading them."""
    from segnext.weights.loading import METADATA_KEYS, load_weights, read_checkpoint

    checkpoint = read_checkpoint(weights, overrides.get("rank"))
    _check_request(checkpoint, name, head, part, overrides)
    known = checkpoint.config["model"]
    fields = known if part == "all" else {"in_channels": known.get("in_channels", 3)}
    model = build(name or checkpoint.config["architecture"], **{**fields, **overrides})
    report = load_weights(model, checkpoint, head=head, part=part, adapt_input="in_channels" in overrides)
    # What is not as in the file deserves to be seen, the rest only to be found.
    changed = report.reinitialised or report.notes
    logger.log(logging.WARNING if changed else logging.INFO, "%s", report)
    kept = METADATA_KEYS if (part, head) == ("all", "strict") else ("preprocessing",)
    model.metadata = {key: checkpoint.config[key] for key in kept if key in checkpoint.config}
    return model, report


def _check_request(
    checkpoint: Checkpoint, name: str | None, head: str, part: str, overrides: dict[str, Any]
) -> None:
    """Say what contradicts the checkpoint in the words of ``create_model``, before shapes do in theirs."""
    origin, known = checkpoint.origin, checkpoint.config.get("architecture")
    if name is None and known is None:
        raise ValueError(
            f"create_model: name must be given for {origin}, whose channels and depths are of no known "
            "architecture; pass name, channels and depths"
        )
    if part != "all":
        return
    if known is not None and name not in (None, known):
        raise ValueError(
            f"create_model: name must be {known} for {origin}, got {name}; leave it out, or pass "
            "part='backbone' for the encoder alone"
        )
    classes, wanted = checkpoint.config["model"].get("num_classes"), overrides.get("num_classes")
    if head == "strict" and wanted is not None and classes not in (None, wanted):
        raise ValueError(
            f"create_model: num_classes must be {classes} as in {origin}, got {wanted}; "
            "pass head='reinit' to train a new classifier"
        )


def segnext_t(weights: Source | None = None, num_classes: int | None = None, **options: Any) -> SegNeXt:
    """SegNeXt-T, 4.3 M parameters; arguments as :func:`create_model`."""
    return cast(SegNeXt, create_model("segnext_t", weights, num_classes, **options))


def segnext_s(weights: Source | None = None, num_classes: int | None = None, **options: Any) -> SegNeXt:
    """SegNeXt-S, 13.9 M parameters; arguments as :func:`create_model`."""
    return cast(SegNeXt, create_model("segnext_s", weights, num_classes, **options))


def segnext_b(weights: Source | None = None, num_classes: int | None = None, **options: Any) -> SegNeXt:
    """SegNeXt-B, 27.6 M parameters; arguments as :func:`create_model`."""
    return cast(SegNeXt, create_model("segnext_b", weights, num_classes, **options))


def segnext_l(weights: Source | None = None, num_classes: int | None = None, **options: Any) -> SegNeXt:
    """SegNeXt-L, 48.9 M parameters; arguments as :func:`create_model`."""
    return cast(SegNeXt, create_model("segnext_l", weights, num_classes, **options))


def mscan_t(weights: Source | None = None, num_classes: int | None = None, **options: Any) -> MSCAN:
    """MSCAN-T, SegNeXt-T's encoder; ``features_only=True`` for features; see :func:`create_model`."""
    return cast(MSCAN, create_model("mscan_t", weights, num_classes, **options))


def mscan_s(weights: Source | None = None, num_classes: int | None = None, **options: Any) -> MSCAN:
    """MSCAN-S, SegNeXt-S's encoder; ``features_only=True`` for features; see :func:`create_model`."""
    return cast(MSCAN, create_model("mscan_s", weights, num_classes, **options))


def mscan_b(weights: Source | None = None, num_classes: int | None = None, **options: Any) -> MSCAN:
    """MSCAN-B, SegNeXt-B's encoder; ``features_only=True`` for features; see :func:`create_model`."""
    return cast(MSCAN, create_model("mscan_b", weights, num_classes, **options))


def mscan_l(weights: Source | None = None, num_classes: int | None = None, **options: Any) -> MSCAN:
    """MSCAN-L, SegNeXt-L's encoder; ``features_only=True`` for features; see :func:`create_model`."""
    return cast(MSCAN, create_model("mscan_l", weights, num_classes, **options))
