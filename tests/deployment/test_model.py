"""`deploy`: folded, packed networks give the model's results at every size and instruction set, in any thread."""

from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oracle import transcription
from segnext import DeployedSegNeXt, create_model, deploy, mscan_t
from segnext.data.images import read_image
from segnext.data.preprocessing import normalise
from segnext.deployment.files import FORMAT
from segnext.deployment.folding import fold
from segnext.deployment.packed import PLANS, PackedNetwork
from segnext.deployment.plan import Plan, plan_memory
from segnext.models import SegNeXt
from segnext.models.finite import NonFiniteError
from segnext_kernels import native, use_backend
from tests.instruction_sets import use_instruction_set
from tests.models.narrow import narrow

STREET = Path(__file__).parents[2] / "docs" / "street.jpg"
needs_library = pytest.mark.skipif(native._C is None, reason="the compiled library is missing")


def trained_like(size: str, classes: int = 7, **overrides: object) -> SegNeXt:
    model = create_model(f"segnext_{size}", num_classes=classes, **overrides)
    assert isinstance(model, SegNeXt)
    model.load_state_dict(transcription.trained_like(size, classes))
    return model.eval()


@pytest.fixture(scope="module")
def model() -> SegNeXt:
    return trained_like("t")


@pytest.fixture(scope="module")
def fast(model: SegNeXt) -> DeployedSegNeXt:
    return deploy(model)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_close(actual: Tensor, model: SegNeXt, images: Tensor, tolerance: float = 1e-4) -> None:
    with torch.inference_mode():
        expected = model.forward_logits(images)
    assert actual.shape == expected.shape and actual.dtype == torch.float32
    assert expected.isfinite().all() and actual.isfinite().all()
    error = ((actual - expected).abs().max() / expected.abs().max()).item()
    assert error <= tolerance, error


