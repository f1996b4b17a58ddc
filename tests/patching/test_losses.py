"""Tests the losses of decoder heads of mmsegmentation's form."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segnext.patching.patch import patch
from segnext.patching.swap import is_patched


class CrossEntropyLoss(nn.Module):
    """The attributes and the arithmetic of mmsegmentation's loss."""

    def __init__(self, class_weight=None, loss_weight=1.0, avg_non_ignore=False, use_sigmoid=False):
        super().__init__()
        self.class_weight, self.loss_weight = class_weight, loss_weight
        self.avg_non_ignore, self.use_sigmoid = avg_non_ignore, use_sigmoid
        self.loss_name = "loss_ce"

    def forward(self, logits, labels, ignore_index):
        weight = None if self.class_weight is None else logits.new_tensor(self.class_weight)
        losses = F.cross_entropy(logits, labels, weight, reduction="none", ignore_index=ignore_index)
        counted = labels != ignore_index
        if self.avg_non_ignore and weight is not None:
            return self.loss_weight * losses.sum() / weight[labels[counted]].sum()
        number = counted.sum() + torch.finfo(torch.float32).eps if self.avg_non_ignore else labels.numel()
        return self.loss_weight * losses.sum() / number


class AnyHead(nn.Module):
    """What heads of all versions have."""

    def __init__(self, loss, classes=4, align_corners=False, sampler=None):
        super().__init__()
        self.loss_decode, self.num_classes, self.out_channels = loss, classes, classes
        self.align_corners, self.ignore_index, self.sampler = align_corners, 255, sampler

    def of_labels(self, logits, labels):
        full = F.interpolate(logits, labels.shape[2:], mode="bilinear", align_corners=self.align_corners)
        labels = labels.squeeze(1)
        found = {self.loss_decode.loss_name: self.loss_decode(full, labels, ignore_index=self.ignore_index)}
        counted = labels != self.ignore_index
        right = (full.argmax(1)[counted] == labels[counted]).float().sum(0, keepdim=True)
        eps = torch.finfo(torch.float32).eps
        found["acc_seg"] = (right + eps) * 100 / (counted.sum() + eps)
        return found


class Head(AnyHead):
    """A head of mmsegmentation 1.x."""

    def loss_by_feat(self, logits, samples):
        return self.of_labels(logits, torch.stack([item.gt_sem_seg.data for item in samples]))


class OldHead(AnyHead):
    """A head of mmsegmentation 0.x and of the official code."""

    def losses(self, logits, labels):
        return self.of_labels(logits, labels)


def batch(old):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (2, 1, 19, 22), generator=generator)
    labels[1, :, 3:9] = 255
    samples = [SimpleNamespace(gt_sem_seg=SimpleNamespace(data=label)) for label in labels]
    return torch.randn(2, 4, 6, 5, generator=generator), labels if old else samples


LOSSES = {
    "plain": {},
    "avg_non_ignore": {"avg_non_ignore": True},
    "weight": {"class_weight": [1.0, 0.2, 3.0, 0.5], "avg_non_ignore": True},
    "loss_weight": {"loss_weight": 0.4},
    "weight over all pixels": {"class_weight": [1.0, 0.2, 3.0, 0.5]},
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", [Head, OldHead], ids=["1.x", "0.x"])
def test_loss_and_accuracy_are_the_same(kind, name):
    head = kind(CrossEntropyLoss(**LOSSES[name]))
    method = "losses" if kind is OldHead else "loss_by_feat"
    logits, labels = batch(kind is OldHead)
    results = []
    for step in ("before", "after"):
        if step == "after":
            report = patch(head)
            assert is_patched(head), str(report)
        x = logits.clone().requires_grad_()
        losses = getattr(head, method)(x, labels)
        losses["loss_ce"].backward()
        results.append((losses, x.grad))
    (before, grad_before), (after, grad_after) = results
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert value.shape == after[key].shape
        torch.testing.assert_close(after[key], value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad_after, grad_before, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("loss", [{}, {"avg_non_ignore": True}], ids=str)
def test_a_batch_whose_pixels_are_all_ignored(loss):
    logits, samples = batch(False)
    for item in samples:
        item.gt_sem_seg.data.fill_(255)
    plain, head = Head(CrossEntropyLoss(**loss)), Head(CrossEntropyLoss(**loss))
    assert patch(head).patched
    expected, got = (one.loss_by_feat(logits, samples) for one in (plain, head))
    assert expected["acc_seg"].item() == 100
    torch.testing.assert_close(got, expected)


def test_full_size_logits_are_not_made():
    head = Head(CrossEntropyLoss())
    patch(head)
    logits, samples = batch(False)
    with torch.profiler.profile() as profile:
        head.loss_by_feat(logits.requires_grad_(), samples)
    ops = {event.key for event in profile.key_averages()}
    assert "segnext_kernels::upsample_argmax" in ops and "aten::upsample_bilinear2d" not in ops


@pytest.mark.parametrize(
    "head,reason",
    [
        (Head(CrossEntropyLoss(use_sigmoid=True)), "its loss is no cross-entropy over classes"),
        (Head(CrossEntropyLoss(), classes=1), "its loss is no cross-entropy over classes"),
        (Head(CrossEntropyLoss(), align_corners=True), "it resizes with align_corners=True"),
        (Head(CrossEntropyLoss(), sampler=object()), "its loss samples pixels"),
        (Head(nn.ModuleList([CrossEntropyLoss(), CrossEntropyLoss()])), "it has 2 losses"),
    ],
    ids=["sigmoid", "binary", "align_corners", "sampler", "two losses"],
)
def test_other_losses_are_left_alone(head, reason):
    report = patch(head)
    assert not is_patched(head) and [part.reason for part in report.left] == [reason]


def test_labels_of_another_shape_go_to_the_head_itself():
    head = OldHead(CrossEntropyLoss())
    patch(head)
    with pytest.raises((RuntimeError, ValueError)):
        head.losses(torch.randn(2, 4, 6, 5), torch.zeros(2, 19, 22, dtype=torch.long))


class Doubled(CrossEntropyLoss):
    """Another loss with the same attributes."""

    def forward(self, logits, labels, ignore_index):
        return 2 * super().forward(logits, labels, ignore_index)


@pytest.mark.parametrize("change", ["class", "flag"])
def test_a_loss_that_is_changed_later(change):
    logits, samples = batch(False)
    heads = [Head(CrossEntropyLoss()), Head(CrossEntropyLoss())]
    assert patch(heads[0]).patched
    for head in heads:
        if change == "class":
            head.loss_decode = Doubled()
        else:
            head.loss_decode.avg_non_ignore = True
    got, expected = (head.loss_by_feat(logits, samples)["loss_ce"] for head in heads)
    torch.testing.assert_close(got, expected)
