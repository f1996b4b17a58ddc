"""Prints as JSON how far PEFT's adapters on fused models are from the same on unfused ones; runs where PEFT is."""

from __future__ import annotations

import copy
import json
from typing import Any

import torch
from torch import Tensor, nn

from bench.rivals.torchvision_on_cpu import declare_operators

declare_operators()

from peft import LoraConfig, get_peft_model  # noqa: E402

import segnext  # noqa: E402
from oracle import foreign_models  # noqa: E402

FOREIGN = ("fc1", "proj_1", "conv3")  # 1x1 convolutions: of one kind of each part, so that others stay fused
OURS = ("fc2", "proj_in", "mix")


def visible(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_scale" in name:
                parameter.fill_(0.5)
    return model.eval()


def observed(model: nn.Module) -> nn.Module:
    """Let every layer be called, by hooks that do nothing."""
    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *call: None)
    return model


def adapted(model: nn.Module, targets: tuple[str, ...]) -> Any:
    """Give a model adapters that show in its results; PEFT's own begin with zeros."""
    adapted_model = get_peft_model(model, LoraConfig(target_modules=list(targets), r=2))
    torch.manual_seed(1)
    for name, parameter in adapted_model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, 0.0, 0.1)
    return adapted_model


def outcome(model: Any, images: Tensor) -> dict[str, Tensor]:
    """The logits, the gradients, and the logits after the adapters have become weights."""
    torch.manual_seed(2)
    logits = model(images)
    logits.square().mean().backward()
    found = {
        name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    torch.manual_seed(2)
    with torch.no_grad():
        merged = model.merge_and_unload()(images)
    return {"logits": logits.detach(), "merged": merged, **found}


def plain_logits(model: nn.Module, images: Tensor) -> Tensor:
    torch.manual_seed(2)
    with torch.no_grad():
        result: Tensor = model(images)
    return result


def differences(got: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    assert got.keys() == expected.keys()
    gradients = got.keys() - {"logits", "merged"}
    floor = 0.05 * max(expected[name].abs().max().item() for name in gradients)
    errors = {}
    for name, tensor in expected.items():
        size = max(tensor.abs().max().item(), floor if name in gradients else 0.0)
        errors[name] = (got[name] - tensor).abs().max().item() / size
    worst = max(errors[name] for name in gradients)
    return {"logits": errors["logits"], "merged": errors["merged"], "gradients": worst}


def main() -> None:
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    plain = visible(foreign_models.segnext("tiny", classes=5))
    expected = outcome(adapted(copy.deepcopy(plain), FOREIGN), images)
    facts: dict[str, Any] = {}

    model = copy.deepcopy(plain)
    facts["patched"] = len(segnext.patch(model).patched)
    facts["patched, then LoRA"] = differences(outcome(adapted(model, FOREIGN), images), expected)

    model = adapted(copy.deepcopy(plain), FOREIGN)
    report = segnext.patch(model)
    facts["left"] = [part.reason for part in report.left]
    facts["LoRA, then patched"] = differences(outcome(model, images), expected)

    torch.manual_seed(0)
    # in float64: a ReLU whose input is zero but for rounding lets a gradient of float32 jump
    ours, images = visible(segnext.create_model("segnext_t", num_classes=5)).double(), images.double()
    expected = outcome(adapted(observed(copy.deepcopy(ours)), OURS), images)
    facts["LoRA shows"] = (expected["logits"] - plain_logits(ours, images)).abs().max().item()
    facts["LoRA on segnext_t"] = differences(outcome(adapted(ours, OURS), images), expected)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
