"""Names the networks that are compared, as data: how each is built, and what was published about it, with the source.

A new rival is one row of `NETWORKS`, with a builder of `bench.rivals.networks`. Without a builder, only its published
numbers are shown. A number without a source cannot be written here: see `Cited`.
"""

from __future__ import annotations

import fnmatch
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn

from bench import paper
from bench.rivals import networks

Build = Callable[[int, int, int], nn.Module]

SEGNEXT = "arXiv 2209.08575, table 9"
SEGNEXT_TEXT = "arXiv 2209.08575, section 4.3"
SEGFORMER = "arXiv 2105.15203, table 1"
SEGFORMER_OTHERS = "arXiv 2105.15203, table 2"
EOMT = "arXiv 2503.19108"
EOMT_ZOO = "github.com/tue-mps/eomt, model_zoo/dinov2.md"
PIDNET, DDRNET = "arXiv 2206.02066", "arXiv 2101.06085"
OPENMMLAB = "mmsegmentation, configs/{}/README.md"


@dataclass(frozen=True)
class Cited:
    """A published number, and where it stands."""

    value: float
    source: str


@dataclass(frozen=True)
class Package:
    """What a network is built by.

    Attributes:
        module: what Python imports.
        install: the command that installs it.
    """

    module: str
    install: str

    @property
    def is_installed(self) -> bool:
        """Return whether Python finds it; nothing is imported."""
        return importlib.util.find_spec(self.module) is not None


PACKAGES = {
    "segnext": Package("segnext", "make demo"),
    "transformers": Package("transformers", "pip install transformers"),
    "segmentation_models_pytorch": Package(
        "segmentation_models_pytorch", "pip install segmentation_models_pytorch"
    ),
    "mmsegmentation": Package(
        "mmseg",
        "pip install --no-deps onedl-mmsegmentation==1.4.2 onedl-mmengine==0.10.12 onedl-mmcv==2.3.6 && "
        "pip install addict yapf termcolor opencv-python-headless prettytable scipy ftfy timm",
    ),
}