@pytest.mark.parametrize(
    "shape", [(1, 3, 64, 96), (2, 3, 97, 203), (1, 3, 1, 1), (3, 3, 33, 8), (1, 3, 256, 520), (0, 3, 32, 32)]
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_same_logits(model: SegNeXt, backend: str, shape: tuple[int, ...]) -> None:
    with use_backend(backend):
        fast = deploy(model)
        assert isinstance(fast._network, PackedNetwork) == (backend == "auto" and native._C is not None)
        images = noise(*shape)
        logits = fast.forward_logits(images)
    if images.numel():
        assert_close(logits, model, images)
    assert logits.shape == (shape[0], 7, -(-shape[2] // 8), -(-shape[3] // 8))


@pytest.mark.parametrize("size", ["s", "b", "l"])
def test_same_logits_of_the_other_sizes(size: str) -> None:
    model, images = trained_like(size, 150), noise(1, 3, 72, 104)
    assert_close(deploy(model).forward_logits(images), model, images)


@needs_library
@pytest.mark.parametrize("name", native.built_sets())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_every_instruction_set(
    model: SegNeXt, name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_instruction_set(native.INSTRUCTION_SETS.index(name), monkeypatch)
    images = noise(2, 3, 70, 90)
    assert_close(
        deploy(model, dtype).forward_logits(images), model, images, 1e-4 if dtype == torch.float32 else 5e-2
    )


def test_calls_give_logits_and_labels_at_the_images_size(model: SegNeXt, fast: DeployedSegNeXt) -> None:
    images = noise(2, 3, 61, 45)
    with torch.inference_mode():
        full = model(images)
    torch.testing.assert_close(fast(images), full, rtol=1e-4, atol=1e-4 * full.abs().max().item())
    labels = fast.predict(images)
    assert labels.dtype == torch.uint8 and labels.shape == (2, 61, 45)
    assert (labels == model.predict(images)).float().mean() > 0.999
    assert fast.predict(images, (10, 20)).shape == (2, 10, 20)
    labels += 1  # the caller owns it, and it is no inference tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_shipped_weights_see_the_same_street(dtype: torch.dtype) -> None:
    model = create_model(weights="camvid").eval()
    assert isinstance(model, SegNeXt)
    images = normalise(read_image(STREET))
    same = (deploy(model, dtype).predict(images) == model.predict(images)).float().mean().item()
    assert same >= (0.9999 if dtype == torch.float32 else 0.995)


def test_more_channels_than_three_and_one() -> None:
    for channels in (1, 4):
        model = create_model("segnext_t", num_classes=3, in_channels=channels).eval()
        assert isinstance(model, SegNeXt)
        images = noise(1, channels, 40, 50)
        assert_close(deploy(model).forward_logits(images), model, images)


@pytest.mark.parametrize("options", [{"strips": (129,)}, {"strips": (3,) * 9}, {"root": 65}], ids=str)
def test_strips_beyond_the_packed_kernels(options: dict[str, Any]) -> None:
    """The public ops take any number of strips, of any length."""
    model = narrow(**options)
    images = noise(1, 3, 40, 50)
    assert_close(deploy(model).forward_logits(images), model, images)


@pytest.mark.parametrize("strips", [(3, 9), ()], ids=["two", "none"])
def test_other_strips(strips: tuple[int, ...], tmp_path: Path) -> None:
    model = create_model("segnext_t", num_classes=3, strips=strips, root=3).eval()
    assert isinstance(model, SegNeXt)
    images, fast = noise(1, 3, 40, 50), deploy(model)
    logits = fast.forward_logits(images)
    assert_close(logits, model, images)
    fast.save(tmp_path / "fast.safetensors")
    assert torch.equal(DeployedSegNeXt.load(tmp_path / "fast.safetensors").forward_logits(images), logits)


def test_results_do_not_depend_on_threads_and_own_their_memory(fast: DeployedSegNeXt, threads: None) -> None:
    images, others = noise(1, 3, 100, 60), noise(1, 3, 100, 60, seed=1)
    torch.set_num_threads(1)
    first = fast.forward_logits(images)
    kept = first.clone()
    torch.set_num_threads(3)
    fast.forward_logits(others)
    assert torch.equal(first, kept)
    assert torch.equal(fast.forward_logits(images), kept)


def test_from_several_threads_at_once(fast: DeployedSegNeXt) -> None:
    batches = [noise(1, 3, 48, 64, seed=seed) for seed in range(6)]
    expected = [fast.forward_logits(images) for images in batches]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            results = list(pool.map(fast.forward_logits, batches))
            assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@needs_library
def test_plans_are_kept_for_a_few_shapes_only(model: SegNeXt) -> None:
    fast = deploy(model)
    assert isinstance(fast._network, PackedNetwork)
    for side in (32, 40, 48, 32):
        fast.forward_logits(noise(1, 3, side, side))
    assert len(fast._network._plans) == PLANS


@needs_library
@pytest.mark.parametrize("size", ["t", "b"])
def test_memory_of_a_large_image(size: str) -> None:
    """A forward pass of a whole 4096x8192 image needs at most four times its logits and features."""
    model = create_model(f"segnext_{size}", num_classes=19)
    assert isinstance(model, SegNeXt)
    height, width = 1024, 2048  # a sixteenth of it; all memory grows with the area
    plan = plan_memory(fold(model), model.config, torch.float32, 1, height, width)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(plan)}
    sizes = [(-(-height // s)) * (-(-width // s)) for s in (4, 8, 16, 32)]
    features = 4 * sum(c * pixels for c, pixels in zip(model.config.channels, sizes, strict=True))
    logits = 4 * 19 * height * width // 64
    assert sum(storages.values()) + logits <= 4 * (features + logits)


def _tensors(plan: Plan) -> list[Tensor]:
    decoder = plan.decoder
    stages = [t for stage in plan.stages for t in (stage.x, stage.y, stage.feature)]
    return [plan.workspace, plan.stem, decoder.a, decoder.b, decoder.c, *decoder.levels, *stages]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_save_and_load(fast: DeployedSegNeXt, model: SegNeXt, dtype: torch.dtype, tmp_path: Path) -> None:
    path, images = tmp_path / "fast.safetensors", noise(1, 3, 40, 56)
    saved = deploy(model, dtype)
    saved.save(path)
    loaded = DeployedSegNeXt.load(path)
    assert loaded.dtype == dtype and loaded.config == model.config and loaded.metadata == model.metadata
    assert torch.equal(loaded.forward_logits(images), saved.forward_logits(images))
    assert torch.equal(
        DeployedSegNeXt.load(path, dtype=torch.float32).forward_logits(images), fast.forward_logits(images)
    )
    assert [p.name for p in tmp_path.iterdir()] == ["fast.safetensors"]


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_the_model_is_left_as_it_is(model: SegNeXt, backend: str) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with use_backend(backend):
        fast = deploy(model.train())
    assert model.training
    model.eval()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    images = noise(1, 3, 32, 32)
    expected = fast.forward_logits(images)
    with torch.no_grad(), use_backend(backend):
        other = trained_like("t")
        copy = deploy(other)
        other.decoder.classifier.weight.zero_()
    assert torch.equal(copy.forward_logits(images), expected)  # a change of the model does not reach it


def test_nan_is_no_class(fast: DeployedSegNeXt) -> None:
    images = noise(1, 3, 64, 64)
    images[0, 1, 5, 7] = float("nan")
    with pytest.raises(NonFiniteError, match="deployed segnext_t: logits must be finite"):
        fast.predict(images)


class TestRefused:
    def test_an_encoder(self) -> None:
        with pytest.raises(TypeError, match="model must be a SegNeXt, got MSCAN"):
            deploy(mscan_t(num_classes=2))  # type: ignore[arg-type]

    def test_another_dtype(self, model: SegNeXt) -> None:
        with pytest.raises(
            ValueError, match=r"dtype must be torch.float32 or torch.bfloat16, got torch.float16"
        ):
            deploy(model, torch.float16)

    def test_random_bases(self) -> None:
        with pytest.raises(ValueError, match="random_eval_bases=False, got True"):
            deploy(create_model("segnext_t", num_classes=2, random_eval_bases=True))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("images", "error", "message"),
        [
            (torch.zeros(3, 8, 8), ValueError, r"images must be \(N, 3, H, W\), got \(3, 8, 8\)"),
            (torch.zeros(1, 4, 8, 8), ValueError, r"images must be \(N, 3, H, W\), got \(1, 4, 8, 8\)"),
            (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, "normalised floating-point pixels"),
            (torch.zeros(1, 3, 8, 8).double(), TypeError, "images must be torch.float32"),
            ("photo.jpg", TypeError, "must be a tensor of normalised pixels, got str"),
        ],
        ids=["axes", "channels", "bytes", "double", "path"],
    )
    def test_images(
        self, fast: DeployedSegNeXt, images: Tensor, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            fast.predict(images)

    def test_files(self, model: SegNeXt, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        from segnext.weights.saving import save

        with pytest.raises(FileNotFoundError, match=r"must be a file of DeployedSegNeXt\.save, got"):
            DeployedSegNeXt.load(tmp_path / "no.safetensors")
        (tmp_path / "text.safetensors").write_text("no weights")
        with pytest.raises(ValueError, match="file must be a safetensors file, got one that begins with"):
            DeployedSegNeXt.load(tmp_path / "text.safetensors")
        config = {"architecture": "segnext_x", "channels": [8] * 4, "depths": [1] * 4}
        header = {
            "format": FORMAT, "config": json.dumps(config), "dtype": "float32", "metadata": "{}"
        }  # fmt: skip
        save_file({"ham.bases": torch.zeros(1, 256, 16)}, tmp_path / "part.safetensors", header)
        with pytest.raises(ValueError, match=r"must have every tensor .* segnext_x, lacks align\.norm\.bias"):
            DeployedSegNeXt.load(tmp_path / "part.safetensors")
        save(model, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=r"must be a file of DeployedSegNeXt\.save, got other weights"):
            DeployedSegNeXt.load(tmp_path / "model.safetensors")


def test_the_precision_of_products_is_kept_and_checked(model: SegNeXt, tmp_path: Path) -> None:
    before = torch.get_float32_matmul_precision()
    fast = deploy(model, matmul_precision="high")
    fast.save(tmp_path / "deployed.safetensors")
    loaded = DeployedSegNeXt.load(tmp_path / "deployed.safetensors", matmul_precision="high")
    assert copy.deepcopy(fast).matmul_precision == loaded.matmul_precision == "high"
    assert deploy(model).matmul_precision == before == torch.get_float32_matmul_precision()
    with pytest.raises(ValueError, match=r"^deploy: matmul_precision must be .*highest.*got 'half'"):
        deploy(model, matmul_precision="half")
