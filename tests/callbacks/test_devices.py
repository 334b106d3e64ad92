import pytest
from lightning.pytorch import Trainer

from moleflow_pl.callbacks.devices import check_devices, check_precision
from moleflow_pl.errors import ConfigError


def trainer(**options: object) -> Trainer:
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **options)


def test_ddp_by_script_is_taken() -> None:
    check_devices(trainer(devices=2, strategy="ddp", use_distributed_sampler=False))
    check_devices(trainer(devices=1))


def test_other_ways_to_use_several_devices_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 devices need trainer.strategy ddp"):
        check_devices(trainer(devices=2, strategy="ddp_spawn", use_distributed_sampler=False))
    with pytest.raises(ConfigError, match="use_distributed_sampler to false"):
        check_devices(trainer(devices=2, strategy="ddp"))


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_weights_in_half_precision_are_refused(precision: str) -> None:
    with pytest.raises(ConfigError, match="or bf16-mixed"):
        check_precision(trainer(devices=1, precision=precision))


def test_unsupported_half_precision_is_replaced_by_bfloat16_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="AMP with fp16 is not supported on CPU"):
        made = trainer(devices=1, precision="16-mixed")
    assert made.precision == "bf16-mixed"


def test_precision_the_processor_lacks_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("moleflow_pl.callbacks.devices.has_bfloat16_kernels", lambda: False)
    check_precision(trainer(devices=1, precision="bf16-mixed"))
    assert "no bfloat16" in caplog.text
    caplog.clear()
    check_precision(trainer(devices=1))
    assert "bfloat16" not in caplog.text
