"""Tests what is read from the configuration that real files carry, and what is refused."""

from __future__ import annotations

import re
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segnext import create_model
from segnext.weights import config_text
from segnext.weights.config_text import LONGEST_TEXT, UNKNOWN, parse, read_settings
from segnext.weights.loading import LoadReport, load_weights
from tests.weights.checkpoints import official
from tests.weights.foreign import as_geti, as_mmsegmentation

# As mmengine formats it, shortened.
MMENGINE = """
crop_size = (
    512,
    512,
)
data_preprocessor = dict(mean=[1.0, 1.0, 1.0], std=[2.0, 2.0, 2.0], type='SegDataPreProcessor')
model = dict(
    backbone=dict(
        act_cfg=dict(type='GELU'), depths=[3, 3, 5, 2], norm_cfg=dict(requires_grad=True, type='BN'), type='MSCAN'),
    data_preprocessor=dict(
        bgr_to_rgb=True,
        mean=[
            123.675,
            116.28,
            103.53,
        ],
        std=[58.395, 57.12, 57.375],
        type='SegDataPreProcessor'),
    decode_head=dict(
        align_corners=False,
        channels=256,
        ham_channels=256,
        ham_kwargs=dict(MD_R=16, MD_S=1, eval_steps=7, inv_t=100, rand_init=True, train_steps=6),
        in_index=[1, 2, 3],
        loss_decode=dict(loss_weight=1.0, type='CrossEntropyLoss', use_sigmoid=False),
        norm_cfg=dict(num_groups=32, requires_grad=True, type='GN'),
        num_classes=150,
        type='LightHamHead'),
    type='EncoderDecoder')
"""
# As mmcv formats it: capitals, no data preprocessor, Normalize in the pipelines.
MMCV = """
img_norm_cfg = dict(mean=[9.0, 9.0, 9.0], std=[9.0, 9.0, 9.0], to_rgb=True)
model = dict(
    type='EncoderDecoder',
    decode_head=dict(type='LightHamHead', num_classes=3, ham_channels=256, channels=256,
        ham_kwargs=dict(MD_R=8, EVAL_STEPS=4)))
data = dict(
    train=dict(pipeline=[dict(type='Normalize', mean=[7.0, 7.0, 7.0], std=[7.0, 7.0, 7.0], to_rgb=False)]),
    test=dict(pipeline=[dict(type='LoadImageFromFile'), dict(type='MultiScaleFlipAug', transforms=[
        dict(type='Resize', keep_ratio=True),
        dict(type='Normalize', mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], to_rgb=True)])]))
"""


def changed(*edits: tuple[str, str]) -> str:
    text = MMENGINE
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return text


def test_mmengine() -> None:
    found = read_settings({"meta": {"cfg": MMENGINE}})
    assert found.source == "meta.cfg"
    assert found.model == {
        "rank": 16,
        "eval_steps": 7,
        "align_corners": False,
        "decoder_align_corners": False,
        "num_classes": 150,
    }
    assert found.preprocessing == {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
    assert not (found.bgr or found.refusals or found.notes)


def test_mmcv_takes_the_normalisation_of_the_test() -> None:
    found = read_settings({"meta": {"config": MMCV}})
    assert found.source == "meta.config"
    assert found.model == {
        "rank": 8,
        "eval_steps": 4,
        "align_corners": False,
        "decoder_align_corners": False,
        "num_classes": 3,
    }
    assert found.preprocessing == {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0]} and not found.bgr
    only_base = MMCV.split("data = dict")[0]
    assert read_settings({"meta": {"config": only_base}}).preprocessing["mean"] == [9.0, 9.0, 9.0]


def test_a_dictionary_as_jseg_writes_it() -> None:
    config = {"model": {"decode_head": {"ham_kwargs": {"MD_R": 64}, "num_classes": 5, "align_corners": True}}}
    found = read_settings({"meta": {"config": config}})
    assert found.model == {
        "rank": 64,
        "eval_steps": 7,
        "align_corners": True,
        "decoder_align_corners": True,
        "num_classes": 5,
    }


