"""The network that is exported: standard operators, folded weights, nothing random."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.data.preprocessing import Preprocessing
from segnext.deployment.folding import fold
from segnext.deployment.model import reason_against
from segnext.deployment.network import Network
from segnext.deployment.plan import Plan
from segnext.export.description import LEAST_SIDE, Interface
from segnext.export.layers import OperatorLayers
from segnext.models import SegNeXt
from segnext.models.finite import expect_values
from segnext.models.labels import two_logits
from segnext_kernels import definitions

RECORDED = (96, 160)
"""Height and width at which free sizes are recorded: no stage has one pixel there, and no two sizes are equal."""


class ExportGraph(nn.Module):
    """A SegNeXt as a module of PyTorch's own operators.

    Args:
        model: its weights are copied and folded as for `segnext.deploy`; what `deploy` refuses is refused.
        interface: what the module takes and gives.
        dtype: of convolutions; the factorisation, what normalises, and logits are float32.

    Raises:
        ValueError: the model's result is not fixed, or its layers were changed.
    """

    def __init__(self, model: SegNeXt, interface: Interface, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if (reason := reason_against(model)) is not None:
            raise ValueError(f"export: {reason}")
        expect_values("export", model.state_dict())
        self.config, self.interface = model.config, interface
        self.network = Network(fold(model), model.config, OperatorLayers(dtype))
        preprocessing = Preprocessing.of(model.metadata)
        if interface.input == "uint8" and len(preprocessing.mean) != model.config.in_channels:
            raise ValueError(
                f"export: mean and std must have {model.config.in_channels} numbers to be inside the network, got "
                f"{len(preprocessing.mean)}; export with float32 input"
            )
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, -1, 1, 1))
        self.register_buffer("scale", 1 / torch.tensor(preprocessing.std).view(1, -1, 1, 1))
        self.eval()

    mean: Tensor
    scale: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits or a mask, see `segnext.export.description.Interface`."""
        if self.interface.input == "uint8":
            images = (images.permute(0, 3, 1, 2).float() - self.mean) * self.scale
        logits = self.network.run(images, Plan())
        if self.interface.output == "logits":
            return logits
        full = F.interpolate(
            two_logits(logits, self.config.threshold),
            images.shape[2:],
            mode="bilinear",
            align_corners=self.config.align_corners,
        )
        return full.argmax(1).to(torch.uint8 if full.shape[1] <= 256 else torch.int32)

    def example(self, shape: Sequence[int] | None = None) -> Tensor:
        """Return images, always the same, of a shape as the interface says it or of the one that is recorded."""
        if shape is None:
            shape = self.shape(*((2, *RECORDED) if self.interface.dynamic else ()))
        generator = torch.Generator().manual_seed(0)
        if self.interface.input == "uint8":
            return torch.randint(0, 256, tuple(shape), dtype=torch.uint8, generator=generator)
        return torch.randn(tuple(shape), generator=generator)

    def shape(self, *sizes: int) -> tuple[int, ...]:
        """Return the shape of the input for a number of images, a height and a width; by default the interface's."""
        batch, height, width = sizes or (self.interface.batch, self.interface.height, self.interface.width)
        if self.interface.input == "uint8":
            return batch, height, width, self.config.in_channels
        return batch, self.config.in_channels, height, width

    def program(self) -> torch.export.ExportedProgram:
        """Return the network as `torch.export` records it, without operators of ours.

        Raises:
            ValueError: it cannot be recorded for free sizes.
        """
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch warns about its own code
            recorded = torch.export.export(self, (self.example(),), dynamic_shapes=self._free_sizes())
            program = recorded.run_decompositions(definitions())
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # files would tell the paths of this machine
        return program

    def _free_sizes(self) -> Any:
        if not self.interface.dynamic:
            return None
        axes = (0, 1, 2) if self.interface.input == "uint8" else (0, 2, 3)
        sizes = [torch.export.Dim(name, min=LEAST_SIDE) for name in ("height", "width")]
        return (dict(zip(axes, (torch.export.Dim("batch"), *sizes), strict=True)),)
