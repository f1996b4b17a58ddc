"""Makes a SegNeXt of a model that other code built: mmsegmentation, the official code, OpenVINO Training Extensions.

Weights are copied once, in memory. What no tensor shows is read from the attributes of the modules
(`segnext.weights.module_config`). Then both models run on two small images (`segnext.weights.comparison`), and a model
that computes something else is refused.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from segnext.models import SegNeXt, build, dialects
from segnext.models.finite import expect_values
from segnext.models.values import FLOATING, expect_weights
from segnext.one_line import one_line
from segnext.weights.comparison import expect_equal
from segnext.weights.identify import channels_and_depths
from segnext.weights.module_config import COMPILED, factorisations, keep_order, meta_of, settings_of
from segnext.weights.reading import FIRST_CONVOLUTION, Checkpoint, foreign_checkpoint, some
from segnext.weights.saving import METADATA_KEYS

# Wrappers whose result is that of the module inside, which they keep as `module`.
TRANSPARENT = (DataParallel, DistributedDataParallel, AveragedModel)
# Beginnings of names that all other code bases in PyTorch have.
PARTS = {
    "backbone": ("patch_embed1.proj.0.weight", "block1.0.attn.spatial_gating_unit.", "norm4.weight"),
    "decode_head": ("squeeze.conv.weight", "hamburger.ham_in.", "conv_seg.weight"),
}
# Of models with channels and depths of no known architecture; SegNeXt takes them with every name.
ANY_ARCHITECTURE = "segnext_t"
logger = logging.getLogger("segnext")


class _Contents(NamedTuple):
    """What a model holds.

    Attributes:
        checkpoint: its tensors in our names, and its settings.
        state: its tensors in its own names, in the same order.
        factorisation: its module that has or draws the NMF bases.
        is_turned: whether it takes images with blue first, and those in ``checkpoint`` are for red first.
    """

    checkpoint: Checkpoint
    state: dict[str, Tensor]
    factorisation: nn.Module
    is_turned: bool


def from_module(model: nn.Module, *, what: str = "from_module", rgb: bool = False) -> SegNeXt:
    """Return a SegNeXt with copies of the weights of a model that other code built, which is left as it was.

    The result is in evaluation mode and in float32, on the device of ``model``, and takes the same normalised images.
    As a loaded model it has fixed NMF bases: those that ``model`` keeps, else those that every SegNeXt begins with. Its
    ``metadata`` has classes, palette and preprocessing, where the model knows them.

    Args:
        model: a module with a ``backbone`` (an MSCAN) and a ``decode_head`` (a LightHamHead). It may be compiled, or in
            DataParallel, DistributedDataParallel or AveragedModel. A SegNeXt is returned as it is.
        what: begins the messages.
        rgb: let the result take images with red first, also if ``model`` takes them with blue first (its
            ``data_preprocessor`` says so): its first convolution, mean and std are turned, as those of a file.

    Raises:
        TypeError: it is no SegNeXt, or it is scripted, traced or sharded.
        ValueError: it has no memory, is quantised, has hooks, further tensors or settings that we cannot compute, or it
            computes something else than the SegNeXt that was made of it; the message names the part.
    """
    segmentor = unwrapped(model)
    if isinstance(segmentor, SegNeXt):
        return segmentor
    with torch.inference_mode(False), torch.no_grad():  # what inference mode makes could not be trained
        _expect_readable(what, segmentor)
        contents = _read(what, segmentor, rgb)
        built = _built(what, contents.checkpoint)
        wide = _in_float32(contents, built)
        expect_equal(what, segmentor, built, contents.factorisation, wide, contents.is_turned)
    _log(what, contents.checkpoint, built)
    return built


def unwrapped(model: Any) -> Any:
    """Return the module inside of wrappers that compute nothing of their own: torch.compile's and `TRANSPARENT`."""
    while isinstance(model, nn.Module):
        is_wrapper = isinstance(model, TRANSPARENT)
        inner = model.module if is_wrapper else dict(model.named_children()).get(COMPILED)
        if inner is None:
            break
        model = inner
    return model


