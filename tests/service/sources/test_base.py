"""The form of a source."""

from moleflow_pl.service.sources.base import SOURCES


def test_every_kind_has_its_name() -> None:
    assert {name: kind.name for name, kind in SOURCES.items()} == {
        "camera": "camera", "folder": "folder",
    }  # fmt: skip