# What the peers' code takes where the text is silent.
@pytest.mark.parametrize(
    ("edits", "field", "value"),
    [
        ([("MD_R=16, ", "")], "rank", 64),
        (
            [
                (
                    "ham_kwargs=dict(MD_R=16, MD_S=1, eval_steps=7, inv_t=100, rand_init=True, train_steps=6),",
                    "",
                )
            ],
            "rank",
            64,
        ),
        ([("MD_R=16, ", "MD_R=64, ")], "rank", 64),
        ([("eval_steps=7", "eval_steps=3")], "eval_steps", 3),
        ([("align_corners=False", "align_corners=True")], "align_corners", True),
        ([("align_corners=False,", "")], "align_corners", False),
        ([("num_classes=150", "num_classes=2, out_channels=1, threshold=0.4")], "threshold", 0.4),
        ([("num_classes=150", "num_classes=2, out_channels=1")], "threshold", 0.3),
        ([("num_classes=150", "num_classes=1")], "num_classes", 2),
        ([("num_classes=150", "num_classes=2, out_channels=2")], "num_classes", 2),
    ],
)
def test_fields(edits: list[tuple[str, str]], field: str, value: Any) -> None:
    found = read_settings({"meta": {"cfg": changed(*edits)}})
    assert found.model[field] == value and not found.refusals
    assert ("threshold" in found.model) == ("out_channels=1" in edits[0][1] or edits[0][1] == "num_classes=1")


@pytest.mark.parametrize(
    ("edits", "mean", "bgr"),
    [
        ([("bgr_to_rgb=True", "bgr_to_rgb=False")], 123.675, True),
        ([("bgr_to_rgb=True,", "")], 123.675, True),  # mmengine turns nothing by itself
        ([("bgr_to_rgb=True", "rgb_to_bgr=True")], 123.675, False),  # the same exchange under another name
        ([("    data_preprocessor=dict(", "    nothing=dict(")], 1.0, True),  # the one at the top counts
        ([("mean=[\n            123.675,\n            116.28,\n            103.53,\n        ],", ""),
          ("std=[58.395, 57.12, 57.375],", "")], 0.0, False),
    ],
)  # fmt: skip
def test_input(edits: list[tuple[str, str]], mean: float, bgr: bool) -> None:
    found = read_settings({"meta": {"cfg": changed(*edits)}})
    assert (found.preprocessing["mean"][0], found.bgr) == (mean, bgr)


@pytest.mark.parametrize(
    ("turned", "to_rgb", "bgr"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_a_step_normalises_where_the_preprocessor_does_not(turned: bool, to_rgb: bool, bgr: bool) -> None:
    processor = f"data_preprocessor = dict(bgr_to_rgb={turned})\n"
    text = f"""model = dict(decode_head=dict(num_classes=3))
test_dataloader = dict(dataset=dict(pipeline=[
    dict(type='Normalize', mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], to_rgb={to_rgb})]))
"""
    for name in (
        "Normalize",
        "mmcv.transforms.processing.Normalize",
    ):  # the longer one from lazy configurations
        found = read_settings({"meta": {"cfg": processor + text.replace("Normalize", name)}})
        assert found.preprocessing["mean"] == [1.0, 2.0, 3.0] and found.bgr == bgr


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("MD_S=1", "MD_S=2"), "decode_head.ham_kwargs.md_s must be 1, got 2"),
        (("MD_S=1", "SPATIAL=False"), "decode_head.ham_kwargs.spatial must be True, got False"),
        (("MD_S=1", "HAM_TYPE='SVD'"), "decode_head.ham_kwargs.ham_type must be one of NMF, VQ, CD, got SVD"),
        (("num_groups=32", "num_groups=16"), "decode_head.norm_cfg.num_groups must be 32, got 16"),
        (("num_groups=32", "eps=0.1"), "decode_head.norm_cfg.eps must be 1e-5, got 0.1"),
        (("type='BN'", "type='BN', eps=1e-3"), "backbone.norm_cfg.eps must be 1e-5, got 0.001"),
        (("type='GELU'", "type='ReLU'"), "backbone.act_cfg.type must be GELU, got ReLU"),
        (
            ("type='GELU'", "type='GELU', approximate='tanh'"),
            "backbone.act_cfg.approximate must be none, got tanh",
        ),
        (
            ("channels=256,\n        ham", "act_cfg=None,\n        ham"),
            "decode_head.act_cfg.type must be ReLU, got None",
        ),
        (
            ("ham_channels=256", "ham_channels=128"),
            "ham_channels must be 256 as decode_head.channels, got 128",
        ),
        (
            ("in_index=[1, 2, 3]", "in_index=[2, 1]"),
            "in_index must be a list of stages from 0 to 3 in rising",
        ),
        (
            ("in_index=[1, 2, 3]", "in_index=-1"),
            "in_index must be a list of stages from 0 to 3 in rising order, got -1",
        ),
    ],
)
def test_refusals(edit: tuple[str, str], message: str) -> None:
    (refusal,) = read_settings({"meta": {"cfg": changed(edit)}}).refusals
    assert message in refusal


