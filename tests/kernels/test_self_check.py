"""Tests the self-check: right kernels agree, broken ones are left out with the reason, and `auto` is told."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from segnext_kernels import backend, native, self_check
from segnext_kernels.kernel import Kernel
from segnext_kernels.self_check import agreement, policy, process, verdicts
from segnext_kernels.self_check.verdicts import Subject, Verdict
from tests.cuda_emulator import build, plugin
from tests.kernels.cuda.test_emulator import BREAKS, needs_sanitizer
from tests.kernels.triton.interpreter import needs_interpreter

CHILD = (sys.executable, "-m", "tests.kernels.self_check_child")
NORM = Subject("group_norm_act", "cuda", torch.float32)
GATE = Subject("gated_pointwise", "cuda", torch.bfloat16)


def check(
    subjects: Sequence[Subject], environment: dict[str, str], seconds: float = 120
) -> dict[Subject, Verdict]:
    path = os.pathsep.join(filter(None, [str(build.ROOT), os.environ.get("PYTHONPATH")]))
    return dict(
        process.verdicts_of(
            "cpu", subjects, CHILD, {**os.environ, **environment, "PYTHONPATH": path}, seconds
        )
    )


@pytest.mark.proof
@needs_sanitizer
def test_right_kernels_agree() -> None:
    dtypes = (torch.float32, torch.bfloat16)
    subjects = [
        Subject(op, "cuda", dtype) for op in ("group_norm_act", "group_norm_act_backward") for dtype in dtypes
    ]
    found = check(subjects, plugin.sanitized_environment(build.library()))
    assert found == dict.fromkeys(subjects, Verdict(True))


@pytest.mark.proof
@needs_sanitizer
@pytest.mark.parametrize(
    ("name", "reason"),
    [("wrong-halo-mask", "AddressSanitizer: heap-buffer-overflow"), ("unwritten-tail", "is no class of")],
)
def test_broken_kernels_do_not_agree(name: str, reason: str) -> None:
    subject = Subject("upsample_argmax", "cuda", torch.float32)
    library = build.broken_library("upsample_argmax", *BREAKS[name][:3])
    found = check([subject], plugin.sanitized_environment(library))[subject]
    print(found)
    assert not found.agrees and reason in found.reason


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("hang", "did not come to an end"),
        ("fault", "ended its process (SIGSEGV)"),
        ("fail", "RuntimeError: group_norm_act: CUDA launch failed: too many resources"),
    ],
)
def test_a_kernel_that_ends_its_process_costs_only_itself(broken: str, reason: str) -> None:
    subjects = [NORM, Subject("gated_pointwise", "reference", torch.float32)]
    found = check(subjects, {"BREAK": broken}, seconds=3)
    print(found)
    assert reason in found[NORM].reason and not found[NORM].agrees
    assert found[subjects[1]].agrees


@needs_interpreter
def test_triton_kernels_in_the_interpreter() -> None:
    subject = Subject("dwconv_gelu", "triton", torch.float32)
    environment = {"TRITON_INTERPRET": "1"}
    assert check([subject], environment) == {subject: Verdict(True)}
    broken = check([subject], {**environment, "BREAK_TRITON": "last-tap"})[subject]
    print(broken)
    assert not broken.agrees and "result 0 is off by" in broken.reason


def test_nothing_is_said_of_kernels_where_the_check_does_not_run() -> None:
    missing = Subject("no_such_op", "cuda", torch.float32)
    with pytest.raises(process.NotChecked, match="no process starts"):
        list(process.verdicts_of("cpu", [missing], ["/no/such/python"]))
    command = [sys.executable, "-c", "raise SystemExit('error: the device is busy')"]
    with pytest.raises(process.NotChecked, match=r"exit status 1: error: the device is busy"):
        list(process.verdicts_of("cpu", [missing], command))


class Machine:
    """Stands in for a GPU: `found` is what its kernels' checks will say, `runs` what was checked."""

    def __init__(self) -> None:
        self.found: dict[Subject, Verdict] = {}
        self.runs: list[Subject] = []
        self.error: process.NotChecked | None = None
        with FakeTensorMode():
            self.x = torch.empty(2, 4, 3, 3, device="cuda")

    def verdicts_of(self, device: str, subjects: Sequence[Subject]) -> Iterator[tuple[Subject, Verdict]]:
        assert device == "cuda:0"
        if self.error is not None:
            raise self.error
        for subject in subjects:
            self.runs.append(subject)
            yield subject, self.found.get(subject, Verdict(True))

    def reason(self, subject: Subject) -> str | None:
        return self_check.distrusted(subject.op, subject.backend, (self.x.to(subject.dtype),))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(process, "verdicts_of", machine.verdicts_of)
    monkeypatch.setattr(verdicts, "path_of", lambda device: tmp_path / "cache" / f"{device}.json")
    monkeypatch.setattr(policy, "_known", {})
    monkeypatch.setattr(policy, "_warned", set())
    monkeypatch.delenv(policy.VARIABLE, raising=False)
    return machine


