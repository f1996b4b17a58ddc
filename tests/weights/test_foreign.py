"""Tests models that other code built: deployed without a file, and refused where they are no SegNeXt of ours."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

from oracle import transcription
from segnext import Predictor, create_model, deploy
from segnext.models.ham import seeded_bases
from segnext.weights import from_module
from tests.interop.mmsegmentation import PYTHON, needs_mmsegmentation
from tests.models.narrow import narrow
from tests.weights.official_modules import EncoderDecoder, OfOtx, like_trained

ALLOWED = 1e-5
RUNNER = Path(__file__).parents[1] / "interop" / "runners" / "in_memory.py"


def foreign(**options: Any) -> EncoderDecoder:
    model = like_trained(EncoderDecoder(**options))
    assert isinstance(model, EncoderDecoder)
    return model


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 45, 70, generator=torch.Generator().manual_seed(1))


def pinned(model: EncoderDecoder) -> EncoderDecoder:
    """Let a model begin each factorisation as ours do."""
    ham = model.decode_head.hamburger.ham
    bases = seeded_bases((1, model.decode_head.channels, ham.R))
    ham._build_bases = lambda batch, *_: bases.expand(batch, -1, -1)
    return model


def error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape and bool(theirs.isfinite().all())
    return float((ours - theirs).abs().max() / theirs.abs().max())


@torch.no_grad()
def test_the_modules_of_these_tests_compute_what_the_official_code_does() -> None:
    model, bases = EncoderDecoder("t", classes=5), seeded_bases((1, 256, 16))
    weights = transcription.trained_like("t", 5)
    model.load_state_dict(weights)
    ours = pinned(model).eval().encode_decode(images(), [{}, {}])
    assert error(ours, transcription.segment(weights, bases, images())) < ALLOWED


SETTINGS: dict[str, dict[str, Any]] = {
    "narrow": {},
    "t": {"size": "t", "classes": 150},
    "t-other-settings": {"size": "t", "rank": 24, "steps": 4, "align_corners": True},
    "other-settings": {"rank": 8, "steps": 3, "align_corners": True, "classes": 7},
}


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
@torch.no_grad()
def test_deployed_without_a_file(options: dict[str, Any]) -> None:
    model = foreign(**options)
    fast = deploy(model)
    assert error(fast(images()), pinned(model).encode_decode(images(), [{}, {}])) < ALLOWED
    config, head = fast.config, model.decode_head
    assert config.num_classes == head.num_classes
    assert (config.rank, config.eval_steps) == (head.hamburger.ham.R, head.hamburger.ham.eval_steps)
    assert config.align_corners == config.decoder_align_corners == head.align_corners


@torch.no_grad()
def test_bases_that_a_model_keeps_are_used() -> None:
    model = foreign(rand_init=False)  # its first call draws them
    theirs = model.encode_decode(images(), [{}, {}])
    assert torch.equal(theirs, model.encode_decode(images(), [{}, {}]))
    assert error(deploy(model)(images()), theirs) < ALLOWED


@torch.no_grad()
def test_how_logits_are_resized_is_seen_in_the_result() -> None:
    model = OfOtx(foreign())
    fast = deploy(model)
    assert (fast.config.align_corners, fast.config.decoder_align_corners) == (True, False)
    pinned(model)  # type: ignore[arg-type]
    assert error(fast(images()), model(images())) < ALLOWED


@torch.no_grad()
def test_attributes_in_small_letters_as_otx_has() -> None:
    model = foreign()
    ham: Any = model.decode_head.hamburger.ham
    ham.r, ham.s = ham.R, ham.S
    ham.forward = lambda x, forward=ham.forward: _with(ham, lambda: forward(x))
    del ham.R, ham.S
    assert deploy(model).config.rank == 4


def _with(ham: Any, run: Callable[[], Tensor]) -> Tensor:
    """Run the module of these tests, which reads its rank in capitals."""
    ham.R = ham.r
    try:
        return run()
    finally:
        del ham.R


@pytest.fixture
def precision() -> Iterator[str]:
    """Set another precision of products than usual."""
    usual, other = torch.get_float32_matmul_precision(), "high"
    torch.set_float32_matmul_precision(other)
    yield other
    torch.set_float32_matmul_precision(usual)


def test_the_model_is_left_as_it_was(precision: str) -> None:
    model = foreign().train()
    model.backbone.norm4.eval()  # a frozen part
    model.backbone.requires_grad_(False)
    loss = model.decode_head(model.backbone(images())).sum()
    loss.backward()
    modes = [module.training for module in model.modules()]
    attributes = [dict(vars(module)) for module in model.modules()]
    tensors = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    random = torch.get_rng_state()
    ours = from_module(model)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_float32_matmul_precision() == precision
    assert [module.training for module in model.modules()] == modes
    assert [vars(module).keys() for module in model.modules()] == [held.keys() for held in attributes]
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensor is tensors[name][0] and torch.equal(tensor, tensors[name][1])
    assert all(parameter.grad is gradients[name] for name, parameter in model.named_parameters())
    with torch.no_grad():
        ours.backbone.stem.conv1.weight.zero_()
    assert model.backbone.patch_embed1.proj[0].weight.any(), "they share no memory"  # type: ignore[index,union-attr]


def test_what_is_made_can_be_trained() -> None:
    with torch.inference_mode():
        ours = from_module(foreign())
    assert not ours.training
    ours.train().loss(images(), torch.zeros(2, 45, 70, dtype=torch.int64)).backward()
    assert all(parameter.grad is not None for parameter in ours.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@torch.no_grad()
def test_other_dtypes_become_float32(dtype: torch.dtype) -> None:
    model = foreign().to(dtype)
    parameters = dict(model.named_parameters())
    ours = from_module(model)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    theirs = pinned(model.float()).encode_decode(images(), [{}, {}])
    assert error(ours(images()), theirs) < ALLOWED


def test_channels_last_weights() -> None:
    model = foreign().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert all(parameter.is_contiguous() for parameter in from_module(model).parameters())


def test_metadata() -> None:
    model: Any = foreign()
    model.dataset_meta = {"classes": ("road", "car", "sky"), "palette": np.eye(3, dtype=np.uint8)}
    model.data_preprocessor = preprocessor(turned=True)
    assert deploy(model).metadata == {
        "classes": ["road", "car", "sky"],
        "palette": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        "preprocessing": {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]},
    }
    old: Any = foreign()
    old.CLASSES = ("road", "car", "sky")
    assert deploy(old).metadata == {"classes": ["road", "car", "sky"]}


def preprocessor(turned: bool) -> Any:
    """Make what mmsegmentation 1.x has in front of a model; without a turn it gives blue first."""
    module: Any = nn.Module()
    module.channel_conversion = turned
    for name, values in {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}.items():
        module.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@torch.no_grad()
def test_a_model_that_takes_blue_first(dtype: torch.dtype, caplog: pytest.LogCaptureFixture) -> None:
    model: Any = foreign()
    model.data_preprocessor = preprocessor(turned=False)
    model = model.to(dtype)
    with caplog.at_level(logging.WARNING, "segnext"):
        as_before = from_module(model)
    assert "blue first" in caplog.text and as_before.metadata == {}
    turned = from_module(model, rgb=True)
    assert turned.metadata["preprocessing"]["mean"][0] == pytest.approx(103.53, rel=1e-3)
    theirs = pinned(model.float()).encode_decode(images(), [{}, {}])
    assert error(as_before(images()), theirs) < ALLOWED
    assert error(turned(images().flip(1)), theirs) < ALLOWED


@torch.no_grad()
def test_one_logit_with_a_threshold() -> None:
    model: Any = foreign(classes=1)
    model.decode_head.num_classes, model.decode_head.out_channels = 2, 1
    model.decode_head.threshold = 0.4
    fast = deploy(model)
    assert (fast.config.num_classes, fast.config.threshold) == (2, 0.4)
    theirs = pinned(model).encode_decode(images(), [{}, {}])
    assert torch.equal(fast.predict(images()), (theirs[:, 0].sigmoid() > 0.4).byte())


@pytest.mark.parametrize("turned", [True, False], ids=["red-first", "blue-first"])
@torch.no_grad()
def test_a_predictor_takes_it(turned: bool) -> None:
    """Photographs have red first; the model's own code reads them with blue first, and turns them or not."""
    model: Any = foreign()
    model.dataset_meta = {"classes": ["road", "car", "sky"]}
    model.data_preprocessor = front = preprocessor(turned)
    predictor = Predictor(model, device="cpu")
    assert predictor.classes == ("road", "car", "sky")
    photograph = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    pixels = torch.from_numpy(photograph if turned else photograph[..., ::-1].copy()).permute(2, 0, 1)[None]
    theirs = pinned(model).encode_decode((pixels - front.mean) / front.std, [{}])
    assert (predictor(photograph).mask == theirs.argmax(1)[0].numpy()).mean() > 0.999


