"""Every machine has its facts in words, also one without /proc or a working driver."""

from pathlib import Path

import pytest
import torch

from segnext.measure import machine


def test_every_fact_is_a_line():
    for facts in (machine.host(), machine.libraries(), machine.gpus()):
        assert facts and all(name and value and "\n" not in value for name, value in facts)
    assert {"system", "CPU", "instructions"} <= set(dict(machine.host()))
    assert torch.__version__ in dict(machine.libraries())["torch"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("AMD EPYC", "AMD EPYC (family 26, model 2)"),
        ("AMD EPYC 9655 96-Core Processor", "AMD EPYC 9655 96-Core Processor"),
    ],
)
def test_a_cpu_whose_model_is_hidden_has_its_numbers(monkeypatch, name, shown):
    text = f"model name : {name}\ncpu family : 26\nmodel : 2\n\nmodel name : another\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    monkeypatch.setattr(machine, "_memory", str)
    assert dict(machine.host())["CPU"].startswith(f"{shown}, ")


def test_machines_without_proc(monkeypatch):
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    facts = dict(machine.host())
    assert facts["instructions"] == "unknown" and "memory" not in facts


def test_a_driver_that_does_not_answer(monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise OSError("no such device")

    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(machine.subprocess, "run", broken)
    assert machine.nvidia_driver() == ""
