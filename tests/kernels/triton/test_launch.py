"""Tests the backend "triton": what it refuses, in helpful words, and that nothing is imported before it is needed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from segnext_kernels import choose, dwconv_gelu, explain, msca_conv, use_backend
from segnext_kernels.triton import launch


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what is found out once per process, before and after the test."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    cached = (launch.missing, launch.interpreted, launch._capability_gap)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


def tensor(device: str = "cuda", dtype: torch.dtype = torch.float32) -> Any:
    return SimpleNamespace(device=torch.device(device), dtype=dtype)


def test_not_installed(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert launch.reason_against(tensor()) == (
        "not installed; pip install 'triton>=3.6' (a CUDA build of torch brings it)"
    )


def test_too_old(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(launch.importlib, "import_module", lambda name: SimpleNamespace(__version__="3.1.0"))
    assert launch.missing() == "needs Triton 3.6 or newer, this is 3.1.0; a newer torch brings it"


def test_broken_installation(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> Any:
        raise ImportError("libtriton.so: no such file")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(launch.importlib, "import_module", fail)
    assert "does not import (ImportError: libtriton.so" in str(launch.missing())


def test_cpu_tensors(fresh: None) -> None:
    assert launch.reason_against(tensor("cpu")) == (
        "takes CUDA tensors, not cpu; TRITON_INTERPRET=1 interprets kernels on CPU tensors"
    )
    assert launch.reason_against(tensor("meta")) == "takes CUDA tensors, not meta"


def test_dtype(fresh: None) -> None:
    assert (
        launch.reason_against(tensor(dtype=torch.float64))
        == "takes float16, bfloat16 and float32, not float64"
    )


def test_interpreter_and_cuda_tensors(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert launch.reason_against(tensor()) == (
        "TRITON_INTERPRET=1 interprets kernels on CPU tensors, not cuda; unset it"
    )


def test_old_gpu(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "missing", lambda: None)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert launch.reason_against(tensor()) == (
        "needs compute capability 8.0 or newer, this device is 7.5; use another backend"
    )
    monkeypatch.setattr(torch.version, "hip", "6.4")
    launch._capability_gap.cache_clear()
    assert launch.reason_against(tensor()) is None


def test_auto_passes_the_interpreter_over(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(launch, "missing", lambda: None)
    args = torch.ones(1, 4, 3, 3), torch.ones(4, 1, 3, 3), None
    assert choose("dwconv_gelu", *args) != "triton"
    assert "triton:    available; auto passes it over: the interpreter is for tests" in explain(
        "dwconv_gelu", *args
    )
    with use_backend("triton"):
        assert choose("dwconv_gelu", *args) == "triton"


def test_named_but_not_possible(fresh: None) -> None:
    with (
        use_backend("triton"),
        pytest.raises(NotImplementedError, match="triton:    takes CUDA tensors, not cpu;"),
    ):
        dwconv_gelu(torch.ones(1, 4, 3, 3), torch.ones(4, 1, 3, 3))


def test_more_strips_than_a_program_names(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "reason_against", lambda x, dtypes: None)
    rows, columns = [torch.ones(2, 1, 1, 3)] * 4, [torch.ones(2, 1, 3, 1)] * 4
    args = torch.ones(1, 2, 4, 4), torch.ones(2, 1, 3, 3), None, rows, columns, [], []
    with (
        use_backend("triton"),
        pytest.raises(NotImplementedError, match="takes up to 3 strips, not 4"),
    ):
        msca_conv(*args)


def test_a_row_and_a_column_of_unequal_length(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "reason_against", lambda x, dtypes: None)
    rows, columns = [torch.ones(2, 1, 1, 3)], [torch.ones(2, 1, 5, 1)]
    args = torch.ones(1, 2, 4, 4), torch.ones(2, 1, 3, 3), None, rows, columns, [], []
    with (
        use_backend("triton"),
        pytest.raises(
            NotImplementedError, match="takes a row and a column of equal length, not 3 and 5 taps"
        ),
    ):
        msca_conv(*args)


def test_importing_the_library_imports_no_triton() -> None:
    """Only PyTorch's FLOP counter imports parts of Triton by itself."""
    code = (
        "import sys, torch.utils.flop_counter; before = set(sys.modules); import segnext_kernels;"
        " new = sorted(m for m in set(sys.modules) - before if m.split('.')[0] == 'triton'); assert not new, new;"
        " assert not [m for m in sys.modules if m.endswith('triton_kernels')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
