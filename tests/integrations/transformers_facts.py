"""Prints as JSON what transformers, accelerate and PEFT do with a SegNeXt; runs where they are installed."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.rivals.torchvision_on_cpu import declare_operators

declare_operators()

import transformers  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    Trainer,
    TrainingArguments,
    pipeline,
)

import segnext  # noqa: E402
from segnext.integrations.transformers import (  # noqa: E402
    SegNextConfig,
    SegNextForSemanticSegmentation,
)

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(sys.argv[1])
SAVED = FOLDER / "camvid"
PHOTOGRAPH = Image.open(ROOT / "docs" / "street.jpg").convert("RGB")


def images(height: int = 65, width: int = 97) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def largest(a: Tensor, b: Tensor) -> float:
    """Return the largest difference, as a share of the largest number."""
    assert bool(a.isfinite().all()) and a.shape == b.shape
    return float(((a - b).abs().max() / a.abs().max()).detach())


def message(call: Callable[[], Any]) -> str:
    try:
        call()
    except (ValueError, TypeError) as error:
        return str(error)
    return "no error"


def forward() -> dict[str, Any]:
    model = SegNextForSemanticSegmentation.from_segnext("camvid")
    x = images()
    output = model(x, output_hidden_states=True)
    labels = torch.randint(11, (2, 130, 194), generator=torch.Generator().manual_seed(0))
    labels[0, :20] = 255
    wanted = F.cross_entropy(
        F.interpolate(output.logits, size=labels.shape[1:], mode="bilinear"), labels, ignore_index=255
    )
    return {
        "logits": largest(model.model.forward_logits(x), output.logits),
        "shape": list(output.logits.shape),
        "hidden": [list(feature.shape) for feature in output.hidden_states],
        "loss": largest(wanted, model(x, labels=labels).loss),
        "tuple": [list(part.shape) for part in model(x, return_dict=False)],
        "no hidden states": model(x).hidden_states is None,
        "sizes": [model.config.num_channels, model.config.hidden_sizes],
    }


def other_logits() -> dict[str, Any]:
    """Models whose logits transformers would resize, or take the largest of, otherwise than segnext does."""
    found = {}
    for name, options in (("corners", {"align_corners": True}), ("threshold", {"threshold": 0.3})):
        classes = 2 if name == "threshold" else 5
        ours = segnext.segnext_t(num_classes=classes, **options).eval()
        torch.nn.init.normal_(ours.decoder.classifier.weight)
        model = SegNextForSemanticSegmentation.from_segnext(ours)
        again = SegNextForSemanticSegmentation(SegNextConfig(**json.loads(model.config.to_json_string())))
        again.load_state_dict(model.state_dict())
        output = again.eval()(images())
        masks = model.image_processor().post_process_semantic_segmentation(output, [(65, 97)] * 2)
        found[name] = float((torch.stack(masks) == ours.predict(images())).float().mean())
    return found


def files() -> dict[str, Any]:
    model = SegNextForSemanticSegmentation.from_segnext("camvid")
    model.save_pretrained(SAVED)
    model.image_processor().save_pretrained(SAVED)
    again = AutoModelForSemanticSegmentation.from_pretrained(SAVED)
    processor = AutoImageProcessor.from_pretrained(SAVED)
    own, read = model.state_dict(), again.state_dict()
    other = AutoModelForSemanticSegmentation.from_pretrained(
        SAVED, num_labels=5, ignore_mismatched_sizes=True
    )
    drawn = other.model.decoder.classifier
    small = AutoModelForSemanticSegmentation.from_pretrained(SAVED, dtype=torch.bfloat16)
    return {
        "files": sorted(path.name for path in SAVED.iterdir()),
        "classes": [type(again).__name__, type(processor).__name__],
        "training": again.training,
        "equal": own.keys() == read.keys() and all(torch.equal(own[key], read[key]) for key in own),
        "id2label": again.config.id2label[4] == "pavement" and again.config.label2id["pavement"] == 4,
        "metadata": {key: again.model.metadata[key] for key in ("preprocessing", "palette")},
        "processor": {key: getattr(processor, key) for key in ("do_resize", "image_mean", "image_std")},
        "size": [processor.size["shortest_edge"], processor.size["longest_edge"]],
        "bfloat16": str(small.dtype),
        "other classes": [list(drawn.weight.shape), 0.005 < float(drawn.weight.std()) < 0.02],
        "other metadata": sorted(other.model.metadata),
        "from config": type(AutoModelForSemanticSegmentation.from_config(AutoConfig.from_pretrained(SAVED))).__name__,
    }  # fmt: skip


def missing_tensors() -> dict[str, Any]:
    """A file without some tensors of a layer: those are drawn, and its others are kept."""
    tensors = load_file(SAVED / "model.safetensors")
    beginnings = ("num_batches_tracked", "layer_scale1", "fc1.bias", "hamburger.bases")
    kept = {key: tensor for key, tensor in tensors.items() if not key.endswith(beginnings)}
    folder = FOLDER / "missing"
    AutoConfig.from_pretrained(SAVED).save_pretrained(folder)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    read = AutoModelForSemanticSegmentation.from_pretrained(folder).state_dict()
    block = "model.backbone.stages.0.0."
    return {
        "kept": all(torch.equal(read[key], tensor) for key, tensor in kept.items()),
        "drawn": [
            float(read[f"{block}layer_scale1"].mean()),
            float(read[f"{block}ffn.fc1.bias"].abs().max()),
            int(read[f"{block}norm1.num_batches_tracked"]),
        ],
        "bases": torch.equal(
            read["model.decoder.hamburger.bases"], segnext.segnext_t().decoder.hamburger.bases
        ),
    }


def masks() -> dict[str, Any]:
    """Shares of equal pixels between the ways to the mask of a photograph."""
    wanted = segnext.Predictor("camvid")(PHOTOGRAPH)
    model = AutoModelForSemanticSegmentation.from_pretrained(SAVED)
    processor = AutoImageProcessor.from_pretrained(SAVED)
    inputs = processor(images=PHOTOGRAPH, return_tensors="pt")
    size = (PHOTOGRAPH.height, PHOTOGRAPH.width)
    by_hand = processor.post_process_semantic_segmentation(model(**inputs), [size])[0].numpy()
    complaints = BufferingHandler(100)
    logging.getLogger("transformers.pipelines.base").addHandler(complaints)
    segments = pipeline("image-segmentation", model=str(SAVED))(PHOTOGRAPH)
    piped = np.full(wanted.mask.shape, 255)
    for segment in segments:
        piped[np.asarray(segment["mask"]) > 0] = model.config.label2id[segment["label"]]
    half = PHOTOGRAPH.resize((481, 363))
    smaller = processor(images=half, return_tensors="pt")
    resized = processor.post_process_semantic_segmentation(model(**smaller), [(363, 481)])[0].numpy()
    return {
        "by hand": float((by_hand == wanted.mask).mean()),
        "pipeline": float((piped == wanted.mask).mean()),
        "labels": sorted(segment["label"] for segment in segments),
        "complaints": [record.getMessage()[:80] for record in complaints.buffer],
        "resized": float((resized == segnext.Predictor("camvid")(half).mask).mean()),
        "predictor": float((segnext.Predictor(model.model)(PHOTOGRAPH).mask == wanted.mask).mean()),
    }


def training() -> dict[str, Any]:
    torch.manual_seed(0)
    labels = torch.ones(4, 64, 64, dtype=torch.long)
    examples = [
        {"pixel_values": x, "labels": y} for x, y in zip(torch.randn(4, 3, 64, 64), labels, strict=True)
    ]
    found: dict[str, Any] = {}
    for name, options in (("plain", {}), ("recomputed", {"gradient_checkpointing": True})):
        model = SegNextForSemanticSegmentation(SegNextConfig(num_labels=3))
        arguments = TrainingArguments(
            str(FOLDER / name), max_steps=2, per_device_train_batch_size=4, learning_rate=1e-3, logging_steps=1,
            report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no", **options,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=examples)
        trainer.train()
        found[name] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        found[f"{name} recompute"] = [
            model.gradient_checkpointing,
            model.model.backbone.stages[0][0].ffn.recompute,
        ]
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), 1e-3))
    batch = {"pixel_values": images(), "labels": torch.ones(2, 65, 97, dtype=torch.long)}
    losses = []
    for _ in range(2):
        loss = model(**batch).loss
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    found["accelerate"] = losses
    return found


def adapters() -> dict[str, Any]:
    plain = SegNextForSemanticSegmentation.from_segnext("camvid")
    before = plain(images()).logits
    lora = LoraConfig(
        r=4, target_modules=["fc1", "fc2", "proj_in", "proj_out", "mix"], modules_to_save=["classifier"]
    )
    model = get_peft_model(plain, lora)
    after = model.eval()(pixel_values=images()).logits
    model.train()(pixel_values=images(), labels=torch.ones(2, 65, 97, dtype=torch.long)).loss.backward()
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return {
        "start": largest(before, after),
        "trained": all("lora" in name or "classifier" in name for name in trained) and len(trained) > 50,
        "gradients": all(
            parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad
        ),
    }


def errors() -> dict[str, str]:
    wrap = SegNextForSemanticSegmentation.from_segnext
    return {
        "architecture": message(lambda: SegNextConfig(architecture="segnext_x")),
        "encoder": message(lambda: wrap(segnext.mscan_t())),
        "classes": message(lambda: wrap("camvid", id2label={0: "road", 1: "other"})),
        "bands": message(lambda: wrap(segnext.segnext_t(in_channels=4), preprocessing={
            "mean": [1] * 4, "std": [1] * 4, "bands": [0, 1, 2, 3]}).image_processor()),
    }  # fmt: skip


def main() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)  # gradient_checkpointing has a new name in transformers 6
    found = {}
    for part in (forward, other_logits, files, missing_tensors, masks, training, adapters, errors):
        with torch.set_grad_enabled(part in (training, adapters)):
            found[part.__name__] = part()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
