import os
import sys
from pathlib import Path

import pytest

from moleflow_pl.cli.config_values import ConfigValues, RefusedError, home_of
from moleflow_pl.errors import ConfigError
from tests.helpers.parsing import parse

SAFE = ConfigValues(safe=True)
OUTSIDE = {
    "os.system": "of the package os",
    "subprocess.Popen": "of the package subprocess",
    "timm.data.create_transform": "of the package timm",
    "tests.helpers.models.build": "of the package tests",
    "__main__.Anything": "of the package __main__",
    "torch.os.system": "from os",
    "torch.serialization.os.system": "from os",
    "lightning.pytorch.cli.sys.exit": "from sys",
    "torch.serialization.pickle.loads": "from pickle",
    "moleflow_pl.cli.main.import_module": "from importlib",
    "moleflow_pl.features.backbone.timm.create_model": "from timm",
    "list[os.system]": "of the package os",
    "torch.Tensor | subprocess.Popen": "of the package subprocess",
}
INSIDE = [
    "torch.optim.SGD", "torch.nn.Identity", "torchvision.transforms.v2.RandomHorizontalFlip",
    "lightning.pytorch.callbacks.LearningRateMonitor", "moleflow_pl.module.adamw",
    "pytorch_lightning.loggers.CSVLogger", "torch.optim.lr_scheduler.StepLR",
]  # fmt: skip
NO_CLASS = [
    "cell.png", "runs/demo", "runs/demo/last.ckpt", "no_package_has.this_name", "tail", "0.5",
    "torch.pth", "torch.no.such", "1.0", "a b.c d", "", "../os.system", "~/x.y",
]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_class_or_function_of_another_package_is_refused_in_one_sentence(path: str) -> None:
    with pytest.raises(ConfigError) as error, SAFE.checked(["fit", f"--trainer.callbacks={path}"]):
        pass
    named = path.split("[")[-1].split("| ")[-1].rstrip("]")
    assert str(error.value).startswith(f"--safe-config: {named} is {OUTSIDE[path]}, and only ")
    with pytest.raises(RefusedError):
        SAFE.load(f"a: [{{class_path: '{path}', init_args: {{}}}}]")


@pytest.mark.parametrize("value", [*INSIDE, *NO_CLASS])
def test_trusted_classes_and_other_values_pass(value: str) -> None:
    with SAFE.checked(["fit", "--option", value, f"--other={value}"]):
        SAFE.load(f"a: ['{value}']")


def test_without_the_option_every_class_passes() -> None:
    with ConfigValues().checked(["fit", *OUTSIDE]):
        ConfigValues().load(f"a: {[*OUTSIDE]}")


def test_what_is_refused_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "never_imported.py").write_text("raise AssertionError")
    monkeypatch.syspath_prepend(tmp_path)
    assert home_of("never_imported.Class") == "never_imported"
    assert "never_imported" not in sys.modules


@pytest.mark.parametrize("where", ["word", "config", "config within", "short name"])
def test_the_command_refuses_it_wherever_it_is_named(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "outside.py").write_text("import pathlib\npathlib.Path('touched').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("inner.yaml").write_text("[{class_path: outside.Callback}]")
    Path("direct.yaml").write_text("trainer: {callbacks: [outside.Callback]}")
    Path("nested.yaml").write_text("trainer: {callbacks: inner.yaml}")
    args = {
        "word": "--trainer.callbacks=outside.Callback",
        "config": "--config=direct.yaml",
        "config within": "--config=nested.yaml",
        "short name": "--trainer.callbacks=Outsider",
    }[where]
    name = "outside.Callback is of the package outside"
    if where == "short name":
        from lightning.pytorch import Callback

        outsider = type("Outsider", (Callback,), {"__module__": __name__})
        monkeypatch.setitem(globals(), "Outsider", outsider)
        name = f"{__name__}.Outsider is of the package tests"
    with pytest.raises(ConfigError, match=f"^--safe-config: {name}, and only classes of torch"):
        parse("fit", "--config=demo", args, "--safe-config")
    assert not Path("touched").exists()
    assert not capsys.readouterr().err


def test_trusted_classes_are_built_with_the_option(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.LearningRateMonitor}]}\n"
        "data: {variants: [hflip, darker]}\n"
        "model: {optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}}\n"
    )
    config = parse("fit", "--safe-config", "--config=demo", f"--config={tmp_path / 'c.yaml'}")
    assert config.config.fit.model.optimizer.class_path == "torch.optim.SGD"


@pytest.mark.parametrize("args", ["--model=pipe", "--config={model: pipe}", "--config=within.yaml"])
def test_a_pipe_is_refused_at_once_wherever_it_is_named(
    args: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_hang: None
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("within.yaml").write_text("model: pipe")
    with pytest.raises(ConfigError, match="^pipe is not a file but a pipe or a device$"):
        parse("fit", "--config=demo", args)


def test_yaml_that_stands_for_too_much_ends_the_command_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("{a: &a [*a]}")
    with pytest.raises(ConfigError, match="^YAML with an anchor that contains itself"):
        parse("fit", "--config=demo", f"--config={tmp_path / 'c.yaml'}")
    with pytest.raises(ConfigError, match="^YAML nested deeper than 64"):
        parse("fit", "--config=demo", f"--data.tasks={'[' * 300}")
