"""`deploy`: a trained SegNeXt in, a fast inference model out.

The weights are folded once (`segnext.deployment.folding`). On a CPU with the compiled kernels they are packed for its
instruction set, and every tensor of a forward pass lies in a plan made once for each input shape; elsewhere the
same folded network runs on the public ops alone, in channels_last from the image to the label map: on a GPU at most
80 launches for SegNeXt-T, captured in a CUDA graph for each input shape (`segnext.deployment.graphs`).
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segnext.deployment.folding import Weights, conv_ffn_arguments, fold, msca_block_arguments
from segnext.deployment.graphs import Function, GraphCache
from segnext.models import SegNeXt, SegNeXtConfig
from segnext.models.config import GROUPS, STAGES, STRIDES
from segnext.models.ham import EVAL_STEPS
from segnext.models.layers import check_images
from segnext_kernels import (
    channel_norm,
    conv2d_act,
    conv_ffn,
    group_norm_act,
    msca_block,
    nmf2d_projected,
    packed,
    resize_sum,
    upsample_argmax,
)
from segnext_kernels.backend import current_backend

NORM_EPS = 1e-5  # of LayerNorm and GroupNorm alike
FORMAT = "segnext-deployed-1"
PLANS = 2  # input shapes whose memory is kept


def deploy(model: SegNeXt, dtype: torch.dtype = torch.float32, cuda_graph: bool = True) -> DeployedSegNeXt:
    """An inference model with the weights of ``model``, which is left as it is.

    Args:
        model: a SegNeXt; its place (CPU or GPU) is where the result runs.
        dtype: of activations and matrix products: float32 or bfloat16; sums, statistics and the NMF's state stay
            float32, and so do logits.
        cuda_graph: on a GPU capture each input shape and layout in a CUDA graph at its first call, and keep a few;
            without one, small batches wait for Python between kernels. Nothing on a CPU.

    Raises:
        TypeError: not a SegNeXt.
        ValueError: another dtype; or the model draws random bases in evaluation, which has no fixed result.
    """
    if not isinstance(model, SegNeXt):
        raise TypeError(
            f"deploy: model must be a SegNeXt, got {type(model).__name__}; encoders are not deployed alone"
        )
    if model.config.random_eval_bases:
        raise ValueError(
            "deploy: model must have random_eval_bases=False, got True; its output changes at every call"
        )
    device = next(model.parameters()).device
    return DeployedSegNeXt(model.config, fold(model), dtype, model.metadata, device, cuda_graph)


class DeployedSegNeXt:
    """A folded SegNeXt for inference; made by `deploy` or `DeployedSegNeXt.load`.

    ``fast(x)`` gives logits at the input's size, ``fast.forward_logits(x)`` at H/8, ``fast.predict(x)`` labels, all
    of normalised float32 images (N, C, H, W) of any size. May be called from several threads at once; results
    never share memory with the model.
    """

    training = False  # as a module in evaluation mode

    def __init__(
        self,
        config: SegNeXtConfig,
        weights: Weights,
        dtype: torch.dtype = torch.float32,
        metadata: dict[str, Any] | None = None,
        device: torch.device | str = "cpu",
        cuda_graph: bool = True,
    ) -> None:
        if dtype not in packed.DTYPES:
            raise ValueError(f"deploy: dtype must be torch.float32 or torch.bfloat16, got {dtype}")
        self.config, self.weights, self.dtype = config, weights, dtype
        self.metadata = metadata or {}
        self.device = torch.device(device)
        is_native = self.device.type == "cpu" and packed.unavailable() is None
        is_native = is_native and current_backend() in ("auto", "cpu")
        self._network: _Packed | _Folded = (_Packed if is_native else _Folded)(
            config, weights, dtype, self.device
        )
        self._stem_weight = weights["stem.0.weight"].to(self.device)
        self._graphs = GraphCache() if cuda_graph and self.device.type == "cuda" else None

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes, H, W) in float32."""
        logits, size = self.forward_logits(images), images.shape[2:]
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)

    def forward_logits(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes, ceil(H/8), ceil(W/8)) in float32, before resizing to the image."""
        self._check(images)
        if self._graphs is not None:
            return self._through_graph("logits", self._network.logits, images)
        with torch.inference_mode():
            logits = self._network.logits(images)
        return logits.clone() if logits.is_inference() and not torch.is_inference_mode_enabled() else logits

    def predict(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """The most likely class of each pixel: (N, height, width), uint8 up to 256 classes, else int32.

        Args:
            images: (N, C, H, W) normalised images, float32.
            size: height and width of the result; the images' by default.
        """
        self._check(images)
        size = size or (images.shape[2], images.shape[3])
        if self._graphs is not None:
            return self._through_graph(
                tuple(size), lambda pixels: upsample_argmax(self._network.logits(pixels), size), images
            )
        with torch.inference_mode():
            logits = self._network.logits(images)
        with torch.no_grad():  # outside inference mode, so that the caller may change the result in place
            return upsample_argmax(logits, size)

    def _through_graph(self, kind: Hashable, function: Function, images: Tensor) -> Tensor:
        """A graph serves later calls too, whatever mode the first one was in: it is made and used outside of any."""
        assert self._graphs is not None
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return self._graphs((kind, current_backend()), function, images)

    def _check(self, images: Tensor) -> None:
        """One clear line where images do not fit."""
        check_images(f"deployed {self.config.architecture}", images, self._stem_weight)

    def save(self, path: str | Path) -> None:
        """Write folded, unpacked weights and the configuration as safetensors: any machine packs them at loading.

        Written under a temporary name and renamed: never half a file.
        """
        from safetensors.torch import save_file

        from segnext.weights.saving import replace_file

        header = {
            "format": FORMAT,
            "config": json.dumps(asdict(self.config)),
            "dtype": str(self.dtype).removeprefix("torch."),
            "metadata": json.dumps(self.metadata),
        }
        replace_file(path, lambda temporary: save_file(self.weights, temporary, header))

    @classmethod
    def load(
        cls,
        path: str | Path,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        cuda_graph: bool = True,
    ) -> DeployedSegNeXt:
        """Read what `save` wrote.

        Args:
            path: a .safetensors file.
            dtype: instead of the saved one.
            device: where it shall run.
            cuda_graph: see `deploy`.

        Raises:
            FileNotFoundError: no such file. ValueError: not a deployed SegNeXt.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"deploy: {path} does not exist")
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                names = file.keys()
                weights = {name: file.get_tensor(name) for name in names}
        except SafetensorError as error:
            raise ValueError(f"deploy: {path} is not a safetensors file ({error})") from error
        if header.get("format") != FORMAT:
            raise ValueError(
                f"deploy: {path} must be a file of DeployedSegNeXt.save, got other weights; "
                "create_model(weights=...) reads checkpoints, deploy(model) folds them"
            )
        saved = getattr(torch, header["dtype"])
        config = SegNeXtConfig(**json.loads(header["config"]))
        return cls(config, weights, dtype or saved, json.loads(header["metadata"]), device, cuda_graph)