@dataclass(frozen=True)
class Size:
    """An image size with the classes of the data set that has it.

    Attributes:
        name: "512x512", also where a dry run takes a smaller one.
    """

    name: str
    height: int
    width: int
    classes: int

    @property
    def tiny(self) -> Size:
        """Return an eighth of each side, for a dry run."""
        return Size(self.name, self.height // 8, self.width // 8, self.classes)


SIZES = {
    size.name: size
    for size in (
        Size("512x512", 512, 512, 150),  # ADE20K
        Size("768x1536", 768, 1536, 19),  # Cityscapes, as real-time networks see it
        Size("1024x2048", 1024, 2048, 19),  # Cityscapes
    )
}
SQUARE = ("512x512",)
ENDS = ("512x512", "1024x2048")
ALL = tuple(SIZES)


@dataclass(frozen=True)
class Network:
    """One row.

    Attributes:
        name: readable; rows of one network in several forms differ in it.
        family: what the plots draw in one colour.
        package: key of `PACKAGES`; another text says why the row is not measured.
        build: gets classes, height and width; None if only published numbers are shown.
        ours: size of our model, "t" ... "l", in the form that `form` names.
        form: of ours: "deployed", "plain" or "eager".
        sizes: those that are measured unless `--sizes` says otherwise.
        parameters: millions.
        gmacs: giga multiply-adds at 512x512 with 150 classes; papers write GFLOPs.
        city_gmacs: the same at 1024x2048 with 19 classes.
        ade20k: mIoU on its validation set, one scale.
        cityscapes: mIoU on its validation set, one scale.
        note: what a reader must know about the row.
    """

    name: str
    family: str
    package: str
    build: Build | None = None
    ours: str = ""
    form: str = ""
    sizes: tuple[str, ...] = ALL
    parameters: Cited | None = None
    gmacs: Cited | None = None
    city_gmacs: Cited | None = None
    ade20k: Cited | None = None
    cityscapes: Cited | None = None
    note: str = ""

    @property
    def is_ours(self) -> bool:
        """Return whether this is a SegNeXt of this repository."""
        return bool(self.ours)

    @property
    def runs(self) -> bool:
        """Return whether this row is to be measured, if its package is installed."""
        return self.is_ours or self.build is not None

    def missing(self) -> str:
        """Return the command that installs the row's package; an empty text if it is there, or if nothing helps."""
        package = PACKAGES.get(self.package)
        return "" if package is None or package.is_installed else package.install

    def published(self) -> dict[str, Cited]:
        """Return the published numbers that there are, by the attribute's name."""
        names = ("parameters", "gmacs", "city_gmacs", "ade20k", "cityscapes")
        return {name: number for name in names if (number := getattr(self, name)) is not None}


def _all_cited(source: str, *values: float | None) -> dict[str, Cited | None]:
    """Return parameters, both multiply-adds and both mIoU from one table."""
    names = ("parameters", "gmacs", "city_gmacs", "ade20k", "cityscapes")
    pairs = zip(names, values, strict=True)
    return {name: None if value is None else Cited(value, source) for name, value in pairs}


def _openmmlab(folder: str, ade20k: float | None, cityscapes: float | None) -> dict[str, Cited | None]:
    """Return both mIoU as mmsegmentation publishes them."""
    source = OPENMMLAB.format(folder)
    numbers = {"ade20k": ade20k, "cityscapes": cityscapes}
    return {name: None if value is None else Cited(value, source) for name, value in numbers.items()}


def _segnext(size: str) -> list[Network]:
    """Return our rows of one size. On large images only the forms that the paper's comparisons need are run slowly."""
    ade20k, cityscapes = (
        next(row for row in paper.TABLE_9 if (row.name, row.dataset) == (f"segnext_{size}", dataset))
        for dataset in (paper.ADE20K, paper.CITYSCAPES)
    )
    cited = _all_cited(SEGNEXT, ade20k.millions, ade20k.giga, cityscapes.giga, ade20k.miou, cityscapes.miou)
    forms = {"deployed": ALL, "plain": SQUARE, "eager": SQUARE}
    forms |= {"t": {"plain": ALL, "eager": ALL}, "s": {"eager": ENDS}}.get(size, {})
    return [
        Network(f"SegNeXt-{size.upper()} {form}", "SegNeXt", "segnext", None, size, form, sizes, **cited)
        for form, sizes in forms.items()
    ]


def _segformer(
    size: str, sizes: tuple[str, ...], source: str, *values: float | None, note: str = ""
) -> Network:
    cited = _all_cited(source, *values)
    build = partial(networks.segformer, size=size)
    name = f"SegFormer-{size.upper()}"
    return Network(name, "SegFormer", "transformers", build, sizes=sizes, note=note, **cited)


def _mmseg(
    name: str,
    family: str,
    config: str,
    sizes: tuple[str, ...],
    cited: dict[str, Cited | None],
    note: str = "",
) -> Network:
    build = partial(networks.openmmlab, config=config)
    return Network(name, family, "mmsegmentation", build, sizes=sizes, note=note, **cited)


NETWORKS: tuple[Network, ...] = (
    *_segnext("t"),
    *_segnext("s"),
    *_segnext("b"),
    *_segnext("l"),
    _segformer("b0", ALL, SEGNEXT, 3.8, 8.4, 125.5, 37.4, 76.2),
    _segformer("b1", SQUARE, SEGNEXT, 13.7, 15.9, 243.7, 42.2, 78.5),
    _segformer("b2", ENDS, SEGNEXT, 27.5, 62.4, 717.1, 46.5, 81.0),
    _segformer("b3", SQUARE, SEGNEXT, 47.3, 79.0, 962.9, 49.4, 81.7),
    _segformer("b4", SQUARE, SEGFORMER, 64.1, 95.7, 1240.6, 50.3, 82.3),
    _segformer(
        "b5", ENDS, SEGFORMER, 84.7, None, None, 51.0, 82.4, note="mIoU on ADE20K at 640x640, as published"
    ),
    _mmseg(
        "DeepLabV3+ R-101",
        "convolutional",
        "deeplabv3plus/deeplabv3plus_r101-d8_4xb4-160k_ade20k-512x512",
        SQUARE,
        {
            **_all_cited(SEGFORMER_OTHERS, 62.7, 255.1, 2032.3, None, None),
            **_openmmlab("deeplabv3plus", 45.47, 80.97),
        },
        "published parameters are with the auxiliary head",
    ),
    Network(
        "DeepLabV3+ R-101, smp",
        "convolutional",
        "segmentation_models_pytorch",
        partial(networks.smp_deeplab, encoder="resnet101"),
        sizes=SQUARE,
        note="the package's own form: output stride 16 and a narrower decoder; it publishes no mIoU on these sets",
    ),
    _mmseg(
        "DeepLabV3+ MobileNetV2",
        "convolutional",
        "mobilenet_v2/mobilenet-v2-d8_deeplabv3plus_4xb4-160k_ade20k-512x512",
        SQUARE,
        {
            **_all_cited(SEGFORMER_OTHERS, 15.4, 69.4, 555.4, None, None),
            **_openmmlab("mobilenet_v2", 34.02, 75.20),
        },
        "published parameters are with the auxiliary head",
    ),
    _mmseg(
        "PSPNet R-101",
        "convolutional",
        "pspnet/pspnet_r101-d8_4xb4-160k_ade20k-512x512",
        SQUARE,
        {
            **_all_cited(SEGFORMER_OTHERS, 68.1, 256.4, 2048.9, None, None),
            **_openmmlab("pspnet", 44.39, 79.76),
        },
        "published parameters are with the auxiliary head",
    ),
    Network(
        "PSPNet R-101, smp",
        "convolutional",
        "segmentation_models_pytorch",
        partial(networks.smp_pspnet, encoder="resnet101"),
        sizes=SQUARE,
        note="the package's decoder, with a 1x1 convolution instead of 3x3; it publishes no mIoU on these sets",
    ),
    Network(
        "UPerNet Swin-T",
        "UPerNet",
        "transformers",
        partial(networks.upernet, backbone="swin"),
        sizes=SQUARE,
        parameters=Cited(60, "arXiv 2103.14030, table 3"),
        ade20k=Cited(44.41, OPENMMLAB.format("swin")),
        note="published parameters are with the auxiliary head",
    ),
    Network(
        "UPerNet ConvNeXt-T",
        "UPerNet",
        "transformers",
        partial(networks.upernet, backbone="convnext"),
        sizes=SQUARE,
        parameters=Cited(60, "arXiv 2201.03545"),
        ade20k=Cited(46.11, OPENMMLAB.format("convnext")),
        note="published parameters are with the auxiliary head",
    ),
    Network(
        "EoMT-L",
        "EoMT",
        "transformers",
        networks.eomt,
        sizes=SQUARE,
        parameters=Cited(316, EOMT),
        ade20k=Cited(58.4, EOMT_ZOO),
        cityscapes=Cited(84.2, EOMT_ZOO),
        note="ViT-L of DINOv2; mask by its own post-processing; larger images are cut into windows",
    ),
    _mmseg(
        "HRNet-W48 FCN",
        "convolutional",
        "hrnet/fcn_hr48_4xb4-160k_ade20k-512x512",
        SQUARE,
        _openmmlab("hrnet", 42.02, 80.65),
        "stands for HRFormer too, which no maintained package has",
    ),
    _mmseg(
        "PIDNet-S",
        "real time",
        "pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes",
        ALL,
        {**_all_cited(PIDNET, 7.6, None, 47.6, None, None), **_openmmlab("pidnet", None, 78.74)},
    ),
    _mmseg(
        "PIDNet-L",
        "real time",
        "pidnet/pidnet-l_2xb6-120k_1024x1024-cityscapes",
        ENDS,
        {**_all_cited(PIDNET, 36.9, None, 275.8, None, None), **_openmmlab("pidnet", None, 80.89)},
    ),
    _mmseg(
        "DDRNet-23-slim",
        "real time",
        "ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024",
        ALL,
        {**_all_cited(DDRNET, 5.7, None, 36.3, None, None), **_openmmlab("ddrnet", None, 77.84)},
    ),
    _mmseg(
        "BiSeNetV2",
        "real time",
        "bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024",
        ALL,
        _openmmlab("bisenetv2", None, 73.21),
    ),
    Network(
        "PP-LiteSeg-B",
        "real time",
        "PaddleSeg, another framework",
        cityscapes=Cited(79.04, "PaddleSeg, configs/pp_liteseg/README.md"),
    ),
    Network(
        "HRFormer-S",
        "HRFormer",
        "none that is maintained",
        **_all_cited(SEGNEXT, 13.5, 109.5, 835.7, 44.0, 80.0),
    ),
    Network(
        "HRFormer-B",
        "HRFormer",
        "none that is maintained",
        **_all_cited(SEGNEXT, 56.2, 280.0, 2223.8, 48.7, 81.9),
    ),
    Network(
        "EfficientNet-L2, NAS-FPN",
        "convolutional",
        "none that is public",
        parameters=Cited(485, SEGNEXT_TEXT),
        note="mIoU 90.5 on Pascal VOC's test set, SegNeXt-L 90.6 with a tenth of its parameters (arXiv 2209.08575, "
        "table 10)",
    ),
)


@dataclass(frozen=True)
class Claim:
    """A comparison that the paper makes in numbers, to be set beside what is measured.

    Attributes:
        says: the paper's words, shortened.
        source: where.
        size: key of `SIZES`.
        rows: names of the rows to show.
    """

    says: str
    source: str
    size: str
    rows: tuple[str, ...]


CLAIMS = (
    Claim(
        "SegNeXt-S: 13.9 M parameters, 124.6 G, mIoU 81.3 on Cityscapes; SegFormer-B2: 27.5 M, 717.1 G, 81.0",
        SEGNEXT,
        "1024x2048",
        ("SegNeXt-S deployed", "SegNeXt-S eager", "SegFormer-B2"),
    ),
    Claim(
        "SegNeXt-T: 25 frames/s on one RTX 3090, mIoU 78.0 on Cityscapes' test set",
        f"{SEGNEXT_TEXT} and table 11",
        "768x1536",
        ("SegNeXt-T deployed", "SegNeXt-T eager"),
    ),
)


def chosen(patterns: Sequence[str]) -> list[Network]:
    """Return the rows whose names match one of the patterns, with * and ?, in any case.

    Raises:
        ValueError: a pattern matches no row.
    """
    lower = {network.name.lower(): network for network in NETWORKS}
    found: dict[str, Network] = {}
    for pattern in patterns:
        names = fnmatch.filter(lower, pattern.strip().lower())
        if not names:
            known = ", ".join(network.name for network in NETWORKS)
            raise ValueError(f"rivals: --rows must name rows, got {pattern!r}; there are {known}")
        found |= {name: lower[name] for name in names}
    return [network for name, network in lower.items() if name in found]
