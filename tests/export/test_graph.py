"""The exported graph is the network: for every decoder, context, attention and option."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segnext.data.preprocessing import Preprocessing
from segnext.export.description import Description, Interface
from segnext.export.graph import ExportGraph
from segnext.export.layers import OperatorLayers
from segnext.models.contexts.table import CONTEXTS
from tests.export.conftest import small_model

VARIANTS: dict[str, dict[str, Any]] = {
    "published": {},
    "lka": dict(attention="lka"),
    "no-gate": dict(gate=False),
    "no-mix": dict(mix=False),
    "other-strips": dict(strips=(3, 5), root=3),
    "mlp": dict(decoder="mlp"),
    "cnn": dict(decoder="cnn"),
    "four-stages": dict(in_indices=(0, 1, 2, 3)),
    "corners": dict(align_corners=True, decoder_align_corners=True),
    "threshold": dict(num_classes=2, threshold=0.3),
    "four-bands": dict(in_channels=4),
    **{f"context-{name}": dict(context=name) for name in (None, *CONTEXTS)},
}


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_logits_are_those_of_the_model(fields: dict[str, Any]) -> None:
    model = small_model(**fields)
    images = torch.randn(2, model.config.in_channels, 70, 97)
    graph = ExportGraph(model, Interface(height=70, width=97, batch=2))
    with torch.inference_mode():
        wanted, got = model.forward_logits(images), graph(images)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max().item())


@pytest.mark.parametrize("fields", [{}, dict(num_classes=2, threshold=0.3)], ids=["classes", "threshold"])
def test_mask_of_pixels_is_that_of_predict(fields: dict[str, Any]) -> None:
    model = small_model(**fields)
    graph = ExportGraph(model, Interface(height=70, width=97, batch=2, input="uint8", output="mask"))
    pixels = torch.randint(0, 256, (2, 70, 97, 3), dtype=torch.uint8)
    wanted = model.predict(Preprocessing.of(model.metadata)(pixels.permute(0, 3, 1, 2)))
    got = graph(pixels)
    assert got.dtype == wanted.dtype and got.shape == wanted.shape
    assert (got == wanted).double().mean() > 0.999


def test_recorded_program_holds_no_operator_of_ours() -> None:
    model = small_model(context="nl", attention="lka")
    program = ExportGraph(model, Interface(height=64, width=96)).program()
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert operators and all(name.startswith(("aten.", "<built-in function")) for name in operators), (
        operators
    )
    assert not any(word in name for name in operators for word in ("rand", "dropout", "bernoulli"))
    assert not any("stack_trace" in node.meta for node in program.graph.nodes)


def test_half_precision_is_of_convolutions_alone() -> None:
    model = small_model()
    interface, images = Interface(height=64, width=96), torch.randn(1, 3, 64, 96)
    graph = ExportGraph(model, interface, torch.float16)
    dtypes = {
        str(node.target): node.meta["val"].dtype
        for node in graph.program().graph.nodes
        if node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor)
    }
    assert dtypes["aten.gelu.default"] == torch.float16
    assert dtypes["aten.div.Tensor"] == dtypes["aten.softmax.int"] == torch.float32
    with torch.inference_mode():
        wanted, got = model.forward_logits(images), graph(images)
    assert got.dtype == torch.float32 and 0 < (got - wanted).abs().max() < 2e-2 * wanted.abs().max()


def test_what_deploy_refuses_is_refused() -> None:
    with pytest.raises(ValueError, match="^export: model must have random_eval_bases=False"):
        ExportGraph(small_model(random_eval_bases=True), Interface())
    with pytest.raises(ValueError, match="^export: mean and std must have 5 numbers to be inside"):
        ExportGraph(small_model(in_channels=5), Interface(input="uint8"))


def test_layers_do_not_change_the_weights() -> None:
    weight = torch.randn(4, 4, 1, 1)
    assert OperatorLayers().placed(weight) is weight


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("input", "int8", "input must be float32 or uint8, got 'int8'"),
        ("output", "labels", "output must be logits or mask, got 'labels'"),
        ("height", 0, "height must be a whole number from 1, got 0"),
        ("width", 1.5, "width must be a whole number from 1, got 1.5"),
        ("batch", True, "batch must be a whole number from 1, got True"),
    ],
)
def test_interface_refuses(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^export: {message}$"):
        Interface(**{field: value})


def test_description_is_read_as_it_was_written() -> None:
    model = small_model()
    description = Description(
        config=model.config,
        metadata=model.metadata,
        interface=Interface(height=7, output="mask"),
        target="onnx",
        dtype="float16",
        notes={"opset": 19},
    )
    read = Description.from_text(description.as_text(), "file")
    assert (
        read.as_text() == description.as_text() and read.config == model.config and read.interface.height == 7
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "file must be one that `segnext export` wrote, got one of other origin"),
        ("{", "its description must be one of `segnext export`, got JSONDecodeError"),
        ("[1]", "its description must be one of `segnext export`, got AttributeError"),
        ('{"format": 2}', "got ValueError: format 2; update segnext if a newer one wrote it"),
        ('{"format": 1}', "got KeyError: 'config'"),
    ],
)
def test_description_of_other_origin_is_one_line(text: str | None, message: str) -> None:
    with pytest.raises(ValueError, match="^m.onnx: ") as caught:
        Description.from_text(text, "m.onnx")
    assert message in str(caught.value) and "\n" not in str(caught.value)
