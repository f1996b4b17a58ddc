"""depthwise_sum in Triton: chains of depthwise convolutions, and their gradients.

The convolutions are launches of `triton_convolutions`, one each, except for the last convolutions of the branches of a
"sum": up to three of equal row dilation share a launch, which also adds the identity branches. The parts of "cat" and
"split" are written where they belong, and the root of a "cat" with an identity branch into that branch's part.

The backward saved x alone. It convolves forward again, up to each chain's last input; then back through the branches,
whose first convolutions share launches as the last ones do in the forward, and through the root. Each convolution also
takes a launch for its taps' gradients and one of `torch.sum`.

Bytes, for E elements of s bytes: 2 s E for each convolution on its own, (terms + base + 1) s E for a shared launch, all
but x and the result from L2 if the map fits. FLOPs: 2 K E for K taps in all, in the backward 4 K E and what is
recomputed. A kernel of a whole chain would need its halo, which grows with each convolution, in registers that Triton
cannot index.
"""

from __future__ import annotations

import torch

from segnext_kernels import memory_format
from segnext_kernels.ops.depthwise_sum.chains import ranges, widths
from segnext_kernels.ops.depthwise_sum.reference import empty_gradients, empty_output
from segnext_kernels.ops.depthwise_sum.triton_convolutions import Term, convolved
from segnext_kernels.ops.depthwise_sum.triton_layers import Layer, packed
from segnext_kernels.ops.depthwise_sum.triton_products import products


class _Network:
    """The layers, and which channels each branch reads and writes."""

    def __init__(
        self,
        x: torch.Tensor,
        weights: list[torch.Tensor],
        biases: list[torch.Tensor],
        dilations: list[int],
        chains: list[int],
        combine: str,
    ) -> None:
        self.x, self.combine = x, combine
        layers = packed(weights, biases, dilations)
        self.root, *self.branches = [layers[chain.start : chain.stop] for chain in ranges(chains)]
        self.widths = widths(x.shape[1], weights, chains, combine)

    def new(self, width: int) -> torch.Tensor:
        """An image of this many channels, uninitialised."""
        return memory_format.empty_like(self.x, width)

    def read_by(self, image: torch.Tensor, branch: int) -> torch.Tensor:
        """The channels of the root's result, or of its gradient, that a branch reads."""
        return self._part(image, branch) if self.combine == "split" else image

    def written_by(self, image: torch.Tensor, branch: int) -> torch.Tensor:
        """The channels of the result, or of its gradient, that a branch writes or adds to."""
        return image if self.combine == "sum" else self._part(image, branch)

    def _part(self, image: torch.Tensor, branch: int) -> torch.Tensor:
        return image.narrow(1, sum(self.widths[:branch]), self.widths[branch])

    def inputs(self, image: torch.Tensor, chain: list[Layer]) -> list[torch.Tensor]:
        """What each layer of a chain convolves."""
        images = [image]
        for layer in chain[:-1]:
            images.append(convolved([(images[-1], layer)], [], self.new(image.shape[1])))
        return images[: len(chain)]


def forward(
    x: torch.Tensor,
    weights: list[torch.Tensor],
    biases: list[torch.Tensor],
    dilations: list[int],
    chains: list[int],
    combine: str,
) -> torch.Tensor:
    """See `ops.depthwise_sum.op`."""
    out = empty_output(x, weights, biases, dilations, chains, combine)
    if x.numel() == 0:
        return out
    network = _Network(x, weights, biases, dilations, chains, combine)
    a, in_place = x, -1
    if network.root:
        if combine == "cat" and [] in network.branches:
            in_place = network.branches.index([])
        to = network.new(x.shape[1]) if in_place < 0 else network.written_by(out, in_place)
        a = convolved([(network.inputs(x, network.root)[-1], network.root[-1])], [], to)
    terms: list[Term] = []
    bases: list[torch.Tensor] = []
    for i, branch in enumerate(network.branches):
        image = network.read_by(a, i)
        if branch:
            terms.append((network.inputs(image, branch)[-1], branch[-1]))
        elif i != in_place:
            bases.append(image)
        if combine != "sum" and (terms or bases):
            convolved(terms, bases, network.written_by(out, i))
            terms, bases = [], []
    return convolved(terms, bases, out) if combine == "sum" else out


def backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weights: list[torch.Tensor],
    biases: list[torch.Tensor],
    dilations: list[int],
    chains: list[int],
    combine: str,
) -> list[torch.Tensor]:
    """See `ops.depthwise_sum.op`."""
    if x.numel() == 0:
        return [grad.zero_() for grad in empty_gradients(grad, x, weights, biases)]
    network = _Network(x, weights, biases, dilations, chains, combine)
    root_inputs = network.inputs(x, network.root)
    a = x
    if network.root:
        a = convolved([(root_inputs[-1], network.root[-1])], [], network.new(x.shape[1]))
    sums: list[torch.Tensor] = []  # of the taps' gradients, branch by branch
    terms: list[Term] = []
    bases: list[torch.Tensor] = []
    grad_a = network.new(x.shape[1])
    for i, branch in enumerate(network.branches):
        grad_branch, of_branch = _through(
            network, network.written_by(grad, i), network.inputs(network.read_by(a, i), branch), branch
        )
        sums += of_branch
        if branch:
            terms.append((grad_branch, branch[0].turned()))
        else:
            bases.append(grad_branch)
        if combine == "split":
            convolved(terms, bases, network.read_by(grad_a, i))
            terms, bases = [], []
    if combine != "split":
        convolved(terms, bases, grad_a)
    grad_x = grad_a
    if network.root:
        grad_root, of_root = _through(network, grad_a, root_inputs, network.root)
        sums = of_root + sums
        grad_x = convolved([(grad_root, network.root[0].turned())], [], network.new(x.shape[1]))
    grad_weights = [weight.new_empty(weight.shape) for weight in weights]
    for to, part in zip(grad_weights, sums, strict=True):
        to.view(to.shape[0], -1).copy_(part[: to[0].numel()].T)
    return [grad_x, *grad_weights, *(part[-1].to(x.dtype, copy=True) for part in sums if biases)]


def _through(
    network: _Network, grad: torch.Tensor, inputs: list[torch.Tensor], chain: list[Layer]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The gradient of the first layer's result, and the sums of products of every layer."""
    sums: list[torch.Tensor] = []
    for k in reversed(range(len(chain))):
        sums.insert(0, products(grad, inputs[k], chain[k]))
        if k > 0:
            grad = convolved([(grad, chain[k].turned())], [], network.new(grad.shape[1]))
    return grad, sums