@pytest.mark.parametrize(
    ("edit", "field", "value"),
    [
        (("in_index=[1, 2, 3]", "in_index=[0, 1, 2, 3]"), "in_indices", (0, 1, 2, 3)),
        (("MD_S=1", "HAM_TYPE='VQ'"), "context", "vq"),
        (("MD_S=1", "ham_type='CD2D'"), "context", "cd"),
    ],
)
def test_other_stages_and_factorisations(edit: tuple[str, str], field: str, value: object) -> None:
    plain, found = read_settings({"meta": {"cfg": MMENGINE}}), read_settings({"meta": {"cfg": changed(edit)}})
    assert found.refusals == [] and found.model == {**plain.model, field: value}


def test_nothing_is_executed(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    text = textwrap.dedent(f"""
        import os
        open({str(marker)!r}, 'w')
        def f(): pass
        a = open({str(marker)!r}, 'w')
        b = [x for x in range(3)]
        c = dict(a=1, **{{'b': 2}})
        d = dict([('a', 1)])
        e = -3
        f = c
        g = {{'x': (1, 'two'), 3: 4}}
    """)
    values = parse(text)
    assert not marker.exists()
    assert values["a"] is UNKNOWN and values["b"] is UNKNOWN
    assert values["c"] == {"a": 1, "b": 2} == values["f"] and values["e"] == -3 and values["d"] is UNKNOWN
    assert values["g"] == {"x": [1, "two"]}


def test_every_form_of_assignment() -> None:
    values = parse("""
a: dict = dict(x=1)
b = c = {'y': 2, None: 3}
d = dict(a, **b)
e = dict(**f)
(g, h), i = (1, 2), 3
a['x'] = 5
b.update(y=3)
if True:
    c = 1
j = dict(c)
""")
    assert values["d"] == {"x": 1, "y": 2} and values["j"] is UNKNOWN
    assert {name for name, value in values.items() if value is UNKNOWN} == set("abceghij")


EXPRESSIONS = {
    "align_corners": (("align_corners=False", "align_corners=CORNERS"), "taken as False"),
    "align_corners as text": (("align_corners=False", "align_corners='yes'"), "neither True nor False"),
    "order of colours": (("bgr_to_rgb=True", "bgr_to_rgb=RGB"), "taken as False"),
    "threshold": (("num_classes=150", "num_classes=1, threshold=limit()"), "taken as 0.3"),
    "factorisation": (("MD_S=1", "MD_S=S"), "decode_head.ham_kwargs.md_s in meta.cfg .* taken as 1"),
    "its settings": (
        ("ham_kwargs=dict(MD_R=16,", "ham_kwargs=dict(**HAM, MD_R=16,"),
        "ham_kwargs in .* nothing",
    ),
    "the decoder": (("decode_head=dict(", "decode_head=dict(**HEAD, "), "decode_head in .* nothing is read"),
    "the model": (("    type='EncoderDecoder')", ")\nmodel.update(a=1)"), "model in .* nothing is read"),
    "other files": (("crop_size =", "_base_ = ['a.py']\ncrop_size ="), "from other files is not known"),
}


@pytest.mark.parametrize("case", EXPRESSIONS)
def test_what_only_running_the_text_would_tell_is_said(case: str) -> None:
    edit, message = EXPRESSIONS[case]
    found = read_settings({"meta": {"cfg": changed(edit)}})
    assert len(found.notes) == 1 and re.search(message, found.notes[0]), found.notes


def test_settings_that_cannot_be_read_are_not_those_of_the_file() -> None:
    found = read_settings({"meta": {"cfg": changed(("ham_kwargs=dict(MD_R=16,", "ham_kwargs=dict(**HAM,"))}})
    assert not {"rank", "eval_steps"} & found.model.keys()
    assert not read_settings({"meta": {"cfg": "model = build()"}}).source


@pytest.mark.parametrize(("value", "means"), [("1", True), ("0", False), ("None", False)])
def test_switches_are_what_python_takes_them_as(value: str, means: bool) -> None:
    corners, turned = (
        ("align_corners=False", f"align_corners={value}"),
        ("bgr_to_rgb=True", f"bgr_to_rgb={value}"),
    )
    found = read_settings({"meta": {"cfg": changed(corners, turned)}})
    assert found.model["align_corners"] is means and found.bgr is not means and not found.notes


HOSTILE = {
    "deep": "a = " + "[" * 5000 + "]" * 5000,
    "minus": "a = " + "-" * 100_000 + "1",
    "attributes": "a = b" + ".c" * 100_000,
    "long": "a = 1\n" * (LONGEST_TEXT // 6 + 1),
    "null": "a = 1\0",
    "prose": "the rank was sixteen",
    "json": '{"model": {"decode_head": {"ham_kwargs": {"MD_R": 16}}}}',
    "path": "configs/segnext.py",
    "empty": "",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_texts_that_cannot_be_read_give_one_note(case: str) -> None:
    found = read_settings({"meta": {"cfg": HOSTILE[case]}})
    assert not found.model
    (note,) = found.notes
    assert note.startswith("meta.cfg cannot be read: it") and "\n" not in note and len(note) < 200


@pytest.mark.filterwarnings("error")
def test_what_python_warns_of_is_read_in_silence() -> None:
    found = read_settings({"meta": {"cfg": MMENGINE + "pattern = '\\w'\n"}})
    assert found.model["rank"] == 16 and not found.notes


def test_dictionaries_that_grow_from_line_to_line_end() -> None:
    """Copying them took time with the square of their number."""
    assert parse("a = {}\n" + "".join(f"a = dict(a, b{i}=1)\n" for i in range(20_000)))["a"] is UNKNOWN


def test_names_that_refer_to_one_list_many_times_end() -> None:
    lines = ["a0 = [dict(type='Other')]"] + [f"a{i} = [a{i - 1}, a{i - 1}]" for i in range(1, 60)]
    text = "\n".join([*lines, "model = dict(decode_head=dict(num_classes=3))", "test_pipeline = a59"])
    assert read_settings({"meta": {"cfg": text}}).model["num_classes"] == 3


def file_with(
    path: Path, meta: dict[str, Any], change: Callable[[dict[str, Any]], Any] = as_mmsegmentation
) -> Path:
    torch.save({"meta": meta, "state_dict": change(official())}, path)
    return path


def text_for(num_classes: int = 3, *edits: tuple[str, str]) -> str:
    return changed(("num_classes=150", f"num_classes={num_classes}"), *edits)


def built(path: Path, **options: Any) -> tuple[Any, LoadReport]:
    from segnext.create import build_from_weights

    return build_from_weights(path, **options)


def test_the_file_wins_over_the_table_and_the_user_over_the_file(tmp_path: Path) -> None:
    edits = (("MD_R=16", "MD_R=8"), ("eval_steps=7", "eval_steps=3"))
    path = file_with(tmp_path / "a.pth", {"cfg": text_for(3, *edits)})
    model, report = built(path)
    assert (model.config.rank, model.config.eval_steps) == (8, 3)
    assert "NMF rank: 8, from meta.cfg" in str(report) and "eval_steps 3, from meta.cfg" in str(report)
    assert "does not say" not in str(report)
    model, report = built(path, rank=4, eval_steps=5)
    assert (model.config.rank, model.config.eval_steps) == (4, 5)
    assert report.rank == "4, given by the user; meta.cfg says 8"
    assert report.notes == ["eval_steps 5, given by the user; the file says 3"]
    with pytest.raises(
        ValueError, match=r"eval_steps of the model must be 3 as in .*, got 7; create it with eval"
    ):
        load_weights(create_model("t", num_classes=3, rank=8), path)
    assert load_weights(create_model("t", num_classes=3, rank=8), path, given=["eval_steps"]).notes


def test_what_segnext_cannot_compute_is_refused_in_one_line(tmp_path: Path) -> None:
    path = file_with(tmp_path / "a.pth", {"cfg": text_for(3, ("MD_S=1", "MD_S=2"))})
    with pytest.raises(ValueError, match=r"md_s must be 1, got 2; run it with .*part='backbone'") as error:
        create_model(weights=path)
    assert "\n" not in str(error.value)
    assert create_model("mscan_t", weights=path, part="backbone", features_only=True)
    path = file_with(tmp_path / "b.pth", {"cfg": text_for(3, ("type='GELU'", "type='ReLU'"))})
    with pytest.raises(
        ValueError, match="backbone.act_cfg.type must be GELU, got ReLU; run it with the code"
    ):
        create_model("mscan_t", weights=path, part="backbone", features_only=True)


def test_bgr_becomes_rgb(tmp_path: Path) -> None:
    path = file_with(tmp_path / "a.pth", {"cfg": text_for(3, ("bgr_to_rgb=True", "bgr_to_rgb=False"))})
    model, report = built(path)
    stem = official()["backbone.patch_embed1.proj.0.weight"]
    assert torch.equal(model.backbone.stem.conv1.weight, stem[:, [2, 1, 0]])
    assert model.metadata["preprocessing"] == {
        "mean": [103.53, 116.28, 123.675],
        "std": [57.375, 57.12, 58.395],
    }
    assert "BGR" in str(report)


@pytest.mark.parametrize(("mean", "kept"), [("[1.0]", [1.0] * 3), ("[m for m in MEAN]", None)])
def test_bgr_becomes_rgb_whatever_the_mean_is(mean: str, kept: list[float] | None, tmp_path: Path) -> None:
    numbers = "mean=[\n            123.675,\n            116.28,\n            103.53,\n        ]"
    edits = ((numbers, f"mean={mean}"), ("std=[58.395, 57.12, 57.375]", "std=[2.0]"))
    path = file_with(
        tmp_path / "a.pth", {"cfg": text_for(3, ("bgr_to_rgb=True", "bgr_to_rgb=False"), *edits)}
    )
    model, report = built(path)
    stem = official()["backbone.patch_embed1.proj.0.weight"]
    assert torch.equal(model.backbone.stem.conv1.weight, stem[:, [2, 1, 0]])
    assert model.metadata.get("preprocessing", {}).get("mean") == kept
    assert "BGR" in str(report) and ("not lists of numbers" in str(report)) == (kept is None)


def test_one_logit(tmp_path: Path) -> None:
    def one_logit(state_dict: dict[str, Any]) -> dict[str, Any]:
        return {k: v[:1] if "conv_seg" in k else v for k, v in as_mmsegmentation(state_dict).items()}

    text = text_for(2, ("num_classes=2", "num_classes=2, out_channels=1, threshold=0.4"))
    model, report = built(file_with(tmp_path / "a.pth", {"cfg": text}, one_logit))
    assert (model.config.num_classes, model.config.threshold) == (2, 0.4)
    assert "threshold 0.4, from meta.cfg" in str(report)
    model, report = built(file_with(tmp_path / "b.pth", {}, one_logit))
    assert (model.config.num_classes, model.config.threshold) == (2, 0.3)
    assert "threshold 0.3, for the one logit; the file does not say" in str(report)
    three, _ = built(tmp_path / "a.pth", head="reinit", num_classes=3)
    assert three.config.threshold is None


def test_geti_resizes_logits_with_aligned_corners_and_names_its_classes(tmp_path: Path) -> None:
    parameters = {
        "label_info": {
            "label_names": ["road", "car", "sky"],
            "label_ids": ["0", "1", "2"],
            "ignore_index": 255,
        },
        "data_input_params": {"input_size": (512, 512), "mean": (1.0, 2.0, 3.0), "std": (4.0, 5.0, 6.0)},
    }
    path = tmp_path / "geti.ckpt"
    state_dict = as_geti(official(), torch.rand(1, 256, 16))
    torch.save({"state_dict": state_dict, "hyper_parameters": parameters}, path)
    model, report = built(path)
    assert model.config.align_corners and "align_corners True, as Geti" in str(report)
    assert model.metadata["classes"] == ["road", "car", "sky"]
    assert model.metadata["preprocessing"] == {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0]}
    with pytest.raises(
        ValueError, match=r"geti.ckpt: rank must be 16 as the bases in the file have, got 8; leave"
    ):
        built(path, rank=8)


@pytest.mark.parametrize(
    ("mean", "std", "scale"),
    [
        ((0.5, 0.4, 0.3), (0.25, 0.25, 0.2), 255.0),
        ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 255.0),
        ((123.7, 116.3, 103.5), (1.0, 1.0, 1.0), 1.0),  # as Caffe normalised
        ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0), 1.0),
    ],
)
def test_the_scale_of_getis_pixels(mean: tuple[float, ...], std: tuple[float, ...], scale: float) -> None:
    found = read_settings({"hyper_parameters": {"data_input_params": {"mean": mean, "std": std}}})
    assert found.preprocessing == {"mean": [scale * v for v in mean], "std": [scale * v for v in std]}


