import pytest

from moleflow_pl.errors import CheckpointError, ConfigError, DataError, ExportError, MoLEFlowError


@pytest.mark.parametrize("kind", [CheckpointError, ConfigError, DataError, ExportError])
def test_errors_a_user_can_mend_are_value_errors_of_one_family(kind: type[Exception]) -> None:
    assert issubclass(kind, MoLEFlowError)
    assert issubclass(kind, ValueError)
