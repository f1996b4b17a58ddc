"""Makes models by name, with or without weights."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch

from segnext.models import MSCAN, SegNeXt, build
from segnext.models.config import DECODERS, UNSEEN_CONTEXTS
from segnext.models.registry import CONFIGS, SIZES, find_architecture, split_variant
from segnext.one_line import one_line

if TYPE_CHECKING:
    from segnext.weights.loading import LoadReport
    from segnext.weights.reading import Checkpoint

Source = str | os.PathLike[str]
Model = TypeVar("Model", covariant=True)
# Beside the architecture, these fields of the configuration decide the shapes of the encoder's tensors.
ENCODER_PARTS = ("attention", "strips", "root", "mix", "gate", "expansions")
ENCODER_FIELDS = ("in_channels", *ENCODER_PARTS)
DECODER_PARTS = ("decoder", "in_indices", "context", "decoder_channels")
logger = logging.getLogger("segnext")


class Constructor(Protocol[Model]):
    """The type of ``segnext_t``, ``mscan_t`` and the like: :func:`create_model` with a fixed name."""

    def __call__(
        self, weights: Source | None = None, num_classes: int | None = None, **options: Any
    ) -> Model:
        """Take the arguments of :func:`create_model`."""


def create_model(
    name: str | None = None,
    weights: Source | None = None,
    num_classes: int | None = None,
    head: str = "strict",
    part: str = "all",
    *,
    average: bool | None = None,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    **overrides: Any,
) -> SegNeXt | MSCAN:
    """Build a model. Like every new ``nn.Module`` it is in training mode; call ``.eval()`` before predicting.

    Args:
        name: one of ``list_models(variants=True)``, or a size such as ``"t"`` for ``"segnext_t"``; by default the
            architecture that the weights belong to.
        weights: a shipped name; a published one, which is downloaded (``"ade20k-b"``, or ``"ade20k"`` beside a name of
            a model; `segnext.list_weights` has them all); a checkpoint of any known dialect; or None for random
            weights. The model takes class count, input channels, strips, decoder width, NMF rank, steps,
            ``align_corners``, threshold and ``metadata`` from them.
        num_classes: by default that of the weights, else 150 (segmentation) or 1000 (MSCAN).
        head: ``"reinit"`` initialises the classifier at random, for another ``num_classes`` than that of the weights.
        part: ``"backbone"`` loads only the encoder, for example from ImageNet weights into a SegNeXt.
        average: for weights with averaged ones (EMA, SWA): True takes the averaged ones, False the others, None
            those that the inference of the code that wrote the file takes.
        allow_missing: beginnings of names that the weights may lack; the model then keeps its random values.
        allow_unexpected: beginnings of names that the weights may have beyond the model's.
        **overrides: other fields of the configuration. If ``in_channels`` differs from that of the weights, their
            first convolution is adapted. A foreign checkpoint is assumed to be trained with ``rank``.

    Raises:
        ValueError: unknown name, weights that do not fit, values out of range.
        TypeError: neither name nor weights, or an unknown override.
        FileNotFoundError: no such weights. OSError: they cannot be downloaded.

    Example:
        >>> model = create_model("segnext_t", weights="mscan_t.pth", part="backbone", num_classes=19)
    """
    if num_classes is not None:
        overrides["num_classes"] = num_classes
    if weights is not None:
        return build_from_weights(
            weights,
            name,
            head,
            part,
            average=average,
            allow_missing=allow_missing,
            allow_unexpected=allow_unexpected,
            **overrides,
        )[0]
    if name is None:
        raise TypeError("create_model: name or weights must be given, got neither; see segnext.list_models()")
    return build(name, **overrides)


def build_from_weights(
    weights: Source,
    name: str | None = None,
    head: str = "strict",
    part: str = "all",
    *,
    average: bool | None = None,
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    **overrides: Any,
) -> tuple[SegNeXt | MSCAN, LoadReport]:
    """Build the model as :func:`create_model` does from weights, and return it with the report on loading them."""
    from segnext.weights.loading import load_weights
    from segnext.weights.reading import read_checkpoint
    from segnext.weights.saving import METADATA_KEYS

    if name is not None:
        name, variant = split_variant(find_architecture(name) or name)
        overrides = {**variant, **overrides}
    checkpoint = read_checkpoint(weights, overrides.get("rank"), average, name, part)
    _check_request(checkpoint, name, head, part, overrides)
    parts = (*ENCODER_PARTS, *(DECODER_PARTS if part == "all" else ()))
    # Where tensors may be missing or left over, what no tensor shows remains to be checked.
    _expect_same(checkpoint, name, ("gate",) if allow_missing or allow_unexpected else parts, overrides)
    known = checkpoint.config["model"]
    fields = known if part == "all" else {key: known[key] for key in ENCODER_FIELDS if key in known}
    if (
        not checkpoint.tells_all
        and fields.get("decoder") != "mlp"
        and {"decoder", "in_indices"} & overrides.keys()
    ):
        # Of stages with equally many channels the user chooses.
        fields = {key: value for key, value in fields.items() if key not in ("decoder", "in_indices")}
    if head == "reinit":  # a threshold belongs to the classifier that is not loaded
        fields = {key: value for key, value in fields.items() if key != "threshold"}
    # If the file has all weights, none are drawn: its tensors become the model's own, in half the memory.
    keeps = (
        (part, head) == ("all", "strict") and not allow_missing and torch.get_default_device().type == "cpu"
    )
    try:
        with torch.device("meta") if keeps else nullcontext():
            model = build(name or checkpoint.config["architecture"], **{**fields, **overrides})
    except ValueError as error:
        if "architecture" in checkpoint.config:  # what the file says was checked when it was read
            raise
        raise ValueError(f"{checkpoint.origin}: {error}") from None
    report = load_weights(
        model,
        checkpoint,
        head=head,
        part=part,
        allow_missing=allow_missing,
        allow_unexpected=allow_unexpected,
        adapt_input="in_channels" in overrides,
        given=list(overrides) if head == "strict" else [*overrides, "threshold"],
        assign=keeps,
    )
    # Warn if anything was adapted or reinitialised; otherwise log at INFO.
    changed = report.reinitialised or report.notes
    logger.log(logging.WARNING if changed else logging.INFO, "%s", report)
    kept = METADATA_KEYS if (part, head) == ("all", "strict") else ("preprocessing",)
    model.metadata = {key: checkpoint.config[key] for key in kept if key in checkpoint.config}
    return model, report


def _check_request(
    checkpoint: Checkpoint, name: str | None, head: str, part: str, overrides: dict[str, Any]
) -> None:
    """Raise if the request contradicts the checkpoint, in terms of ``create_model`` instead of tensor shapes."""
    origin, known = checkpoint.origin, checkpoint.config.get("architecture")
    if name is None and known is None:
        raise ValueError(
            f"create_model: name must be given for {origin}, whose channels and depths are of no known "
            "architecture; create_model(name, weights, channels=..., depths=...) loads it, and save keeps them"
        )
    if part != "all":
        return
    if known is not None and name not in (None, known):
        raise ValueError(
            f"create_model: name must be {known} for {origin}, got {name}; leave it out, or pass "
            "part='backbone' for the encoder alone"
        )
    rank, wanted = checkpoint.config["model"].get("rank"), overrides.get("rank")
    # A foreign checkpoint has the rank that was asked for.
    if wanted is not None and rank not in (None, wanted):
        raise ValueError(
            f"create_model: rank must be {rank} as in {origin}, got {wanted}; leave it out, or pass "
            "part='backbone' for the encoder alone"
        )
    classes, wanted = checkpoint.config["model"].get("num_classes"), overrides.get("num_classes")
    if head == "strict" and wanted is not None and classes not in (None, wanted):
        raise ValueError(
            f"create_model: num_classes must be {classes} as in {origin}, got {wanted}; "
            "pass head='reinit' (segnext train: --head reinit) to train a new classifier"
        )


def _expect_same(
    checkpoint: Checkpoint, name: str | None, parts: Sequence[str], overrides: dict[str, Any]
) -> None:
    """Raise if one of the fields ``parts`` is asked to be another than in the checkpoint."""
    base, fields = CONFIGS.get(name or checkpoint.config.get("architecture", "")), checkpoint.config["model"]
    for field in parts:
        held, wanted = fields.get(field, getattr(base, field, None)), overrides.get(field)
        # Whether there is a product (gate), files of ours alone say.
        if field not in overrides or (field == "gate" and not checkpoint.tells_all):
            continue
        if (
            field in ("decoder", "in_indices")
            and not checkpoint.tells_all
            and _fit_alike(base, fields, overrides)
        ):
            continue
        if field == "in_indices":
            usual = DECODERS.get(str(fields.get("decoder", getattr(base, "decoder", ""))))
            held, wanted = held or usual, wanted or usual
        alike = held in UNSEEN_CONTEXTS and wanted in UNSEEN_CONTEXTS
        if field == "context" and alike and not checkpoint.tells_all:
            continue
        if _comparable(wanted) != _comparable(held):
            raise ValueError(
                f"create_model: {field} must be {held} as in {checkpoint.origin}, got {one_line(wanted)}; leave it "
                "out, or start without these weights"
            )


def _fit_alike(base: Any, fields: dict[str, Any], overrides: dict[str, Any]) -> bool:
    """Whether a head on the stages that are asked for has tensors as one on the stages that were found.

    Stages 0 to 2 have as many channels as stage 3 alone.
    """
    channels = overrides.get("channels", getattr(base, "channels", ()))
    widths = []
    for given in (fields, {**fields, "in_indices": None, **overrides}):
        decoder = given.get("decoder", "ham")
        if decoder not in ("ham", "cnn"):
            return False
        widths.append(sum(channels[stage] for stage in given.get("in_indices") or DECODERS[decoder]))
    return widths[0] == widths[1]


def _comparable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _constructor(name: str, doc: str) -> Constructor[SegNeXt | MSCAN]:
    def construct(
        weights: Source | None = None, num_classes: int | None = None, **options: Any
    ) -> SegNeXt | MSCAN:
        return create_model(name, weights, num_classes, **options)

    construct.__name__ = construct.__qualname__ = name
    construct.__doc__ = doc
    return construct


# One function is made per architecture; `segnext/__init__.py` declares them for type checkers.
for _size, _row in SIZES.items():
    globals()[f"segnext_{_size}"] = _constructor(
        f"segnext_{_size}",
        f"SegNeXt-{_size.upper()}, {_row.millions} M parameters; arguments as :func:`create_model`.",
    )
    globals()[f"mscan_{_size}"] = _constructor(
        f"mscan_{_size}",
        f"MSCAN-{_size.upper()}, SegNeXt-{_size.upper()}'s encoder; ``features_only=True`` for features; "
        "see :func:`create_model`.",
    )
