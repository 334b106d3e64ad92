"""The form of a sink."""

from moleflow_pl.service.sinks.base import SINKS


def test_every_kind_has_its_name_and_shows_no_password() -> None:
    assert {name: kind.name for name, kind in SINKS.items()} == {
        "csv": "csv", "mqtt": "mqtt", "webhook": "webhook",
    }  # fmt: skip
    sink = SINKS["webhook"]("https://me:secret@host/x")
    assert sink.health.name == "webhook:https://host/x"
