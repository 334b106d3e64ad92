"""Errors that a user can fix; the command line shows their message without a traceback."""


class MoLEFlowError(ValueError):
    """Base class: the message says what is wrong, where, and what to do."""


class ConfigError(MoLEFlowError):
    """An argument has an invalid value."""


class DataError(MoLEFlowError):
    """The data cannot be used as it is."""


class CheckpointError(MoLEFlowError):
    """A checkpoint cannot be used here."""


class OutputError(MoLEFlowError):
    """A file cannot be written."""


class TrainingError(MoLEFlowError):
    """Training failed and was stopped."""


class ExportError(MoLEFlowError):
    """A model cannot be exported, or the exported file gives other results than the model."""


class StoppedError(MoLEFlowError):
    """A command ended before its work was done; the command line adds how to resume.

    Args:
        status: How far the command came.
        signum: The signal that ended it; None if a limit ended it.
        changes: Options to resume with, and their values.
    """

    def __init__(
        self, status: str, signum: int | None = None, changes: dict[str, str] | None = None
    ) -> None:
        super().__init__(status)
        self.status, self.signum, self.changes = status, signum, changes or {}

    @property
    def exit_code(self) -> int:
        """Exit code of the process: after a signal 128 + its number, as in shells."""
        return 1 if self.signum is None else 128 + self.signum


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error reports too little memory, whichever library raised it.

    Example:
        >>> is_out_of_memory(RuntimeError("can't allocate memory")), is_out_of_memory(KeyError())
        (True, False)
    """
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, (RuntimeError, ImportError, OSError))
        and any(words in text for words in ("allocate", "out of memory", "failed to map segment"))
    )


def raise_if_out_of_memory(error: BaseException) -> None:
    """Raise an error again that reports too little memory: the file being read is not to blame."""
    if is_out_of_memory(error):
        raise error
