"""Messages of Lightning."""

import logging

import pytest

from moleflow_pl._internal.lightning_messages import (
    LOGGERS,
    MESSAGES,
    ignore_messages,
    without_messages,
)

TIP = "💡 Tip: For seamless cloud logging"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a handler of Lightning shows."""
    shown: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            shown.append(record.getMessage())

    monkeypatch.setattr(logging.getLogger(LOGGERS[0]), "handlers", [Handler()])
    return shown


def test_messages_are_suppressed_within_the_block_alone(seen: list[str]) -> None:
    logger = logging.getLogger(LOGGERS[0])
    with without_messages():
        logger.warning(TIP)
        logger.warning("a")
    logger.warning(TIP)
    assert seen == ["a", TIP]


def test_messages_are_suppressed_until_the_end(seen: list[str]) -> None:
    ignore_messages()
    for text in (TIP, "Seed set to 0", "a"):
        logging.getLogger(LOGGERS[0]).warning(text)
    assert seen == ["a"]


@pytest.mark.parametrize("text", ["[rank: 0] Received SIGTERM: 15", "Restoring states from x"])
def test_what_the_command_says_itself_is_among_them(text: str) -> None:
    assert MESSAGES.match(text)