def test_parts_beside_the_model_are_left_out() -> None:
    model: Any = foreign()
    model.auxiliary_head = nn.Conv2d(24, 3, 1)
    model.auxiliary_head.register_forward_hook(lambda *_: None)
    model.decode_head.loss_decode = nn.CrossEntropyLoss(torch.ones(3))
    deploy(model)


class Compiled(Exception):
    pass


def refuse_to_compile(*_: Any) -> Any:
    raise Compiled


def compiled_parts(model: EncoderDecoder) -> nn.Module:
    for part in ("backbone", "decode_head"):
        setattr(model, part, torch.compile(getattr(model, part), backend=refuse_to_compile))
    model.decode_head.hamburger.ham = torch.compile(
        model.decode_head.hamburger.ham, backend=refuse_to_compile
    )
    return model


def compiled_in_place(model: EncoderDecoder) -> nn.Module:
    model.backbone.compile(backend=refuse_to_compile)
    return model


WRAPPERS: dict[str, Callable[[EncoderDecoder], Any]] = {
    "compiled": lambda model: torch.compile(model, backend=refuse_to_compile),
    "compiled-parts": compiled_parts,
    "compiled-in-place": compiled_in_place,
    "data-parallel": nn.DataParallel,
    "averaged": AveragedModel,
    "compiled-data-parallel": lambda model: torch.compile(nn.DataParallel(model)),
}


