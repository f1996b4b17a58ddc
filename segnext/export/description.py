"""What an exported file says about itself: the model, what it takes and gives, classes and preprocessing.

Each format keeps it as JSON under the name `KEY`, so that `segnext predict`, `val` and `bench` take the file alone.
Who writes a program around the file finds class names, colours, mean and std there.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from segnext.models import SegNeXtConfig
from segnext.one_line import one_line
from segnext.weights.configuration import as_json, expect_metadata
from segnext_kernels import __version__

KEY = "segnext"
FORMAT = 1
Input = Literal["float32", "uint8"]
Output = Literal["logits", "mask"]
LEAST_SIDE = 33
"""Pixels of the smallest free size: below, the last stage has one pixel, which resizing treats as a case of its own."""


@dataclass(frozen=True, kw_only=True)
class Interface:
    """What an exported network takes and gives.

    Attributes:
        height, width: of the images.
        batch: number of images.
        dynamic: number, height and width of the images are free; the fields above mean nothing then.
        input: ``"float32"``: normalised images (N, C, H, W). ``"uint8"``: pixels (N, H, W, C), RGB unless the
            weights are of other bands; the network normalises them.
        output: ``"logits"``: (N, K, ceil(H/8), ceil(W/8)) float32, before they are resized to the image. ``"mask"``:
            (N, H, W) class ids, uint8 up to 256 classes, else int32.
    """

    height: int = 512
    width: int = 512
    batch: int = 1
    dynamic: bool = False
    input: Input = "float32"
    output: Output = "logits"

    def __post_init__(self) -> None:
        for name, allowed in (("input", get_args(Input)), ("output", get_args(Output))):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"export: {name} must be {' or '.join(allowed)}, got {one_line(repr(getattr(self, name)))}"
                )
        for name in ("height", "width", "batch"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"export: {name} must be a whole number from 1, got {one_line(repr(value))}")

    def __str__(self) -> str:
        """Return it in a few words."""
        sizes = (
            f"any number and any sides from {LEAST_SIDE} pixels"
            if self.dynamic
            else f"{self.batch}x{self.height}x{self.width}"
        )
        given = "uint8 pixels" if self.input == "uint8" else "normalised float32 images"
        return f"{given} of {sizes} to {'a mask' if self.output == 'mask' else 'logits at an eighth of the size'}"


@dataclass(frozen=True, kw_only=True)
class Description:
    """An exported file.

    Attributes:
        config: the network's configuration.
        metadata: classes, palette, preprocessing and so on, as in a model's ``metadata``.
        interface: what it takes and gives.
        target: the format's name on the command line.
        dtype: of weights and arithmetic: ``"float32"``, ``"float16"`` or ``"int8"``.
        notes: what the format adds, such as the opset.
    """

    config: SegNeXtConfig
    metadata: dict[str, Any]
    interface: Interface
    target: str
    dtype: str = "float32"
    notes: dict[str, Any] = field(default_factory=dict)

    def as_text(self) -> str:
        """Return the JSON that `from_text` reads."""
        metadata = as_json(self.metadata, self.config.num_classes, self.config.in_channels, "export")
        content = {
            "format": FORMAT,
            "segnext": __version__,
            "target": self.target,
            "dtype": self.dtype,
            "interface": asdict(self.interface),
            "config": asdict(self.config),
            "metadata": metadata,
            "notes": self.notes,
        }
        return json.dumps(content)

    @classmethod
    def from_text(cls, text: str | None, file: str) -> Description:
        """Read what a file says about itself.

        Args:
            text: the file's JSON; None if it has none.
            file: begins messages.

        Raises:
            ValueError: there is none, or it is of another form.
        """
        if text is None:
            raise ValueError(f"{file}: file must be one that `segnext export` wrote, got one of other origin")
        try:
            content = json.loads(text)
            if content.get("format") != FORMAT:
                raise ValueError(f"format {content.get('format')}; update segnext if a newer one wrote it")
            config = SegNeXtConfig(**content["config"])
            interface = Interface(**content["interface"])
            metadata, notes = dict(content["metadata"]), dict(content["notes"])
            target, dtype = str(content["target"]), str(content["dtype"])
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{file}: its description must be one of `segnext export`, got "
                f"{one_line(f'{type(error).__name__}: {error}', 240)}"
            ) from None
        expect_metadata(metadata, config.num_classes, config.in_channels, file)
        return cls(
            config=config, metadata=metadata, interface=interface, target=target, dtype=dtype, notes=notes
        )
