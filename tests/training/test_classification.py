"""An encoder learns to classify, and a run that was stopped goes on bit-identically."""

import io
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from segnext import create_model
from segnext.data.classification import ClassFolders, open_class_folders
from segnext.data.config import load_data_config
from segnext.evaluation.classification import Accuracy, evaluate_classifier
from segnext.models import MSCAN, build
from segnext.training.classification import (
    classifier_factor,
    decay_groups,
    soft_cross_entropy,
    train_classifier,
)
from segnext.training.classifier_settings import ClassifierSettings, ViewSettings
from segnext.training.loop import CHECKPOINT, FINAL
from segnext.training.settings import Reporting
from tests.data.class_folders import FOLDERS, write_class_folders
from tests.data.synthetic import write_data_set
from tests.processes import ended
from tests.training.processes import start
from tests.training.runs import Trigger, assert_equal_runs, header, rows, tensors

NARROW: dict[str, Any] = {"channels": (8, 16, 24, 32), "depths": (1, 1, 1, 2), "num_classes": 3}
SETTINGS: dict[str, Any] = {
    **{"steps": 10, "batch_size": 6, "crop": 32, "scale": (0.5, 1.0), "warmup": 2, "lr": 3e-3},
    **{"schedule": "cosine", "ema": 0.5, "label_smoothing": 0.1, "clip": 0.0},
}
# Each process mixes its own images, so that two of them are one with parts only without mixing.
PARTS: dict[str, Any] = {"batch_size": 4, "steps": 3, "views": ViewSettings(mixup=0, cutmix=0)}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> ClassFolders:
    return open_class_folders(write_class_folders(tmp_path_factory.mktemp("imagenet"), 10, 4))


def narrow(seed: int = 0, **changes: Any) -> MSCAN:
    torch.manual_seed(seed)
    model = build("mscan_t", **{**NARROW, **changes})
    assert isinstance(model, MSCAN)
    return model


def run(
    data: ClassFolders,
    output: Path,
    *,
    model: MSCAN | None = None,
    file: io.StringIO | None = None,
    views: ViewSettings | None = None,
    resume: bool = False,
    **settings: Any,
) -> Accuracy | None:
    return train_classifier(
        model or narrow(),
        data,
        output,
        ClassifierSettings(**{**SETTINGS, **settings}, views=views or ViewSettings()),
        Reporting(checkpoint_every=4, log_every=1, workers=0, eval_every=5),
        resume=resume,
        console=Console(file=file or io.StringIO(), width=200),
    )


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> Path:
    """Return the folder of a run of ten steps, two epochs, without a stop."""
    folder = tmp_path_factory.mktemp("whole")
    run(data, folder)
    return folder


def test_two_epochs_of_noise_in_three_colours_are_learnt(data, tmp_path):
    # DeiT's strongest changes hide the colours, which are all that there is to learn.
    views = ViewSettings(rand_augment=0, erase=0.1, mixup=0.2, repeats=1)
    before = evaluate_classifier(narrow().eval(), data.open("val"), side=32)
    after = run(data, tmp_path / "run", views=views)
    assert after is not None and before.top1 < 0.7 < 0.9 <= after.top1


def test_the_files_of_a_run(data, whole):
    recorded = [row for row in rows(whole) if row[3]]
    assert [row[0] for row in recorded] == ["5", "10"]
    first = (whole / "results.csv").read_text().splitlines()[0]
    assert first == "step,loss,learning_rate,images_per_second,val_top1,val_top5"
    model = create_model(weights=whole / FINAL)
    assert isinstance(model, MSCAN) and model.metadata["classes"] == list(FOLDERS)
    recipe = model.metadata["recipe"]
    assert (recipe["mixup"], recipe["crop"], recipe["data"]) == (0.8, 32, "imagenet")
    assert not {"distort", "reduction", "balance"} & recipe.keys()
    measured = evaluate_classifier(model.eval(), data.open("val"), side=32)
    assert model.metadata["metrics"]["hits_top1"] == measured.hits[0]


