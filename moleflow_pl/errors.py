"""Errors a user can mend; the command line shows their message without a traceback."""


class MoLEFlowError(ValueError):
    """Something about the input is wrong; the message says what, where and what to do."""


class ConfigError(MoLEFlowError):
    """An argument has a value it cannot have."""


class DataError(MoLEFlowError):
    """The data is not as it has to be."""


class CheckpointError(MoLEFlowError):
    """A checkpoint cannot be used here."""


class OutputError(MoLEFlowError):
    """A file cannot be written."""


class TrainingError(MoLEFlowError):
    """The training went wrong and was stopped."""


class ExportError(MoLEFlowError):
    """A model cannot be exported, or the file does not say what the model says."""
