"""Configurations: plain, validated data that defines an architecture; importing them needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from segnext.one_line import is_one_line, one_line, shown

STRIDES = (4, 8, 16, 32)
STAGES = len(STRIDES)
STRIPS = (7, 11, 21)
ROOT = 5
ATTENTIONS = ("msca", "lka")
LARGE_KERNEL, LARGE_DILATION = 7, 3  # of "lka": with a root of 5 in front, the reach of a 23x23 kernel
EXPANSIONS = (8, 8, 4, 4)
EVAL_STEPS = 7  # of the NMF, as the official code
MOST_STEPS = 1000  # more do not change the result; a file that declares a billion would never end
ONE_CLASS = (
    "at least 2 (one class cannot be learnt: use two, or num_classes=2 with threshold=0.5 for one logit)"
)
# More channels, classes or a longer kernel are a mistake, or a file that wants our memory.
LARGEST = 65_536
LARGEST_KERNEL = 1023
MOST_STRIPS = 16
DEEPEST = 256
# Decoders, and the stages (0-3) that each reads unless the configuration says otherwise.
DECODERS = {"ham": (1, 2, 3), "cnn": (3,), "mlp": (0, 1, 2, 3)}
FORMER_NAMES = {"light_ham": "ham"}  # of decoders, in files of earlier versions
CONTEXTS = ("ham", "vq", "cd", "cc", "em", "nl", "msca", "aspp", "psp")
UNSEEN_CONTEXTS = ("ham", "vq", "cd")  # their tensors have the same names; the others show in a checkpoint
GROUPS = 32  # of every GroupNorm: decoder widths are multiples of it


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The fields that define the encoder of every architecture.

    Attributes:
        architecture: the registry's name, for example ``"mscan_t"``.
        channels: width of the four stages.
        depths: blocks in the four stages.
        expansions: FFN expansion in the four stages.
        attention: ``"msca"``, or ``"lka"`` for VAN's large kernel attention in its place, see
            :class:`segnext.models.msca.LargeKernelConv`.
        strips: kernel lengths K of the strip branches (1xK, then Kx1) in every block, odd; any number of them.
        root: side of the depthwise kernel in front of the strips, odd.
        mix: whether a 1x1 convolution mixes the channels of what the depthwise convolutions give.
        gate: whether the result multiplies the features that it was computed from, or replaces them.
        drop_path: stochastic depth rate of the last block; the rates of the others rise linearly from 0.
        dropout: dropout rate inside the FFNs.
        in_channels: channels of the image.
        recompute: save memory in training for more time, see :class:`segnext.models.msca.FFN`.
    """

    architecture: str
    channels: tuple[int, ...]
    depths: tuple[int, ...]
    expansions: tuple[int, ...] = EXPANSIONS
    attention: str = "msca"
    strips: tuple[int, ...] = STRIPS
    root: int = ROOT
    mix: bool = True
    gate: bool = True
    drop_path: float = 0.1
    dropout: float = 0.0
    in_channels: int = 3
    recompute: bool = False

    def __post_init__(self) -> None:
        kinds = {"int": int, "float": (int, float), "bool": bool, "str": str}
        if not isinstance(self.architecture, str) or not is_one_line(self.architecture):
            raise ValueError(f"architecture must be a name of one line, got {shown(self.architecture)}")
        for field in fields(self):
            value = _plain(getattr(self, field.name))
            object.__setattr__(self, field.name, value)
            kind: Any = kinds.get(str(field.type), object)
            if not isinstance(value, kind) or (isinstance(value, bool) and kind not in (bool, object)):
                raise TypeError(
                    f"{self.architecture}: {field.name} must be {field.type}, got {one_line(repr(value))}"
                )
        for name in ("channels", "depths", "expansions"):
            sizes = self._integers(name, "four positive integers")
            expect(self, name, len(sizes) == STAGES and min(sizes) >= 1, "four positive integers")
        expect(
            self,
            "channels",
            self.channels[0] % 2 == 0,
            "even in the first stage, whose stem begins with half",
        )
        strips = self._integers("strips", "odd positive integers")
        expect(self, "strips", all(_is_odd(length) for length in strips), "odd positive integers")
        expect(self, "root", _is_odd(self.root), "odd and positive")
        expect(self, "attention", self.attention in ATTENTIONS, f"one of {', '.join(ATTENTIONS)}")
        alone = self.attention == "msca" or strips == STRIPS
        expect(self, "strips", alone, f"left out with attention={self.attention!r}, which has none")
        self._expect_bounds()
        expect(self, "drop_path", 0 <= self.drop_path < 1, "in [0, 1)")
        expect(self, "dropout", 0 <= self.dropout < 1, "in [0, 1)")
        expect(self, "in_channels", self.in_channels >= 1, "at least 1")

    def _expect_bounds(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            largest = {"strips": LARGEST_KERNEL, "root": LARGEST_KERNEL, "depths": DEEPEST}.get(
                field.name, LARGEST
            )
            sizes = value if isinstance(value, tuple) else (value,) if type(value) is int else ()
            expect(self, field.name, all(size <= largest for size in sizes), f"at most {largest:,}")
        expect(self, "strips", len(self.strips) <= MOST_STRIPS, f"at most {MOST_STRIPS} lengths")

    def _integers(self, name: str, expected: str) -> tuple[int, ...]:
        """Make a tuple of the field ``name``, which JSON gives as a list."""
        value: Any = getattr(self, name)
        if isinstance(value, Iterable):
            value = tuple(map(_plain, value))
            object.__setattr__(self, name, value)
        is_given = isinstance(value, tuple) and all(
            isinstance(v, int) and not isinstance(v, bool) for v in value
        )
        expect(self, name, is_given, expected)
        return value


@dataclass(frozen=True, kw_only=True)
class MSCANConfig(EncoderConfig):
    """The fields that define an MSCAN; ``dataclasses.asdict`` of it fits into JSON and rebuilds it.

    Attributes:
        num_classes: classes of the head; 0 for none (``model(x)`` then gives pooled features).
        features_only: no head; ``model(x)`` gives the features of ``out_indices``.
        out_indices: stages (0-3) whose features are returned.
    """

    num_classes: int = 1000
    features_only: bool = False
    out_indices: tuple[int, ...] = (0, 1, 2, 3)

    def __post_init__(self) -> None:
        super().__post_init__()
        indices = self._integers("out_indices", "stages from 0 to 3 in rising order")
        rising = indices == tuple(sorted(set(indices) & set(range(STAGES))))
        expect(self, "out_indices", bool(indices) and rising, "stages from 0 to 3 in rising order")
        complete = self.features_only or indices[-1] == STAGES - 1
        expect(self, "out_indices", complete, "given with features_only=True; a classifier needs stage 3")
        expect(self, "num_classes", self.num_classes >= 0, "at least 0")


@dataclass(frozen=True, kw_only=True)
class SegNeXtConfig(EncoderConfig):
    """The fields that define a SegNeXt; ``dataclasses.asdict`` of it fits into JSON and rebuilds it.

    Attributes:
        num_classes: classes of the segmentation, at least 2.
        threshold: makes a model of two classes with one logit: class 1 where its sigmoid is above this number.
            None: one logit per class, and the largest wins.
        align_corners: resize logits to the image with the corner pixels' centres aligned, as OpenVINO Training
            Extensions do.
        decoder_align_corners: resize features inside the decoder so; mmsegmentation's ``align_corners`` sets both.
        decoder: ``"ham"`` (published: LightHam), ``"cnn"`` (the same on one stage alone) or ``"mlp"`` (as SegFormer);
            keys of ``segnext.models.decoders.DECODERS``.
        in_indices: stages (0-3) whose features the decoder reads; the first sets the size of the logits. None: those
            of ``DECODERS``.
        context: module for global context inside of the decoders "ham" and "cnn": one of ``CONTEXTS``, see
            :mod:`segnext.models.contexts`, or None for none. The decoder "mlp" has no place for one.
        decoder_channels: decoder width, a multiple of 32.
        rank: number of bases R in the contexts "ham", "vq", "cd" and "em"; it is in no tensor of foreign checkpoints.
        eval_steps: steps of the NMF in evaluation.
        nmf_grad: ``"unrolled"`` or ``"one_step"``, see :class:`segnext.models.ham.Hamburger`.
        random_eval_bases: draw random NMF bases in evaluation too, as the official code does.
        decoder_dropout: rate of the channel dropout before the classifier.
    """

    num_classes: int = 150
    threshold: float | None = None
    align_corners: bool = False
    decoder_align_corners: bool = False
    decoder: str = "ham"
    in_indices: tuple[int, ...] | None = None
    context: str | None = "ham"
    decoder_channels: int = 256
    rank: int = 16
    eval_steps: int = EVAL_STEPS
    nmf_grad: str = "unrolled"
    random_eval_bases: bool = False
    decoder_dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.threshold is None:
            expect(self, "num_classes", self.num_classes >= 2, ONE_CLASS)
        else:
            is_number = isinstance(self.threshold, int | float) and not isinstance(self.threshold, bool)
            expect(
                self, "threshold", is_number and 0 < self.threshold < 1, "a number between 0 and 1, or None"
            )
            expect(
                self,
                "num_classes",
                self.num_classes == 2,
                "2 with a threshold: the background and the object",
            )
        width = self.decoder_channels
        expect(
            self,
            "decoder_channels",
            width >= GROUPS and width % GROUPS == 0,
            f"a positive multiple of {GROUPS}",
        )
        self._expect_decoder()
        expect(self, "rank", self.rank >= 1, "at least 1")
        expect(self, "eval_steps", 1 <= self.eval_steps <= MOST_STEPS, f"from 1 to {MOST_STEPS}")
        expect(self, "nmf_grad", self.nmf_grad in ("unrolled", "one_step"), "'unrolled' or 'one_step'")
        expect(self, "decoder_dropout", 0 <= self.decoder_dropout < 1, "in [0, 1)")

    def _expect_decoder(self) -> None:
        object.__setattr__(self, "decoder", FORMER_NAMES.get(self.decoder, self.decoder))
        if self.in_indices is not None:
            expected = "stages from 0 to 3 in rising order"
            indices = self._integers("in_indices", expected)
            rising = indices == tuple(sorted(set(indices) & set(range(STAGES))))
            expect(self, "in_indices", bool(indices) and rising, expected)
            alone = self.decoder != "cnn" or len(indices) == 1
            expect(self, "in_indices", alone, "one stage for decoder='cnn', which reads no more")
        given = self.context
        expect(self, "context", given is None or given in CONTEXTS, f"one of {', '.join(CONTEXTS)} or None")
        groups_of_one = given in ("aspp", "psp") and self.decoder_channels == GROUPS
        expected = (
            f"at least {2 * GROUPS} with context={given!r}, which normalises single pixels in {GROUPS} groups"
        )
        expect(self, "decoder_channels", not groups_of_one, expected)
        draws = given in UNSEEN_CONTEXTS and self.decoder != "mlp"
        drawn = f"False with context={given!r} and decoder={self.decoder!r}, which draw no bases"
        expect(self, "random_eval_bases", draws or not self.random_eval_bases, drawn)
        if self.decoder == "mlp":
            left_out = given in (type(self).context, None)
            expect(self, "context", left_out, "left out with decoder='mlp', which has no place for one")
            object.__setattr__(self, "context", type(self).context)

    @property
    def logits(self) -> int:
        """Channels of the logits: one per class, or one for both classes of a model with a threshold."""
        return self.num_classes if self.threshold is None else 1


def expect(config: EncoderConfig, name: str, valid: bool, expected: str) -> None:
    """Raise a ValueError in one line unless the field ``name`` of ``config`` is ``valid``."""
    if not valid:
        given = one_line(getattr(config, name))
        raise ValueError(f"{config.architecture}: {name} must be {expected}, got {given}")


def _plain(value: Any) -> Any:
    """Make a Python number of one of NumPy or PyTorch, so that the configuration fits into JSON."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def _is_odd(length: int) -> bool:
    return length > 0 and length % 2 == 1
