"""Prints as JSON what timm and segmentation_models_pytorch make of our encoders; runs where they are installed."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.rivals.torchvision_on_cpu import declare_operators

declare_operators()

import segmentation_models_pytorch as smp  # noqa: E402
import timm  # noqa: E402
from timm.models import group_parameters  # noqa: E402
from timm.optim import create_optimizer_v2  # noqa: E402

import segnext  # noqa: E402
import segnext.integrations.timm  # noqa: E402
from segnext.models.dialects import to_official  # noqa: E402
from segnext.models.mscan import MSCAN  # noqa: E402
from segnext.weights.catalogue import locate  # noqa: E402
from segnext.weights.saving import save  # noqa: E402

FOLDER = Path(sys.argv[1])
CAMVID = str(locate("camvid"))
SMP = (
    *("unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "pan"),
    *("deeplabv3", "deeplabv3plus", "upernet", "segformer"),
)


def images(height: int = 97, width: int = 65, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0))


def trained(model: nn.Module) -> nn.Module:
    """Give a model in evaluation mode layer scales and statistics that show in its output."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(1 + torch.rand(tensor.shape, generator=generator))
        if name.endswith(("layer_scale1", "layer_scale2")):
            tensor.copy_(0.1 * torch.rand(tensor.shape, generator=generator))
    return model.eval()


def shapes(tensors: list[Tensor]) -> list[list[int]]:
    return [list(tensor.shape) for tensor in tensors]


def difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Return the largest difference, as a share of the largest number; both must be finite."""
    assert all(bool(tensor.isfinite().all()) for tensor in (*ours, *theirs))
    largest = max(float(tensor.abs().max()) for tensor in ours)
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)) / largest


def message(call: Callable[[], Any]) -> str:
    try:
        call()
    except (ValueError, RuntimeError, TypeError) as error:
        return str(error)
    return "no error"


def features() -> dict[str, Any]:
    found = {}
    for name, indices in (("default", None), ("last two", 2), ("last", (-1,)), ("first and third", (0, 2))):
        model = timm.create_model("mscan_t", features_only=True, out_indices=indices)
        info = model.feature_info
        found[name] = [shapes(model(images())), info.channels(), info.reduction(), info.module_name()]
    return found


def same_as_ours() -> dict[str, float]:
    theirs = trained(timm.create_model("mscan_t", num_classes=7))
    ours = segnext.mscan_t(num_classes=7)
    ours.load_state_dict(theirs.state_dict())
    pyramid = segnext.mscan_t(features_only=True)
    pyramid.load_state_dict(theirs.state_dict())
    x = images()
    wanted = pyramid.eval()(x)
    found = {"logits": difference([ours.eval()(x)], [theirs(x)])}
    found["intermediates"] = difference(wanted, theirs.forward_intermediates(x, intermediates_only=True))
    for kind in (None, "getter", "hook", "fx"):
        model = timm.create_model("mscan_t", features_only=True, feature_cls=kind)
        state = {
            name: theirs.state_dict()[re.sub(r"^(model|body|graph_module)\.", "", name)]
            for name in model.state_dict()
        }
        nn.Module.load_state_dict(model, state)
        found[str(kind)] = difference(wanted, list(model.eval()(x)))
    return found


def classifier() -> dict[str, Any]:
    model = timm.create_model("mscan_t", num_classes=7).eval()
    pyramid = model.forward_features(images())
    found = {
        "features": list(pyramid.shape),
        "pre_logits": list(model.forward_head(pyramid, pre_logits=True).shape),
        "logits": list(model(images()).shape),
        "attributes": [model.num_classes, model.num_features, model.head_hidden_size],
        "head": type(model.get_classifier()).__name__,
    }
    for name, arguments in (
        ("other", (3,)),
        ("both", (3, "catavgmax")),
        ("none", (0, "avg")),
        ("bare", (0, "")),
    ):
        model.reset_classifier(*arguments)
        found[name] = [list(model(images()).shape), model.head_hidden_size, model.num_classes]
    config = timm.data.resolve_data_config(model=model)
    found["data"] = {key: config[key] for key in ("input_size", "interpolation", "crop_pct", "mean", "std")}
    return found


def checkpoints() -> dict[str, Any]:
    encoder = segnext.create_model(weights="camvid").backbone.eval()
    x = images()
    wanted = encoder(x)
    official = FOLDER / "official.pth"
    torch.save({"state_dict": to_official(segnext.create_model(weights="camvid").state_dict())}, official)
    found = {}
    for name, file in (("ours", CAMVID), ("official", str(official))):
        model = timm.create_model("mscan_t", features_only=True, checkpoint_path=file).eval()
        found[name] = difference(wanted, model(x))
    whole = trained(timm.create_model("mscan_t", num_classes=7))
    save(whole, FOLDER / "classifier.safetensors", {"classes": list("abcdefg")})
    again = segnext.create_model(weights=FOLDER / "classifier.safetensors").eval()
    found["saved by segnext"] = difference([whole(x)], [again(x)])
    file = str(FOLDER / "classifier.safetensors")
    read = timm.create_model("mscan_t", num_classes=7, checkpoint_path=file).eval()
    found["classifier"] = difference([whole(x)], [read(x)])
    overlay = {"file": CAMVID}
    model = timm.create_model(
        "mscan_t", pretrained=True, pretrained_cfg_overlay=overlay, features_only=True, in_chans=1
    )
    first = encoder.stem.conv1.weight.sum(1, keepdim=True)
    found["one channel"] = difference([first], [model.stem.conv1.weight])
    report = segnext.load_weights(timm.create_model("mscan_t", features_only=True), "camvid", part="backbone")
    found["matched"] = len(report.matched) == len(encoder.state_dict())
    decoder = segnext.segnext_t()
    decoder.backbone = timm.create_model("mscan_t", features_only=True)
    found["as a backbone of ours"] = list(decoder(images()).shape)
    return found


def recompute() -> dict[str, Any]:
    model = timm.create_model("mscan_t", num_classes=7)
    model.train()
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(images()).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    switched = [part.recompute for part in model.modules() if hasattr(part, "recompute")]
    return {
        "gradients": difference(*gradients),
        "switched": all(switched) and len(switched) > 0,
        "batches": int(model.stem.norm1.num_batches_tracked),
    }


def dilated() -> dict[str, Any]:
    """A dilated network has the features of the plain one at every second (or fourth) position."""
    plain = trained(timm.create_model("mscan_t", features_only=True))
    found = {}
    for stride in (16, 8):
        model = timm.create_model("mscan_t", features_only=True, output_stride=stride).eval()
        model.load_state_dict(plain.state_dict())
        x = images(128, 64)
        pairs = [
            (a, b[..., :: b.shape[2] // a.shape[2], :: b.shape[3] // a.shape[3]])
            for a, b in zip(plain(x), model(x), strict=True)
        ]
        found[str(stride)] = [
            difference([a for a, _ in pairs], [b for _, b in pairs]),
            model.feature_info.reduction(),
            shapes(model(x)),
        ]
    return found


def rates() -> dict[str, Any]:
    model = timm.create_model("mscan_t", drop_path_rate=0.3, drop_rate=0.5)
    pooled = model.train().forward_head(torch.ones(2, 256, 4, 4), pre_logits=True)
    return {
        "drop_path": [timm.create_model("mscan_l").stages[3][2].drop_path, model.stages[3][1].drop_path],
        "dropped": float((pooled == 0).float().mean()),
    }


def groups() -> dict[str, Any]:
    model = timm.create_model("mscan_t")
    found = {}
    for coarse in (True, False):
        names = group_parameters(model, model.group_matcher(coarse))
        found["coarse" if coarse else "fine"] = [
            sorted({".".join(name.split(".")[:2]) for name in names[i]}) for i in sorted(names)
        ]
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.1, layer_decay=0.5)
    spared = {
        id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]
    }
    found["vectors are spared"] = all((id(p) in spared) == (p.ndim < 2) for p in model.parameters())
    return found


def errors() -> dict[str, str]:
    return {
        "stage": message(lambda: timm.create_model("mscan_t", features_only=True, out_indices=(4,))),
        "pool": message(lambda: timm.create_model("mscan_t", global_pool="")),
        "stride": message(lambda: timm.create_model("mscan_t", output_stride=4)),
        "field": message(lambda: timm.create_model("mscan_t", qkv_bias=True)),
        "download": message(lambda: timm.create_model("mscan_t", pretrained=True)),
    }


def segmentation_models() -> dict[str, Any]:
    found = {}
    for name in SMP:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = smp.create_model(name, "tu-mscan_t", encoder_weights=None, classes=11)
        logits = model(images(256, 128))
        logits.mean().backward()
        found[name] = [list(logits.shape), [n for n, p in model.named_parameters() if p.grad is None]]
    return found


def main() -> None:
    torch.manual_seed(0)
    made = timm.create_model("mscan_t")
    found = {
        "names": timm.list_models("mscan*"),
        "is ours": isinstance(made, MSCAN),
        "keys": list(made.state_dict()) == list(segnext.mscan_t().state_dict()),
    }
    for part in (
        *(features, same_as_ours, classifier, checkpoints, recompute),
        *(dilated, rates, groups, errors, segmentation_models),
    ):
        with torch.set_grad_enabled(part in (recompute, segmentation_models)):
            found[part.__name__] = part()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