@pytest.mark.parametrize("name", WRAPPERS)
@torch.no_grad()
def test_wrappers(name: str) -> None:
    theirs = pinned(foreign()).encode_decode(images(), [{}, {}])
    model = foreign()
    assert error(deploy(WRAPPERS[name](model))(images()), theirs) < ALLOWED


@pytest.fixture
def one_process(tmp_path: Path) -> Any:
    dist.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@torch.no_grad()
def test_distributed(one_process: None) -> None:
    model, ours = foreign(), narrow()
    deploy(nn.parallel.DistributedDataParallel(model))
    wrapped = nn.parallel.DistributedDataParallel(ours)
    assert torch.equal(deploy(wrapped)(images()), deploy(ours)(images()))
    for sharded in (
        fully_shard(foreign(), mesh=init_device_mesh("cpu", (1,))),
        FullyShardedDataParallel(foreign(), device_id=torch.device("cpu")),
    ):
        with pytest.raises(
            TypeError, match="^deploy: model must have all of its weights .* which is sharded; load"
        ):
            deploy(sharded)


def set_attributes(path: str, **values: Any) -> Callable[[EncoderDecoder], None]:
    def change(model: EncoderDecoder) -> None:
        module = model.get_submodule(path)
        for name, value in values.items():
            setattr(module, name, value)

    return change