def test_a_stopped_run_goes_on_bit_identically(data, whole, tmp_path):
    interrupt = Trigger("step 6/10", lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path, file=interrupt)
    assert header(tmp_path / CHECKPOINT)["step"] == "6"
    torch.manual_seed(99)  # initial model and generator differ: both must come from the checkpoint
    run(data, tmp_path, model=narrow(seed=7), resume=True)
    assert_equal_runs(whole, tmp_path)


def test_the_comparison_sees_other_views(data, whole, tmp_path):
    run(data, tmp_path / "run", views=ViewSettings(erase=0))
    with pytest.raises(AssertionError, match="tensors differ"):
        assert_equal_runs(whole, tmp_path / "run")


def test_a_run_with_other_views_is_not_resumed(data, whole):
    with pytest.raises(ValueError, match=r"settings must be those .* got mixup 0.8 -> 0.5"):
        run(data, whole, views=ViewSettings(mixup=0.5), resume=True)


def test_the_encoder_starts_a_segmentation(whole):
    sizes = {name: NARROW[name] for name in ("channels", "depths")}
    model = create_model("segnext_t", whole / FINAL, 5, part="backbone", **sizes)
    encoder = create_model(weights=whole / FINAL)
    assert torch.equal(model.backbone.stem.conv1.weight, encoder.stem.conv1.weight)


def test_models_that_do_not_classify_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="model must have a head of 3 classes, got none"):
        run(data, tmp_path, model=narrow(features_only=True))
    with pytest.raises(ValueError, match="num_classes of the model must be 3 for imagenet, got 4"):
        run(data, tmp_path, model=narrow(num_classes=4))
    with pytest.raises(ValueError, match="must take the 3 channels of RGB .* got in_channels=4 with 3 means"):
        run(data, tmp_path, model=narrow(in_channels=4))
    segmentation: Any = build("segnext_t", num_classes=3)
    with pytest.raises(TypeError, match="model must be an MSCAN, got SegNeXt"):
        run(data, tmp_path, model=segmentation)
    assert not list(tmp_path.iterdir())


def test_the_learning_rate_is_that_of_the_published_schedule():
    factors = [classifier_factor(step, 300, 5, "cosine") for step in range(300)]
    assert factors[0] == pytest.approx(1e-3) and max(factors) == factors[5]  # 1e-6 of 1e-3
    assert factors[150] == pytest.approx((1 + 0.01) / 2) and factors[299] == pytest.approx(0.01, rel=1e-2)


def test_vectors_do_not_decay():
    matrices, vectors = decay_groups(narrow(), 1e-3, 0.05)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.05, 0.0)
    names = {id(parameter): name for name, parameter in narrow().named_parameters()}
    assert len(matrices["params"]) + len(vectors["params"]) == len(names)
    assert all(parameter.ndim == 1 for parameter in vectors["params"])


def test_the_loss_is_the_cross_entropy_of_probabilities():
    logits, targets = torch.randn(5, 7), torch.rand(5, 7).softmax(1)
    expected = torch.nn.functional.cross_entropy(logits, targets)
    torch.testing.assert_close(soft_cross_entropy(logits, targets), expected)


def test_two_processes_are_two_parts_of_one(data, tmp_path):
    root = data.splits["train"].parent
    script = (
        "from tests.training import test_classification as here\n"
        f"here.run(here.open_class_folders({str(root)!r}), folder, **here.PARTS)"
    )
    unused = load_data_config(write_data_set(tmp_path / "houses"))  # every process of `start` reads one
    results = ended(start(2, unused, tmp_path / "together", script))
    assert [status for status, _, _ in results] == [0, 0], results[0][2] + results[1][2]
    run(data, tmp_path / "one", **PARTS, accumulate=2)
    mine, theirs = tensors(tmp_path / "one" / FINAL), tensors(tmp_path / "together" / FINAL)
    for name, tensor in mine.items():
        if "running_" not in name and "num_batches" not in name:
            torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4, msg=name)
    (alone,), (together,) = ([row for row in rows(tmp_path / n) if row[3]] for n in ("one", "together"))
    assert together[0] == alone[0] == "3"
    assert create_model(weights=tmp_path / "together" / FINAL).metadata["metrics"]["images"] == 12