class _Folded:
    """The folded network on the public ops: any device and backend."""

    def __init__(
        self, config: SegNeXtConfig, weights: Weights, dtype: torch.dtype, device: torch.device
    ) -> None:
        # statistics' affine parameters and the NMF's bases stay float32
        wide = {
            name for name in weights if ".norm" in name or name.startswith("norm.") or name == "ham.bases"
        }
        self.w = {
            name: _channels_last(t.to(device, torch.float32 if name in wide else dtype))
            for name, t in weights.items()
        }
        self.config, self.dtype = config, dtype

    def logits(self, images: Tensor) -> Tensor:
        # whatever the caller's layout: the first convolution reads it, and writes channels_last
        x = self._halved(images, "stem.0", act="gelu", channels_last=True)
        features = []
        for stage in range(STAGES):
            x = self._halved(x, f"downsample.{stage - 1}" if stage else "stem.1")
            for block in range(self.config.depths[stage]):
                x = msca_block(x, *msca_block_arguments(self.w, f"attention.{stage}.{block}"))
                x = conv_ffn(x, *conv_ffn_arguments(self.w, f"ffn.{stage}.{block}"), True)
            x = channel_norm(x, self.w[f"norm.{stage}.weight"], self.w[f"norm.{stage}.bias"], NORM_EPS)
            features.append(x)
        return self._decode(features[1:])

    def _halved(self, x: Tensor, prefix: str, act: str = "none", channels_last: bool = False) -> Tensor:
        weight, bias = self.w[f"{prefix}.weight"], self.w[f"{prefix}.bias"]
        return conv2d_act(x, weight, bias, stride=2, padding=1, act=act, channels_last=channels_last)

    def _decode(self, features: Sequence[Tensor]) -> Tensor:
        w = self.w
        levels = [conv2d_act(f, w[f"squeeze.{i}.weight"]) for i, f in enumerate(features)]
        x = self._norm(resize_sum(levels[0], levels[1:]), "squeeze")
        z = conv2d_act(x, w["ham.proj_in.weight"], w["ham.proj_in.bias"], act="relu")
        proj_out = w["ham.proj_out.weight"][:, :, 0, 0]
        z = nmf2d_projected(z.flatten(2), w["ham.bases"], EVAL_STEPS, proj_out).unflatten(2, z.shape[2:])
        x = self._norm(z, "ham", residual=x)
        x = self._norm(conv2d_act(x, w["align.weight"]), "align")
        return conv2d_act(x, w["classifier.weight"], w["classifier.bias"], float32_out=True)

    def _norm(self, x: Tensor, prefix: str, residual: Tensor | None = None) -> Tensor:
        affine = self.w[f"{prefix}.norm.weight"], self.w[f"{prefix}.norm.bias"]
        return group_norm_act(x, GROUPS, *affine, NORM_EPS, residual=residual)