def hooked(path: str) -> Callable[[EncoderDecoder], None]:
    def change(model: EncoderDecoder) -> None:
        model.get_submodule(path).register_forward_hook(lambda *_: None)

    return change


def pruned(model: EncoderDecoder) -> None:
    prune.l1_unstructured(model.backbone.get_submodule("block1.0.attn.proj_1"), "weight", 0.5)
    for module in model.modules():
        module._forward_pre_hooks.clear()  # which show it too


def parametrised(model: EncoderDecoder) -> None:
    parametrizations.weight_norm(model.backbone.get_submodule("block1.0.attn.proj_1"))


def with_adapter(model: EncoderDecoder) -> None:
    block: Any = model.backbone.get_submodule("block2.0")
    block.mlp = nn.Sequential(block.mlp, nn.Conv2d(16, 16, 1))


def without_a_factorisation(model: EncoderDecoder) -> None:
    model.decode_head.hamburger.ham = nn.Identity()


def with_a_neck(model: Any) -> None:
    """Without tensors, so that only the result shows it."""
    model.encode_decode = lambda x, metas, inner=model.encode_decode: inner(x, metas).softmax(1)


def infinite(model: EncoderDecoder) -> None:
    with torch.no_grad():
        model.backbone.get_parameter("block3.0.attn.proj_1.weight")[0] = torch.inf


def overflowing(model: EncoderDecoder) -> None:
    with torch.no_grad():
        model.backbone.get_parameter("block3.0.attn.proj_1.weight").mul_(1e30)


def failing(model: Any) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("two\nlines")

    model.backbone.patch_embed2.forward = fail


def quantised(model: EncoderDecoder) -> None:
    layer: Any = model.backbone.get_submodule("patch_embed2.proj")
    layer.weight = nn.Parameter(layer.weight.detach().to(torch.int8), requires_grad=False)


def on_two_devices(model: EncoderDecoder) -> None:
    model.decode_head.to("meta")


