"""Tests that the comparison in numbers sees modules of a known structure that compute something slightly different."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oracle import foreign_models as foreign
from segnext.patching.patch import patch
from segnext.patching.swap import is_patched
from tests.patching.conftest import visible


class OtherEpsilon(foreign.NMF2D):
    """Another epsilon."""

    def compute_coef(self, x, bases, coef):
        numerator = torch.bmm(x.transpose(1, 2), bases)
        return coef * numerator / (coef.bmm(bases.transpose(1, 2).bmm(bases)) + 1e-7)


class ColumnsFirst(foreign.StripUnit):
    """The second convolution of each branch comes first: with biases it is not the same at the border."""

    def forward(self, x):
        root = self.conv0(x)
        branches = [getattr(self, f"conv{i}_1")(getattr(self, f"conv{i}_2")(root)) for i in range(3)]
        return self.conv3(sum(branches, root)) * x


class WithoutOneBias(foreign.LargeKernelUnit):
    """The last bias is not used; it is zero at the beginning."""

    def forward(self, x):
        return x * F.conv2d(self.conv_spatial(self.conv0(x)), self.conv1.weight)


class DropBefore(foreign.Mlp):
    """Dropout in front of the GELU; its rate is zero."""

    def forward(self, x):
        return self.drop(self.fc2(self.act(self.drop(self.dwconv(self.fc1(x))))))


class Gain(foreign.DWConv):
    """A depthwise convolution with a number."""

    def __init__(self, dim, gain=1.0):
        super().__init__(dim)
        self.gain = gain

    def forward(self, x):
        return super().forward(x) * self.gain


class Custom(foreign.Mlp):
    """A function that is no module, between the layers."""

    def __init__(self, dim, hidden, between=None):
        super().__init__(dim, hidden)
        self.between = between or [torch.Tensor.clone]

    def forward(self, x):
        return self.between[0](super().forward(x))


class Residual(foreign.Block):
    """The second branch starts from the block's input."""

    def forward(self, x):
        first = x + self.drop_path(self.layer_scale_1[:, None, None] * self.attn(self.norm1(x)))
        return first + self.drop_path(self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x)))


class SwappedNorms(foreign.Block):
    """The norms change places."""

    def forward(self, x):
        x = x + self.drop_path(self.layer_scale_1[:, None, None] * self.attn(self.norm2(x)))
        return x + self.drop_path(self.layer_scale_2[:, None, None] * self.mlp(self.norm1(x)))


class Transposed(foreign.Block):
    """The branches get rows as columns."""

    def forward(self, x):
        x = x + self.layer_scale_1[:, None, None] * self.attn(self.norm1(x).mT).mT
        return x + self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x))


class DropAtTheEnd(foreign.Block):
    """Stochastic depth of the sum; its rate is zero."""

    def forward(self, x):
        x = self.drop_path(x + self.layer_scale_1[:, None, None] * self.attn(self.norm1(x)))
        return self.drop_path(x + self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x)))


class Keeps(foreign.Mlp):
    """Keeps what it saw last, for others to look at."""

    def forward(self, x):
        self.seen = x.detach()
        return super().forward(x)


class Momentum(foreign.PatchEmbed):
    """Running statistics move twice."""

    def forward(self, x):
        self.norm(self.proj(x))
        return super().forward(x)


def block(kind: type[foreign.Block], drop: nn.Module | None = None) -> foreign.Block:
    made = kind(8, 2, foreign.StripUnit, 0.0, 0.0)
    made.drop_path = drop or nn.Identity()
    return visible(made)


DIFFERENT = {
    "epsilon": lambda: OtherEpsilon(R=3),
    "order of strips": lambda: ColumnsFirst(8),
    "no bias": lambda: WithoutOneBias(8),
    "place of dropout": lambda: DropBefore(8, 16),
    "residual": lambda: block(Residual),
    "norms": lambda: block(SwappedNorms),
    "axes of a branch": lambda: block(Transposed),
    "place of stochastic depth": lambda: block(DropAtTheEnd, foreign.DropPath(0.0)),
    "dropped channels": lambda: block(foreign.Block, nn.Dropout2d(0.0)),
    "attributes": lambda: Keeps(8, 16),
    "statistics": lambda: Momentum(8, 8, 3, 2, maps=True),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_slight_difference_is_found(name):
    torch.manual_seed(0)
    module = DIFFERENT[name]()
    report = patch(nn.ModuleList([module, foreign.Mlp(8, 8)]))  # beside a part that is patched
    assert not is_patched(module), str(report)
    assert next(part.reason for part in report.left if part.path == "0").startswith("it computes something")


def _with(dwconv: nn.Module) -> foreign.Mlp:
    mlp = foreign.Mlp(8, 16)
    mlp.dwconv = dwconv
    return mlp


ALIKE = {
    "number of a child": lambda other: _with(Gain(16, 2.0 if other else 1.0)),
    "function in a list": lambda other: Custom(8, 16, [torch.sin] if other else None),
}


@pytest.mark.parametrize("name", ALIKE)
def test_modules_of_one_class_with_other_attributes_are_compared_each(name):
    first, second = ALIKE[name](False), ALIKE[name](True)
    patch(nn.ModuleList([first, second]))
    assert is_patched(first) and not is_patched(second)


@pytest.mark.parametrize("drops", [(), ("middle",), ("end",), ("middle", "end"), ("end", "middle")], ids=str)
def test_dropouts_are_found_where_they_are(drops):
    class Ffn(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.dw, self.fc2 = (
                nn.Conv2d(8, 8, 1),
                nn.Conv2d(8, 8, 3, 1, 1, groups=8),
                nn.Conv2d(8, 8, 1),
            )
            self.act = nn.GELU()
            for name in drops:
                setattr(self, name, nn.Dropout(0.2))

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.dw(self.fc1(x)))
            x = self.fc2(self.middle(x) if "middle" in drops else x)
            return self.end(x) if "end" in drops else x

    ffn = Ffn()
    report = patch(ffn)
    assert is_patched(ffn), str(report)


class ScaledLess(foreign.DropPath):
    """Stochastic depth that does not scale what it keeps, as timm's with ``scale_by_keep=False``."""

    def forward(self, x):
        return super().forward(x) * (1 - self.rate) if self.training else x


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_stochastic_depth_of_other_kinds(rate):
    assert is_patched_block(ScaledLess(rate)) and is_patched_block(foreign.DropPath(rate))


def is_patched_block(drop: nn.Module) -> bool:
    module = block(foreign.Block, drop)
    patch(module)
    return is_patched(module)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_gradients_are_compared_in_any_mode(mode):
    class Detached(foreign.Mlp):
        def forward(self, x):
            return super().forward(x.detach())

    module = Detached(8, 16)
    with mode():
        patch(module)
    assert not is_patched(module)
