"""What a service is told."""

from pathlib import Path

import pytest

from moleflow_pl.errors import ConfigError
from moleflow_pl.service.settings import TOKEN, Settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 70000}, "--port must be an integer from 0 to 65535, got 70000"),
        ({"workers": 0}, "--workers"),
        ({"queue": 0}, "--queue"),
        ({"deadline": 0.0}, "--deadline"),
        ({"rate": -1.0}, "--rate"),
        ({"keep_days": 0.0}, "--keep-days"),
        ({"keep_gb": -1.0}, "--keep-gb"),
        ({"sources": ["foler:/in"]}, "did you mean 'folder'"),
        ({"sources": ["folder"]}, "write folder:ADDRESS"),
        ({"sinks": ["kafka:x"]}, "--sink has to be one of 'csv', 'mqtt', 'webhook'"),
    ],
)
def test_a_value_that_cannot_be_is_named(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings("runs/demo", **options)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "line.example"])
def test_a_host_beyond_this_machine_needs_a_token(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    with pytest.raises(ConfigError, match=f"{TOKEN}.*openssl rand"):
        Settings("runs/demo", host=host)
    monkeypatch.setenv(TOKEN, "short")
    with pytest.raises(ConfigError, match="too short"):
        Settings("runs/demo", host=host)
    monkeypatch.setenv(TOKEN, "0123456789abcdef")
    assert Settings("runs/demo", host=host).token == "0123456789abcdef"


def test_settings_travel_to_other_processes_without_the_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(TOKEN, "0123456789abcdef")
    settings = Settings("runs/demo", sinks=["csv:a.csv"], interval=2.0)
    assert Settings.from_json(settings.to_json()) == settings
    assert "0123456789abcdef" not in settings.to_json()


def test_the_record_lies_in_the_run_folder_unless_told_otherwise(tmp_path: Path) -> None:
    settings = Settings(str(tmp_path / "last.ckpt"))
    assert settings.database_url == str(tmp_path / "service" / "line.sqlite")
    settings.open_database().close()
    assert (tmp_path / "service" / "line.sqlite").is_file()
    assert Settings("x", database="postgresql://db").database_url == "postgresql://db"


def test_images_of_another_record_in_a_run_lie_in_another_folder(tmp_path: Path) -> None:
    folders = []
    for name in ("a", "b", "a"):
        settings = Settings(str(tmp_path), database=str(tmp_path / name))
        folders.append(settings.open_store(settings.open_database()).folder)
    assert folders[0] == folders[2] != folders[1]
    assert {folder.parent for folder in folders} == {tmp_path / "service" / "images"}
