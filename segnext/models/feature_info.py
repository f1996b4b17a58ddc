"""What an encoder's features are, in the form that users of timm expect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segnext.models.config import STRIDES


class FeatureInfo(list[dict[str, Any]]):
    """One dictionary per feature that an encoder returns: ``num_chs``, ``reduction``, ``module``, ``index``.

    Args:
        channels: of all four stages.
        out_indices: the stages (0-3) whose features are returned.
    """

    def __init__(self, channels: Sequence[int], out_indices: Sequence[int]) -> None:
        super().__init__(
            {"num_chs": channels[i], "reduction": STRIDES[i], "module": f"norms.{i}", "index": i}
            for i in out_indices
        )

    def channels(self) -> list[int]:
        """Channels of each feature."""
        return [info["num_chs"] for info in self]

    def reduction(self) -> list[int]:
        """Stride of each feature: its side is that of the image divided by this, rounded up."""
        return [info["reduction"] for info in self]

    def module_name(self) -> list[str]:
        """Name of the module that gives each feature, for ``model.get_submodule``."""
        return [info["module"] for info in self]

    @property
    def out_indices(self) -> tuple[int, ...]:
        """The stages (0-3) of the features."""
        return tuple(info["index"] for info in self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by the items, since the constructor takes other arguments."""
        return _restored, (list(self),)


def _restored(items: list[dict[str, Any]]) -> FeatureInfo:
    info = FeatureInfo((), ())
    info.extend(items)
    return info