class _Packed:
    """The folded network on packed weights, in planned memory; on a CPU."""

    def __init__(
        self, config: SegNeXtConfig, weights: Weights, dtype: torch.dtype, device: torch.device
    ) -> None:
        w, low = weights, {name: t.to(dtype) for name, t in weights.items()}
        self.config, self.dtype = config, dtype
        stem = partial(packed.PackedConv2d, stride=2, padding=1)
        # The image's few channels are read in float32, whatever follows.
        self.stem = [
            stem(w["stem.0.weight"], w["stem.0.bias"], torch.float32, activation="gelu"),
            stem(w["stem.1.weight"], w["stem.1.bias"], dtype),
        ]
        self.downsamples = [
            stem(w[f"downsample.{i}.weight"], w[f"downsample.{i}.bias"], dtype) for i in range(STAGES - 1)
        ]
        self.blocks = [
            [
                (
                    packed.PackedMscaBlock(msca_block_arguments(low, f"attention.{stage}.{block}")),
                    packed.PackedConvFfn(conv_ffn_arguments(low, f"ffn.{stage}.{block}")),
                )
                for block in range(config.depths[stage])
            ]
            for stage in range(STAGES)
        ]
        self.norms = {
            name.removesuffix(".weight"): (tensor, w[name.removesuffix("weight") + "bias"])
            for name, tensor in w.items()
            if name.endswith(".weight") and "norm" in name
        }
        self.squeeze = [packed.PackedConv2d(w[f"squeeze.{i}.weight"], None, dtype) for i in range(STAGES - 1)]
        self.proj_in = packed.PackedConv2d(
            w["ham.proj_in.weight"], w["ham.proj_in.bias"], dtype, activation="relu"
        )
        self.bases = w["ham.bases"]
        self.proj_out = w["ham.proj_out.weight"].flatten(1)
        self.align = packed.PackedConv2d(w["align.weight"], None, dtype)
        self.classifier = packed.PackedConv2d(w["classifier.weight"], w["classifier.bias"], dtype)
        self._plans: OrderedDict[tuple[int, ...], list[_Plan]] = OrderedDict()
        self._lock = threading.Lock()

    def logits(self, images: Tensor) -> Tensor:
        key = (images.shape[0], *images.shape[2:])
        plan = self._take(key)
        out = self._run(images, plan)
        self._give_back(key, plan)
        return out

    def _take(self, key: tuple[int, ...]) -> _Plan:
        with self._lock:
            free = self._plans.get(key)
            if free:
                return free.pop()
        return _Plan(self.config, self.dtype, *key)

    def _give_back(self, key: tuple[int, ...], plan: _Plan) -> None:
        with self._lock:
            self._plans.setdefault(key, []).append(plan)
            self._plans.move_to_end(key)
            while len(self._plans) > PLANS:
                self._plans.popitem(last=False)

    def _run(self, images: Tensor, plan: _Plan) -> Tensor:
        x = self.stem[0](images, plan.stem)
        features: list[Tensor] = []
        for stage, memory in enumerate(plan.stages):
            x = self.stem[1](x, memory.x) if stage == 0 else self.downsamples[stage - 1](x, memory.x)
            for attention, ffn in self.blocks[stage]:
                ffn(attention(x, memory.y, plan.workspace), x)
            x = packed.channel_norm(x, *self.norms[f"norm.{stage}"], NORM_EPS, memory.feature)
            features.append(x)
        return self._decode(features[1:], plan)

    def _decode(self, features: Sequence[Tensor], plan: _Plan) -> Tensor:
        levels = [layer(f, out) for layer, f, out in zip(self.squeeze, features, plan.levels, strict=True)]
        x = self._norm(packed.resize_sum(levels[0], levels[1:], plan.a), "squeeze", plan.a)
        z = self.proj_in(x, plan.b)
        z = packed.nmf2d(z, self.bases, EVAL_STEPS, self.proj_out, plan.c)
        x = self._norm(z, "ham", plan.b, residual=x)
        x = self._norm(self.align(x, plan.a), "align", plan.a)
        logits = x.new_empty(
            (x.shape[0], self.config.num_classes, *x.shape[2:]), dtype=torch.float32
        ).contiguous(memory_format=torch.channels_last)
        return self.classifier(x, logits)

    def _norm(self, x: Tensor, prefix: str, out: Tensor, residual: Tensor | None = None) -> Tensor:
        return packed.group_norm_act(x, GROUPS, *self.norms[f"{prefix}.norm"], NORM_EPS, residual, out)


