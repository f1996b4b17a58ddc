"""SegNeXt and MSCAN as ``torch.nn`` modules on the ops of ``segnext_kernels``."""

from segnext.models.mscan import MSCAN, MSCANConfig
from segnext.models.registry import ModelConfig, build, list_models
from segnext.models.segnext import SegNeXt, SegNeXtConfig

__all__ = ["MSCAN", "MSCANConfig", "ModelConfig", "SegNeXt", "SegNeXtConfig", "build", "list_models"]
