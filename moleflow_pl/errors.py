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
