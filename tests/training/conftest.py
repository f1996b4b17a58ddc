"""The data set that most trainings of these tests see."""

from __future__ import annotations

import pytest

from segnext.data.config import DataConfig, load_data_config
from tests.data.synthetic import write_data_set


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return load_data_config(write_data_set(tmp_path_factory.mktemp("houses")))
