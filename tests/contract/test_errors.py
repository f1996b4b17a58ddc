"""Contract of every op: bad input gives one line that names the op, what was expected and what came."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

from segnext_kernels import backend, explain, use_backend
from segnext_kernels.spec import BadInput, Spec, all_specs
from tests.contract.cases import SPECS, over_specs, tensors


@pytest.mark.parametrize(
    ("spec", "bad"),
    [pytest.param(spec, bad, id=f"{spec.name}-{bad.name}") for spec in SPECS for bad in spec.bad_inputs],
)
def test_bad_input(spec: Spec, bad: BadInput) -> None:
    args = dict(zip(spec.argument_names, spec.samples[0].make(), strict=True))
    assert bad.replaced.keys() <= args.keys()
    with pytest.raises(bad.error, match=rf"^{spec.name}: {bad.message}") as caught:
        spec.call(*(args | bad.replaced).values())
    message = str(caught.value)
    assert caught.type is bad.error
    assert "\n" not in message
    assert " must " in message and ", got " in message
    assert re.search(r"torch\.(b?float|u?int)", message) is None, "dtypes are named without torch's name"


@over_specs()
def test_each_tensor_elsewhere_is_one_clear_error(spec: Spec) -> None:
    """Every tensor but the first, in lists too, is refused on another device, in one line that names it."""
    args = dict(zip(spec.argument_names, spec.samples[0].make(), strict=True))
    for name, value in list(args.items())[1:]:
        if not tensors(value):
            continue
        elsewhere = (
            value.to("meta") if isinstance(value, torch.Tensor) else [*value[:-1], value[-1].to("meta")]
        )
        with pytest.raises(ValueError, match=rf"^{spec.name}: {name}.* must be on cpu.*, got meta") as caught:
            spec.call(*(args | {name: elsewhere}).values())
        assert "\n" not in str(caught.value)


@over_specs()
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch._mkldnn], ids=["sparse", "mkldnn"])
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_each_tensor_of_another_layout_is_refused(spec: Spec, layout: torch.layout) -> None:
    def other(tensor: torch.Tensor) -> torch.Tensor:
        is_sparse = layout == torch.sparse_coo or not tensor.is_floating_point()  # mkldnn has no integers
        return tensor.to_sparse() if is_sparse else tensor.to_mkldnn()

    args = dict(zip(spec.argument_names, spec.samples[0].make(), strict=True))
    for name, value in args.items():
        if not tensors(value):
            continue
        given = other(value) if isinstance(value, torch.Tensor) else [*value[:-1], other(value[-1])]
        with pytest.raises(
            TypeError, match=rf"^{spec.name}: {name}.* must be a dense tensor, got layout \S+; "
        ):
            spec.call(*(args | {name: given}).values())


NUMBERS_FOR_FLOATS = (2**63, 0.5)


@over_specs()
@pytest.mark.parametrize("given", ["abc", [1], object, math.nan, -1.5, *NUMBERS_FOR_FLOATS], ids=repr)
def test_each_number_of_another_kind_is_refused_in_one_line(spec: Spec, given: Any) -> None:
    """Flags and choices too: "False" is no False."""
    args = dict(zip(spec.argument_names, spec.samples[0].make(), strict=True))
    for name, value in args.items():
        if not isinstance(value, int | float | str) or name in spec.internal:
            continue
        if type(value) is float and given in NUMBERS_FOR_FLOATS:
            continue
        with pytest.raises((TypeError, ValueError), match=rf"^{spec.name}: {name} must be [^\n]*$"):
            spec.call(*(args | {name: given}).values())


@over_specs()
def test_lists_of_tensors_may_be_of_any_kind_but_none(spec: Spec) -> None:
    args = dict(zip(spec.argument_names, spec.samples[0].make(), strict=True))
    for name, value in args.items():
        if isinstance(value, list) and tensors(value):
            spec.call(*(args | {name: iter(value)}).values())
            with pytest.raises(TypeError, match=f"^{spec.name}: {name} must be a list of tensors, got None"):
                spec.call(*(args | {name: None}).values())


@over_specs()
def test_bad_inputs_are_of_both_kinds(spec: Spec) -> None:
    """There are bad shapes or choices, and bad types or dtypes."""
    assert {bad.error for bad in spec.bad_inputs} >= {ValueError, TypeError}


@over_specs()
def test_named_backend_that_cannot_run_says_why_for_all(spec: Spec) -> None:
    """Every backend is listed with its reason; there is no silent fallback."""
    args = spec.samples[0].make()
    refusing = [name for name in backend.BACKENDS if name not in backend.KERNELS[spec.name]]
    refusing += [name for name, kernel in backend.KERNELS[spec.name].items() if kernel.reason_against(*args)]
    for name in refusing:
        with (
            use_backend(name),
            pytest.raises(NotImplementedError, match=f"^{spec.name}: no backend takes ") as caught,
        ):
            spec.call(*args)
        lines = str(caught.value).splitlines()
        assert [line.split(":")[0].strip() for line in lines[1:]] == list(backend.BACKENDS)
        assert str(tuple(args[0].shape)) in lines[0] and "float32 cpu" in lines[0]
        assert f'available; not used because use_backend("{name}") is in force' in lines[-1]
    assert f"{spec.name}: {backend.choose(spec.name, *args)} takes" in explain(spec.name, *args)


@over_specs()
def test_arguments_by_keyword(spec: Spec) -> None:
    """The public function's parameter names are the schema's."""
    args: dict[str, Any] = dict(zip(spec.argument_names, spec.samples[0].make(), strict=True))
    expected = spec.call(*args.values())
    for name in spec.internal:
        del args[name]
    assert torch.equal(spec.public(**args), expected)


def test_every_op_has_a_specification() -> None:
    defined = {
        name for name in backend.KERNELS if not name.endswith("_backward") and not name.startswith("toy_")
    }
    assert set(all_specs()) == defined