def _expect_readable(what: str, model: Any) -> None:
    """Raise unless a model is a segmentor of ordinary modules, without hooks."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{what}: model must be a SegNeXt, got {one_line(type(model).__name__)}")
    for name, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule):
            raise TypeError(
                f"{what}: model must have modules that can be read, got {_place(name, kind)}, which is scripted or "
                "traced; pass the model that it was made from"
            )
        if kind == "FullyShardedDataParallel" or any(map(_is_sharded, module._parameters.values())):
            raise TypeError(
                f"{what}: model must have all of its weights in this process, got {_place(name, kind)}, which is "
                "sharded; load the result of torch.distributed.checkpoint.state_dict.get_model_state_dict with "
                "StateDictOptions(full_state_dict=True) into a model that is not"
            )
    _expect_parts(what, model)
    for name, module in model.named_modules():
        if (module._forward_hooks or module._forward_pre_hooks) and not dialects.BESIDE.match(f"{name}."):
            raise ValueError(
                f"{what}: model must have the layers that it was built with, got {name or type(model).__name__} (has "
                "forward hooks); remove them, or use the model as it is"
            )


def _expect_parts(what: str, model: nn.Module) -> None:
    """Raise a TypeError, which names what is missing, unless a model has the parts of a SegNeXt."""
    children = dict(model.named_children())
    kind = type(model).__name__
    inner = next(
        (name for name, child in children.items() if PARTS.keys() <= dict(child.named_children()).keys()), ""
    )
    lacking = [part for part in PARTS if part not in children]
    reason = f"has no {' and no '.join(lacking)}"
    if not lacking:
        names = [_bare(name) for name in model.state_dict()]
        missing = (
            (part, beginning)
            for part, beginnings in PARTS.items()
            for beginning in beginnings
            if not any(name.startswith(f"{part}.{beginning}") for name in names)
        )
        if (found := next(missing, None)) is None:
            return
        reason = f"has no {found[0]}.{found[1].rstrip('.')}"
    remedy = f"pass its .{inner}" if inner else "encoders and other networks are not taken"
    raise TypeError(f"{what}: model must be a SegNeXt, got {kind}, which {reason}; {remedy}")


def _read(what: str, model: nn.Module, rgb: bool) -> _Contents:
    """Read tensors and settings.

    Raises:
        ValueError: they are not those of a SegNeXt that we compute.
    """
    state = {name: value for name, value in model.state_dict().items() if not dialects.BESIDE.match(name)}
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.is_quantized or not _is_plain(name, value):
            dtype = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
            raise ValueError(
                f"{what}: model must have floating weights, got {dtype} in {one_line(name)}; pass the model as it was "
                "before it was quantised"
            )
    expect_values(what, state)
    if len(devices := sorted({str(value.device) for value in state.values()})) > 1:
        raise ValueError(
            f"{what}: model must be on one device, got {', '.join(devices)}; call model.to(device) first"
        )
    found = factorisations(model)
    if len(found) != 1:
        raise ValueError(
            f"{what}: decode_head.hamburger must have one module with the attributes R and eval_steps, got {len(found)}"
        )
    (factorisation,) = found
    if not getattr(factorisation, "rand_init", True) and getattr(factorisation, "bases", None) is None:
        raise ValueError(
            f"{what}: model must have its NMF bases, got rand_init=False and none yet; run it on one image first"
        )
    translation = dialects.translate({_bare(name): value for name, value in state.items()})
    settings = settings_of(model, factorisation)
    is_turned = settings.bgr and rgb
    if settings.bgr and not rgb:
        keep_order(settings)
    if settings.refusals:
        raise ValueError(f"{what}: {'; '.join(settings.refusals)}; use the model as it is")
    kind = type(model).__name__
    checkpoint = foreign_checkpoint(
        settings,
        meta_of(model),
        translation,
        translation.tensors,
        what,
        f"{kind} in memory ({translation.dialect} layout)",
    )
    return _Contents(checkpoint, state, factorisation, is_turned)


def _built(what: str, checkpoint: Checkpoint) -> SegNeXt:
    """Build the model of a checkpoint in evaluation mode, with copies of its tensors in float32."""
    config, tensors = checkpoint.config, checkpoint.tensors
    fields = dict(config["model"])
    if "architecture" not in config:
        fields["channels"], fields["depths"] = channels_and_depths(tensors, dialects.BACKBONE_PREFIX)
    with torch.device("meta"):  # no memory is filled twice, and no random number is drawn
        model = build(config.get("architecture", ANY_ARCHITECTURE), **fields)
    assert isinstance(model, SegNeXt)
    own = model.state_dict()
    problems = {
        "missing": [key for key in own if key not in tensors and not key.endswith(dialects.OPTIONAL)],
        "further": [key for key in tensors if key not in own],
        "of another shape": [key for key in own if key in tensors and tensors[key].shape != own[key].shape],
    }
    listed = "; ".join(f"{len(keys)} {title}: {some(keys)}" for title, keys in problems.items() if keys)
    if listed:
        raise ValueError(
            f"{what}: model must have the tensors of {model.config.architecture}, got {listed}; take off what was "
            "added (adapters, pruning, parametrisations), or use the model as it is"
        )
    expect_weights(what, tensors, own)
    copies = {
        key: tensor.to(own[key].dtype, copy=True, memory_format=torch.contiguous_format)
        for key, tensor in tensors.items()
    }
    model.load_state_dict(copies, assign=True, native=True)
    model.metadata = {key: config[key] for key in METADATA_KEYS if key in config}
    return model.eval()


def _in_float32(contents: _Contents, built: SegNeXt) -> dict[str, Tensor]:
    """Return float32 values for those tensors of a model that are of another dtype, by their names in that model.

    In half precision the NMF overflows, and rounding would hide what differs.
    """
    own, found = built.state_dict(), {}
    for (name, value), key in zip(contents.state.items(), contents.checkpoint.tensors, strict=True):
        if value.dtype != own[key].dtype:
            tensor = own[key].view(value.shape)
            is_first = key == f"{dialects.BACKBONE_PREFIX}{FIRST_CONVOLUTION}"
            found[name] = tensor.flip(1) if is_first and contents.is_turned else tensor
    return found


def _log(what: str, checkpoint: Checkpoint, built: SegNeXt) -> None:
    """Say where what no tensor shows comes from; warn of what was left out."""
    corners = "align_corners "
    said = [f"rank {built.config.rank} {checkpoint.rank_from}"]
    said += [text for text in checkpoint.settings if not text.startswith(corners)]
    said.append(f"{corners}{built.config.align_corners}, as it resizes its logits")
    logger.info("%s: %s", checkpoint.origin, "; ".join(said))
    for note in checkpoint.notes:
        logger.warning("%s: %s", what, note)


def _bare(name: str) -> str:
    """Return a name without what torch.compile puts before a part."""
    return name.replace(f"{COMPILED}.", "")


def _place(name: str, kind: str) -> str:
    return f"{name} ({kind})" if name else kind


def _is_sharded(parameter: Tensor | None) -> bool:
    return type(parameter).__name__ == "DTensor"


def _is_plain(name: str, tensor: Tensor) -> bool:
    """Whether a tensor of a state dict is an ordinary one of floating numbers, or a BatchNorm's counter."""
    return type(tensor) is Tensor and (tensor.dtype in FLOATING or name.endswith("num_batches_tracked"))
