"""Tests patched models in DDP and FSDP on two processes, and that a sharded model is refused."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

from oracle import foreign_models
from segnext.patching.patch import patch
from segnext.patching.swap import is_patched
from tests.patching.conftest import visible


def encoder():
    torch.manual_seed(0)
    return visible(foreign_models.Encoder("tiny", foreign_models.StripUnit, maps=False))


def batch():
    return torch.randn(4, 3, 48, 40, generator=torch.Generator().manual_seed(1))


def gradients(model, images):
    loss = sum(feature.square().mean() for feature in model(images))
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_ddp_and_fsdp_give_the_gradients_of_the_plain_model(tmp_path):
    torch.multiprocessing.spawn(_step, args=(tmp_path,), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    expected = gradients(encoder(), batch())
    for wrapper in ("ddp", "patched in ddp", "fsdp"):
        assert all(torch.equal(second[wrapper][name], grad) for name, grad in first[wrapper].items())
        torch.testing.assert_close(first[wrapper], expected, rtol=2e-3, atol=2e-6)
    for refusal in first["refused"]:
        assert (
            refusal.startswith("patch: ") and refusal.endswith("; patch, then shard") and "\n" not in refusal
        )


def _step(rank: int, folder: Path) -> None:
    """Leave in the folder the gradients of one of two processes, which has half of the batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    half = batch()[2 * rank :][:2]
    model = encoder()
    patch(model)
    wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(model))
    results = {"ddp": _of_the_inner(wrapped, half)}
    later = nn.parallel.DistributedDataParallel(encoder())
    assert patch(later).patched
    results["patched in ddp"] = _of_the_inner(later, half)

    mesh = init_device_mesh("cpu", (2,))
    sharded = copy.deepcopy(model)
    for stage in range(1, 5):
        for block in sharded.get_submodule(f"block{stage}"):
            fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    assert any(is_patched(module) for module in sharded.modules())
    found = gradients(sharded, half)
    results["fsdp"] = {name: gradient.full_tensor() for name, gradient in found.items()}

    refused = []
    for late in (
        fully_shard(encoder(), mesh=mesh),
        FullyShardedDataParallel(encoder(), device_id=torch.device("cpu")),
    ):
        with pytest.raises(ValueError) as refusal:
            patch(late)
        refused.append(str(refusal.value))
    results["refused"] = refused
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


def _of_the_inner(
    wrapped: nn.parallel.DistributedDataParallel, images: torch.Tensor
) -> dict[str, torch.Tensor]:
    gradients(wrapped, images)
    return {name: parameter.grad for name, parameter in wrapped.module.named_parameters()}