def test_mmsegmentations_fixed_bases_are_not_getis(tmp_path: Path) -> None:
    def with_bases(state_dict: dict[str, Any]) -> dict[str, Any]:
        return {**as_mmsegmentation(state_dict), "decode_head.hamburger.ham.bases": torch.rand(1, 256, 16)}

    model, report = built(file_with(tmp_path / "a.pth", {"cfg": text_for()}, with_bases))
    assert not model.config.align_corners and "align_corners False, from meta.cfg" in str(report)
    assert report.rank == "16, from the bases in the file" and not report.missing


def test_older_geti_pickles_its_label_info(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class SegLabelInfo:
        def __init__(self) -> None:
            self.label_names = ["road", "car", "sky"]

    module = types.ModuleType("otx_absent")
    SegLabelInfo.__module__, SegLabelInfo.__qualname__ = "otx_absent", "SegLabelInfo"
    module.SegLabelInfo = SegLabelInfo  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "otx_absent", module)
    state_dict = as_geti(official(), torch.rand(1, 256, 16))
    path = tmp_path / "geti.ckpt"
    torch.save({"state_dict": state_dict, "hyper_parameters": {"label_info": SegLabelInfo()}}, path)
    monkeypatch.delitem(sys.modules, "otx_absent")
    model, _ = built(path)
    assert model.metadata["classes"] == ["road", "car", "sky"]