ANOTHER = "must compute what SegNeXt's does, got values that differ by .* use the model as it is$"
REFUSED: dict[str, tuple[Callable[[EncoderDecoder], None], str]] = {
    "relu": (set_attributes("backbone.block2.0.attn", activation=nn.ReLU()), f"stage 2 of the encoder {ANOTHER}"),
    "padding": (
        set_attributes("backbone.block1.0.attn.spatial_gating_unit.conv2_1", padding_mode="circular"),
        f"stage 1 of the encoder {ANOTHER}",
    ),
    "temperature": (set_attributes("decode_head.hamburger.ham", inv_t=100.0), f"the decoder {ANOTHER}"),
    "stages": (set_attributes("decode_head", in_index=[3, 2, 1]), r"decode_head.in_index must be a list of stages"),
    "eps": (set_attributes("backbone.norm3", eps=1e-6), r"backbone.norm_cfg.eps must be 1e-5, got 1e-06; use the"),
    "tanh": (
        set_attributes("backbone.block2.0.mlp.act", approximate="tanh"),
        "backbone.act_cfg.approximate must be none, got tanh; use the",
    ),
    "spatial-coefficients": (
        set_attributes("decode_head.hamburger.ham", S=2), "decode_head.ham_kwargs.md_s must be 1, got 2; use the",
    ),
    "no-factorisation": (without_a_factorisation, "decode_head.hamburger must have one module with .* got 0$"),
    "no-bases": (set_attributes("decode_head.hamburger.ham", rand_init=False), "model must have its NMF bases"),
    "hook": (hooked("backbone.block1.0.attn"), r"got backbone.block1.0.attn \(has forward hooks\); remove them"),
    "hook-of-the-model": (hooked(""), r"got EncoderDecoder \(has forward hooks\); remove them"),
    "pruned": (pruned, "tensors of segnext_t, got 1 missing: .*proj_in.weight; 2 further: .*weight_mask; take off"),
    "parametrised": (parametrised, "tensors of segnext_t, got 1 missing: .*; 2 further: .*; take off what was added"),
    "adapter": (with_adapter, "tensors of segnext_t, got .* missing: .*block2.0.mlp.0"),
    "result": (with_a_neck, "return its decoder's logits, resized bilinearly to .* with other values; use the"),
    "infinite": (infinite, "weights must be finite, got infinity in backbone.stages.2.0.attention.proj_in.weight"),
    "overflow": (overflowing, "stage 3 of the encoder must give finite numbers, got NaN or infinity"),
    "failing": (failing, r"model must run on images \(2, 3, 73, 105\) on cpu, got RuntimeError \(two\\nlines\); use"),
    "quantised": (quantised, "floating weights, got int8 in backbone.patch_embed2.proj.weight; pass the model as"),
    "meta": (on_two_devices, "model must have weights, got decode_head.* on the meta device; load some first"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_another_model_is_refused_in_one_line(name: str) -> None:
    change, message = REFUSED[name]
    model = foreign()
    change(model)
    modes = [module.training for module in model.modules()]
    with pytest.raises(ValueError, match=f"^deploy: .*{message}") as refusal:
        deploy(model)
    assert "\n" not in str(refusal.value)
    assert [module.training for module in model.modules()] == modes


def of_another_network(model: EncoderDecoder) -> nn.Module:
    model.backbone = nn.Sequential(nn.Conv2d(3, 8, 3))  # type: ignore[assignment]
    return model


def inside(model: EncoderDecoder) -> nn.Module:
    outer = nn.Module()
    outer.model = model
    return outer


OTHER_KINDS: dict[str, tuple[Callable[[EncoderDecoder], Any], str]] = {
    "layer": (lambda _: nn.Conv2d(3, 3, 1), "got Conv2d, which has no backbone and no decode_head; encoders"),
    "encoder": (lambda model: model.backbone, "got MSCAN, which has no backbone and no decode_head; encoders"),
    "network": (of_another_network, "got EncoderDecoder, which has no backbone.patch_embed1.proj.0.weight; encoders"),
    "inside": (inside, "got Module, which has no backbone and no decode_head; pass its .model$"),
    "text": (lambda _: "segnext_t", "got str"),
    "traced": (
        lambda model: torch.jit.trace(OfOtx(model), images(), check_trace=False),
        r"modules that can be read, got TopLevelTracedModule, which is scripted or traced; pass the",
    ),
    "graph": (lambda model: torch.fx.symbolic_trace(model.backbone), "got MSCAN, which is scripted or traced"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", OTHER_KINDS)
def test_what_is_no_model_is_refused(name: str) -> None:
    make, message = OTHER_KINDS[name]
    with pytest.raises(TypeError, match=f"^deploy: model must .*{message}"):
        deploy(make(foreign()))


def test_a_model_of_ours_is_returned_as_it_is() -> None:
    ours = create_model("segnext_t")
    assert from_module(torch.compile(ours, backend=refuse_to_compile)) is ours  # type: ignore[arg-type]


@needs_mmsegmentation
@pytest.mark.parametrize("size", ["t", "b"])
def test_the_real_mmsegmentation(size: str) -> None:
    changes = {"model.decode_head.ham_kwargs.MD_R": 24, "model.decode_head.align_corners": True}
    arguments = [PYTHON, RUNNER, size, json.dumps(changes if size == "t" else {})]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    if "No module named 'safetensors'" in done.stderr:
        pytest.skip("the environment of mmsegmentation has no safetensors, which segnext needs: make interop")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["unchanged"]
    assert result["config"]["rank"] == (24 if size == "t" else 16)
    assert result["config"]["align_corners"] == (size == "t")
    assert result["metadata"]["preprocessing"]["mean"] == [123.675, 116.28, 103.53]
    assert 0 < max(result["logits"], result["full"]) < ALLOWED