def new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "_known", {})


def test_cuda_kernels_of_a_dtype_and_direction_are_checked_together_and_once(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    norm = dataclasses.replace(NORM, dtype=GATE.dtype)
    machine.found[norm] = Verdict(False, "c20-h31w17 nhwc: result 0 is off by 3.1e+00")
    assert machine.reason(GATE) is None
    together = [s for s in policy.subjects(["cuda"]) if s.dtype == GATE.dtype and not s.is_backward]
    assert machine.runs[0] == GATE and sorted(map(str, machine.runs)) == sorted(map(str, together))
    assert f"comparing {GATE} and {len(together) - 1} more kernels" in capsys.readouterr().err
    reason = machine.reason(norm)
    assert reason == "failed the self-check on this machine: c20-h31w17 nhwc: result 0 is off by 3.1e+00"
    new_process(monkeypatch)
    assert machine.reason(norm) == reason and machine.reason(GATE) is None
    assert machine.runs == [GATE, *(s for s in together if s != GATE)] and capsys.readouterr().err == ""
    backward = dataclasses.replace(GATE, op=f"{GATE.op}_backward")
    assert machine.reason(NORM) is None and machine.reason(backward) is None
    assert {s.dtype for s in machine.runs if not s.is_backward} == {NORM.dtype, GATE.dtype}
    assert {s.dtype for s in machine.runs if s.is_backward} == {GATE.dtype}
    assert len(machine.runs) == len(set(machine.runs))


def test_what_a_killed_check_found_is_not_checked_again(machine: Machine) -> None:
    verdicts.path_of(0).parent.mkdir()
    verdicts.add(verdicts.path_of(0), NORM, Verdict(True))
    other = dataclasses.replace(NORM, op="gated_pointwise")
    assert machine.reason(other) is None
    assert machine.runs[0] == other and NORM not in machine.runs


def test_triton_kernels_beside_cuda_kernels_are_checked_one_by_one(machine: Machine) -> None:
    subject = Subject("dwconv_gelu", "triton", torch.bfloat16)
    assert machine.reason(subject) is None
    assert machine.runs == [subject]


def test_triton_kernels_without_cuda_kernels_are_checked_together(machine: Machine) -> None:
    """A deployed model wants all of them, and a process for each would cost its first image half a minute."""
    subject = Subject("msca_block", "triton", torch.bfloat16)
    assert machine.reason(subject) is None
    assert machine.runs[0] == subject and {s.op for s in machine.runs} == {
        "channel_norm", "conv2d_act", "msca_block", "resize_sum"
    }  # fmt: skip
    assert {(s.backend, s.dtype) for s in machine.runs} == {("triton", torch.bfloat16)}
    machine.runs.clear()
    of_another_network = Subject("depthwise_sum", "triton", torch.bfloat16)
    assert machine.reason(of_another_network) is None and machine.runs == [of_another_network]


def test_what_can_not_be_checked_is_left_out_with_one_warning(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.error = process.NotChecked("ended its process (exit status 1: busy)")
    with pytest.warns(RuntimeWarning, match=r"GPU kernels are not used: .*busy.*SEGNEXT_SELF_CHECK=0"):
        assert "could not be checked" in str(machine.reason(NORM))
    assert "could not be checked" in str(machine.reason(GATE))
    machine.error = None
    new_process(monkeypatch)
    assert machine.reason(NORM) is None  # nothing was remembered


def test_the_variable_trusts_all(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(policy.VARIABLE, "0")
    assert machine.reason(NORM) is None and machine.runs == []
    monkeypatch.setenv(policy.VARIABLE, "no")
    with pytest.raises(ValueError, match="SEGNEXT_SELF_CHECK must be 0 or 1, got 'no'"):
        machine.reason(GATE)


def test_cpu_tensors_and_kernels_never_wait(machine: Machine) -> None:
    assert self_check.distrusted("dwconv_gelu", "cuda", (torch.ones(1),)) is None
    assert self_check.distrusted("dwconv_gelu", "cpu", (machine.x,)) is None
    assert machine.runs == []


def test_a_damaged_file_means_another_check(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("{", "[]", '{"x": 1}', '{"group_norm_act cuda float32": {"agrees": true, "new": 1}}'):
        path = verdicts.path_of(0)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        new_process(monkeypatch)
        machine.runs.clear()
        assert machine.reason(NORM) is None
        assert NORM in machine.runs


def test_two_at_once_check_once(machine: Machine) -> None:
    threads = [threading.Thread(target=machine.reason, args=(NORM,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(machine.runs) == len(set(machine.runs))


def test_auto_leaves_out_what_disagrees_and_says_why(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def taking(name: str) -> Kernel:
        return Kernel(lambda *args: name)

    names = ("cuda", "triton", "reference")
    monkeypatch.setitem(backend.KERNELS, "group_norm_act", {name: taking(name) for name in names})
    assert backend.choose("group_norm_act", machine.x) == "cuda"
    policy._known.clear()
    verdicts.path_of(0).unlink()
    machine.found[NORM] = Verdict(False, "is off")
    assert backend.choose("group_norm_act", machine.x) == "triton"
    text = backend.explain("group_norm_act", machine.x)
    assert (
        "cuda:      available; auto leaves it out, it failed the self-check on this machine: is off" in text
    )
    with backend.use_backend("cuda"):  # a named backend is taken at its word
        assert backend.choose("group_norm_act", machine.x) == "cuda"


def test_every_gpu_kernel_takes_an_input_that_it_is_checked_on() -> None:
    from segnext_kernels.self_check.agreement import _inputs

    is_built = native.missing("cuda") is None

    def takes(subject: Subject, args: tuple[Any, ...]) -> bool:
        if subject.backend == "triton" or not is_built:
            return True
        kernel = dataclasses.replace(backend.KERNELS[subject.op][subject.backend], machine=None)
        with FakeTensorMode() as mode:
            return kernel.reason_against(*tree_map_only(torch.Tensor, mode.from_tensor, args)) is None

    for subject in policy.subjects():
        assert subject.dtype in (backend.KERNELS[subject.op][subject.backend].dtypes or ()), subject
        assert any(takes(subject, args) for _, args in _inputs(subject, torch.device("cpu"))), subject


def test_all_verdicts_of_a_device(machine: Machine) -> None:
    seen: list[str] = []
    assert machine.reason(GATE) is None
    checked = len(machine.runs)
    found = self_check.check_device(
        0, advance=lambda total, subject, verdict: seen.append(f"{total} {subject}")
    )
    assert set(found) == set(policy.subjects())
    assert checked and len(seen) == len(policy.subjects()) - checked
    machine.runs.clear()
    self_check.check_device(0, again=True)
    assert machine.runs == policy.subjects()


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ([math.nan, math.inf, 1.0], None),
        ([0.0, math.inf, 1.0], "finite where the definition is not"),
        ([math.nan, math.nan, 1.0], "NaN where it is infinite"),
        ([math.nan, math.inf, math.nan], "is off by nan"),
        ([math.nan, math.inf, 1.1], "is off by"),
    ],
)
def test_what_is_not_finite_must_be_so_where_the_definition_is(
    result: list[float], expected: str | None
) -> None:
    """The mean loss of labels that are all ignored is NaN, which an H200's check took for a disagreement."""

    def definition(x: torch.Tensor) -> torch.Tensor:
        return torch.stack((x.sum() * math.nan, x.sum() * math.inf, x.sum()))

    kernel = Kernel(lambda x: torch.tensor(result))
    found = agreement._disagreement(kernel, definition, (torch.ones(1),))
    assert found is None if expected is None else expected in str(found)
