"""SegNeXt among the models of Hugging Face transformers.

    from segnext.integrations.transformers import SegNextForSemanticSegmentation
    model = SegNextForSemanticSegmentation.from_segnext("camvid")
    model.save_pretrained("folder")                             # config.json, model.safetensors
    model.image_processor().save_pretrained("folder")           # preprocessor_config.json

The import registers the classes with ``AutoConfig``, ``AutoModelForSemanticSegmentation`` and ``AutoImageProcessor``,
so that these, ``pipeline`` and ``Trainer`` take the folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segnext.create import create_model
from segnext.data.preprocessing import Preprocessing
from segnext.integrations.mapping import config_of, entries_of, metadata_of, processor_options
from segnext.integrations.requirements import expect_package
from segnext.models import SegNeXt
from segnext.models.config import SegNeXtConfig
from segnext.models.decoders import stages_of
from segnext.models.labels import class_logits, two_logits
from segnext.models.msca import FFN
from segnext_kernels import upsample_cross_entropy

expect_package("transformers", "4.57", "transformers")
expect_package("torchvision", "0.20", "transformers")  # the image processor computes with it

import transformers  # noqa: E402 (after the check that it is there)
from transformers import (  # noqa: E402
    AutoConfig,
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SemanticSegmenterOutput  # noqa: E402
from transformers.models.auto.modeling_auto import (  # noqa: E402
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
)

# The processor that computes with torchvision lost its suffix when that of Pillow got one.
if hasattr(transformers, "SegformerImageProcessorPil"):
    from transformers import SegformerImageProcessor as ImageProcessor
else:
    from transformers import SegformerImageProcessorFast as ImageProcessor


class SegNextConfig(PretrainedConfig):
    """The config.json of a SegNeXt.

    Args:
        architecture: ``"segnext_t"``, ``"segnext_s"``, ``"segnext_b"`` or ``"segnext_l"``.
        overrides: fields of :class:`segnext.models.config.SegNeXtConfig` that differ from the architecture's.
        preprocessing: what the weights expect: mean, std, short_side, as ``Preprocessing.as_json`` writes it.
        palette: a colour [red, green, blue] per class.
        semantic_loss_ignore_index: label of pixels that the loss leaves out.
        **kwargs: of transformers; ``num_labels`` or ``id2label`` give the classes, 2 by default.

    Raises:
        ValueError: an unknown architecture or field, or a value out of range.
    """

    model_type = "segnext"

    def __init__(
        self,
        architecture: str = "segnext_t",
        overrides: Mapping[str, Any] | None = None,
        preprocessing: Mapping[str, Any] | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        semantic_loss_ignore_index: int = 255,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.architecture = architecture
        self.overrides = dict(overrides or {})
        self.preprocessing = None if preprocessing is None else dict(preprocessing)
        self.palette = palette
        self.semantic_loss_ignore_index = semantic_loss_ignore_index
        self.segnext_config()  # raises

    def segnext_config(self) -> SegNeXtConfig:
        """Return our configuration of the same network."""
        return config_of(self.architecture, self.overrides, self.num_labels)

    @property
    def num_channels(self) -> int:
        """Channels of the images."""
        return self.segnext_config().in_channels

    @property
    def hidden_sizes(self) -> list[int]:
        """Channels of the four stages, as of ``hidden_states``."""
        return list(self.segnext_config().channels)


class SegNextForSemanticSegmentation(PreTrainedModel):
    """A SegNeXt with the interface of transformers; ``model`` is the :class:`segnext.models.SegNeXt`.

    Masks are those of ``self.model``: ``segnext.Predictor(hf_model.model)`` and ``segnext.deploy`` take it.
    """

    config_class = SegNextConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True

    def __init__(self, config: SegNextConfig) -> None:
        super().__init__(config)
        self.model = SegNeXt(config.segnext_config())
        self.model.metadata = metadata_of(config.id2label, config.preprocessing, config.palette)
        self.post_init()

    @classmethod
    def from_segnext(
        cls, model: SegNeXt | str | os.PathLike[str], **options: Any
    ) -> SegNextForSemanticSegmentation:
        """Wrap a model of ours, in evaluation mode as after ``from_pretrained``; its tensors are not copied.

        Args:
            model: a SegNeXt, or what ``create_model(weights=...)`` takes: ``"camvid"``, a file of any dialect.
            **options: entries of :class:`SegNextConfig` that differ from the model's, for example ``id2label``.

        Raises:
            TypeError: not a SegNeXt. ValueError: ``id2label`` names another number of classes.
        """
        network = model if isinstance(model, nn.Module) else create_model(weights=model)
        if not isinstance(network, SegNeXt):
            raise TypeError(
                f"from_segnext: model must be a SegNeXt or a name or path of weights, got {type(network).__name__}"
            )
        if "id2label" in options and "label2id" not in options:
            options["label2id"] = {name: int(index) for index, name in options["id2label"].items()}
        config = SegNextConfig(**{**entries_of(network), **options})
        if config.num_labels != network.config.num_classes:
            raise ValueError(
                f"from_segnext: id2label must name {network.config.num_classes} classes as the model has, got "
                f"{config.num_labels}; create_model(..., num_classes={config.num_labels}, head='reinit') makes others"
            )
        with torch.device("meta"):  # its own network is replaced
            wrapper = cls(config)
        network.metadata = {**network.metadata, **wrapper.model.metadata}
        wrapper.model = network
        return wrapper.eval()

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> SemanticSegmenterOutput | tuple[Any, ...]:
        """Compute logits, and with labels the loss.

        Args:
            pixel_values: (N, C, H, W) normalised images.
            labels: (N, height, width) class ids, int64 or uint8.
            output_hidden_states: return the four stages' features too.
            return_dict: False for a tuple.

        Returns:
            ``logits`` (N, num_labels, ceil(H/8), ceil(W/8)), which ``post_process_semantic_segmentation`` resizes
            (those of a model with ``align_corners`` are (N, num_labels, H, W), since it resizes without). ``loss``
            is the cross-entropy at the labels' size. ``hidden_states``: (N, C_i, ceil(H/s), ceil(W/s)), s = 4 to 32.
        """
        network = self.model
        config = network.config
        features = network.forward_features(pixel_values)
        small = network.decoder([features[stage] for stage in stages_of(config)])
        loss = None
        if labels is not None:
            ignored = self.config.semantic_loss_ignore_index
            loss = upsample_cross_entropy(
                class_logits(small, config.threshold), labels, ignored, align_corners=config.align_corners
            )
        logits = two_logits(small, config.threshold)
        if config.align_corners:
            logits = F.interpolate(logits, pixel_values.shape[2:], mode="bilinear", align_corners=True)
        shown = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output = SemanticSegmenterOutput(
            loss=loss, logits=logits, hidden_states=tuple(features) if shown else None
        )
        as_output = self.config.return_dict if return_dict is None else return_dict
        return output if as_output else output.to_tuple()

    def image_processor(self) -> ImageProcessor:
        """Return the processor that makes ``pixel_values`` as the weights expect them, from RGB images."""
        stored = {"preprocessing": self.config.preprocessing}
        return ImageProcessor(**processor_options(Preprocessing.of(stored)))

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether the FFNs keep only their input for the backward; transformers sets it."""
        return any(part.recompute for part in self.modules() if isinstance(part, FFN))

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, enable: bool) -> None:
        for part in self.modules():
            if isinstance(part, FFN):
                part.recompute = enable

    def _init_weights(self, module: nn.Module) -> None:
        """Draw the tensors of a layer that a file lacks, as its constructor does; those of the file stay."""
        reset = getattr(module, "reset_parameters", None)
        if not callable(reset):
            return
        own = {**module._parameters, **module._buffers}
        # transformers marks what it has loaded
        loaded = {
            name: tensor.detach().clone()
            for name, tensor in own.items()
            if tensor is not None and getattr(tensor, "_is_hf_initialized", False)
        }
        reset()
        with torch.no_grad():
            for name, tensor in loaded.items():
                getattr(module, name).copy_(tensor)


AutoConfig.register(SegNextConfig.model_type, SegNextConfig)
AutoModelForSemanticSegmentation.register(SegNextConfig, SegNextForSemanticSegmentation)
# `pipeline` looks for the names of classes here; for one that it does not find, it prints an error and goes on.
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[SegNextConfig.model_type] = "SegNextForSemanticSegmentation"
AutoImageProcessor.register(SegNextConfig, fast_image_processor_class=ImageProcessor)
