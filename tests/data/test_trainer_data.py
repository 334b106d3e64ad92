from types import SimpleNamespace
from typing import Any

import pytest

from moleflow_pl.data.trainer_data import data_of
from moleflow_pl.errors import ConfigError


def test_trainer_without_a_continual_data_module_is_refused() -> None:
    trainer: Any = SimpleNamespace(datamodule=None)
    with pytest.raises(ConfigError, match="ContinualDataModule, got NoneType"):
        data_of(trainer)
