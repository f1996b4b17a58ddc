"""Tests that what wraps a model (DDP, FSDP, torch.compile, hooks) sees its loss and its predictions through forward."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from segnext.models import build
from segnext.weights.saving import save

TINY = {"channels": (16, 32, 32, 32), "depths": (1, 1, 1, 1), "decoder_channels": 32, "rank": 4}
OPTIONS = {"ignore_index": 1, "label_smoothing": 0.1, "reduction": "mean_all"}


def tiny():
    torch.manual_seed(0)
    return build("segnext_t", num_classes=3, **TINY).eval()


def batch(size=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 3, 32, 40, generator=generator), torch.randint(
        3, (size, 32, 40), generator=generator
    )


def half_batch(rank):
    x, targets = batch()
    return x[2 * rank :][:2], targets[2 * rank :][:2]


def frozen_encoder():
    torch.manual_seed(0)
    model = build("segnext_t", num_classes=3, drop_path=0.0, decoder_dropout=0.0, **TINY)
    model.backbone.requires_grad_(False)
    return model


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_forward_with_targets_is_the_loss():
    model, (x, targets) = tiny(), batch()
    options = OPTIONS | {"class_weight": torch.tensor([1.0, 2.0, 0.5])}
    assert torch.equal(model(x, targets, **options), model.loss(x, targets, **options))
    assert model(x, targets, **options) != model(x, targets)
    assert torch.equal(model(x, resize=False), model.forward_logits(x))


def test_loss_without_targets_is_refused():
    model, (x, _) = tiny(), batch()
    with pytest.raises(
        TypeError, match=r"segnext_t: targets must be a tensor of class ids, got None; model\(images\)"
    ):
        model.loss(x, None)


def test_hooks_of_the_model_see_loss_and_predictions():
    model, (x, targets) = tiny(), batch()
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    model.loss(x, targets)
    model.predict(x)
    assert seen == [(), (4, 3, 4, 5)]


@pytest.mark.parametrize("in_place", [True, False], ids=["in-place", "wrapped"])
def test_compiled_loss_and_predictions_are_the_same(in_place):
    model, (x, targets) = tiny(), batch()
    expected = model(x, targets), model.predict(x)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    if in_place:
        model.compile(backend=backend, fullgraph=True)
        results = model.loss(x, targets), model.predict(x)
    else:
        compiled = torch.compile(model, backend=backend, fullgraph=True)
        results = compiled(x, targets), compiled.predict(x)
    torch.testing.assert_close(results, expected)
    # compiled.predict is the model's own, which knows nothing of the wrapper.
    assert len(graphs) == (2 if in_place else 1)


def test_ddp_and_fsdp_exchange_the_gradients_of_the_loss(tmp_path):
    torch.multiprocessing.spawn(_step, args=(tmp_path,), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    model = tiny()
    model(*batch()).backward()
    for wrapper in ("ddp", "fsdp"):
        assert all(torch.equal(second[wrapper][name], grad) for name, grad in first[wrapper].items())
        torch.testing.assert_close(first[wrapper], gradients(model), rtol=1e-3, atol=1e-6)
    assert torch.equal(first["predicted"], model.predict(batch()[0]))
    expected = frozen_encoder()(*half_batch(0)).item()
    assert (
        first["frozen"] == [(pytest.approx(expected, rel=1e-6), 0.0)] * 2
    )  # FSDP 1 may call layers one by one
    assert first["refused"].startswith(
        "save: model must be whole in this process, got backbone.stem.conv1.weight"
    )


def _step(rank: int, folder: Path) -> None:
    """Leave in the folder the gradients of one of two processes, which has half of the batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    x, _ = batch()
    half = half_batch(rank)

    ddp = nn.parallel.DistributedDataParallel(tiny())
    ddp(*half).backward()

    sharded = tiny()
    mesh = init_device_mesh("cpu", (2,))
    for stage in sharded.backbone.stages:
        fully_shard(stage[0], mesh=mesh)
    fully_shard(sharded.backbone, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    sharded.loss(*half).backward()
    full = {name: gradient.full_tensor() for name, gradient in gradients(sharded).items()}
    results = {"ddp": gradients(ddp.module), "fsdp": full, "predicted": sharded.predict(x)}
    with pytest.raises(ValueError) as refusal:
        save(sharded, folder / "sharded.safetensors")
    results["refused"] = str(refusal.value)
    results["frozen"] = [_step_of_a_frozen_encoder(half, own_parameters) for own_parameters in (True, False)]

    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


def _step_of_a_frozen_encoder(half: tuple[torch.Tensor, ...], own_parameters: bool) -> tuple[float, float]:
    """Return the loss of a model in FSDP 1, and how far the statistics of its frozen encoder moved."""
    model = frozen_encoder()
    statistics = model.backbone.stem.norm1.running_mean
    before = statistics.clone()
    units = ModuleWrapPolicy({type(model.backbone), type(model.decoder)})
    cpu = torch.device("cpu")
    sharded = FullyShardedDataParallel(
        model, auto_wrap_policy=units, use_orig_params=own_parameters, device_id=cpu
    )
    loss = sharded(*half)
    loss.backward()
    return loss.item(), (statistics - before).abs().max().item()