def test_the_only_name_of_a_binary_model_is_the_objects(tmp_path: Path) -> None:
    def one_logit(state_dict: dict[str, Any]) -> dict[str, Any]:
        return {k: v[:1] if "conv_seg" in k else v for k, v in as_mmsegmentation(state_dict).items()}

    meta = {"cfg": text_for(1), "dataset_meta": {"classes": ("crack",), "palette": [[1, 2, 3]]}}
    model, _ = built(file_with(tmp_path / "a.pth", meta, one_logit))
    assert model.config.threshold == 0.3
    assert model.metadata["classes"] == ["background", "crack"]
    assert model.metadata["palette"] == [[0, 0, 0], [1, 2, 3]]


def test_numpy_palettes_and_names(tmp_path: Path) -> None:
    palette = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.uint8)
    meta = {"dataset_meta": {"classes": ["a", "b", "c"], "palette": palette}}
    model, report = built(file_with(tmp_path / "a.pth", meta))
    assert model.metadata["palette"] == palette.tolist() and not report.notes
    scalars = [list(row) for row in palette]
    model, _ = built(file_with(tmp_path / "b.pth", {"CLASSES": ("a", "b", "c"), "PALETTE": scalars}))
    assert model.metadata["palette"] == palette.tolist()
    names = np.array(["a", "b", "c"])
    for classes in (names, list(names), tuple(names)):
        meta = {"CLASSES": classes, "PALETTE": torch.from_numpy(palette), "time": np.datetime64("2026-01-01")}
        model, report = built(file_with(tmp_path / "c.pth", meta))
        assert (
            model.metadata == {"classes": ["a", "b", "c"], "palette": palette.tolist()} and not report.notes
        )
    model, report = built(file_with(tmp_path / "d.pth", {"CLASSES": 3, "PALETTE": 5}))
    assert not model.metadata and len(report.notes) == 2
    objects = {"CLASSES": np.array(["a", "b", "c"], object), "PALETTE": palette / 255}
    model, report = built(file_with(tmp_path / "e.pth", objects))
    assert not model.metadata, "colours of 0..1 would all be black"
    assert [note.split(": ")[1] for note in report.notes] == [
        "they are an array of numpy's dtype O8",
        "it is not a list of colours of whole numbers",
    ]


def test_the_default_steps_are_the_models() -> None:
    from segnext.models.config import SegNeXtConfig

    assert SegNeXtConfig.eval_steps == config_text.DEFAULT_STEPS
