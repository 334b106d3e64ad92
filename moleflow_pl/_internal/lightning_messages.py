"""Messages of Lightning that do not concern a user of this project."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = ("lightning.pytorch", "lightning.fabric")
WARNINGS = (
    r"Found \d+ module\(s\) in eval mode",  # intended for the frozen backbone
    r"Checkpoint directory .* exists and is not empty",  # a run resumes in its folder
    r"It is recommended to use .*sync_dist=True",  # every rank already logs the mean over all
    r".*LeafSpec.* is deprecated",  # a matter between Lightning and torch
)
# the command reports this itself in one line, or it does not help to inspect images
MESSAGES = re.compile(
    r"\s*Detected KeyboardInterrupt|(\[rank: \d+\] )?Received SIGTERM|.*Tip: |Seed set to|"
    r"TPU available|`Trainer\.\w+` stopped|Restor(ing|ed) |Loaded model weights"
)


def ignore_warnings() -> None:
    """Ignore warnings about what this project does on purpose."""
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def ignore_messages() -> None:
    """Suppress messages about signals and about other products, until the process ends."""
    for name in LOGGERS:
        for handler in logging.getLogger(name).handlers:
            handler.filters = [concerns_user]


def concerns_user(record: logging.LogRecord) -> bool:
    """Whether a message is not one of `MESSAGES`."""
    return not MESSAGES.match(record.getMessage())


@contextmanager
def without_messages() -> Iterator[None]:
    """Suppress the same messages within the block."""
    handlers = [handler for name in LOGGERS for handler in logging.getLogger(name).handlers]
    for handler in handlers:
        handler.addFilter(concerns_user)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(concerns_user)
