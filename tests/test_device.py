"""Tests `choose_device`: names of devices, and devices that this machine lacks."""

import pytest
import torch

from segnext.device import choose_device


def test_auto_is_a_gpu_if_there_is_one():
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_a_name_and_a_device():
    assert choose_device("cpu") == choose_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "meta"])
def test_not_here(name):
    with pytest.raises(
        ValueError, match=f"device must be 'auto', 'cpu' .* got '{name}'; see `segnext doctor`"
    ):
        choose_device(name)