class _StageMemory:
    def __init__(self, x: Tensor, y: Tensor, feature: Tensor) -> None:
        self.x, self.y, self.feature = x, y, feature


class _Plan:
    """Where each tensor of one forward pass lies: three regions that all of them share in turn, and the features.

    The first region holds a block's input and the decoder's stem; the second what attention gives to the
    feed-forward network; the third the attention's workspace.
    """

    def __init__(
        self, config: SegNeXtConfig, dtype: torch.dtype, batch: int, height: int, width: int
    ) -> None:
        sizes = [(-(-height // s), -(-width // s)) for s in (2, *STRIDES)]
        shapes = [(batch, c, *size) for c, size in zip(config.channels, sizes[1:], strict=True)]
        stem = (batch, config.channels[0] // 2, *sizes[0])
        wide = (batch, config.decoder_channels, *sizes[2])
        most = max(_count(shape) for shape in (*shapes, wide))
        work = max(packed.workspace_elements(torch.Size(shape)) for shape in shapes)
        x = torch.empty(most, dtype=dtype)
        y = torch.empty(max(most, _count(stem)), dtype=dtype)
        self.workspace = torch.empty(max(work, _count(wide)), dtype=dtype)
        self.stem = _view(y, stem)
        self.stages = []
        for stage, shape in enumerate(shapes):
            # the first stage's feature only feeds the next stage: it stays where it is made
            feature = _view(y, shape) if stage == 0 else _view(torch.empty(_count(shape), dtype=dtype), shape)
            self.stages.append(_StageMemory(_view(x, shape), _view(y, shape), feature))
        self.a, self.b, self.c = (_view(region, wide) for region in (x, y, self.workspace))
        first, *others = [(batch, config.decoder_channels, *shape[2:]) for shape in shapes[1:]]
        small = torch.empty(sum(_count(shape) for shape in others), dtype=dtype)
        self.levels = [_view(x, first)]
        for shape in others:
            self.levels.append(_view(small, shape))
            small = small[_count(shape) :]


def _channels_last(weight: Tensor) -> Tensor:
    """A dense weight with its input channels innermost, as pixels have them; vectors and matrices as they are."""
    return weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight


def _count(shape: Sequence[int]) -> int:
    return torch.Size(shape).numel()


def _view(memory: Tensor, shape: Sequence[int]) -> Tensor:
    """The beginning of a flat tensor as (N, C, H, W) in channels_last."""
    n, c, h, w = shape
    return memory[: _count(shape)].view(n, h, w, c).permute(0, 3, 1, 2)
