"""The command `moleflow`: finds the verb's module, which is imported for that verb alone."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from moleflow_pl.errors import MoLEFlowError

# what a user can mend, wherever it strikes
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
# a verb, the module that runs it, and what it does
VERBS = {
    "fit": ("lightning", "learn products, one after another"),
    "validate": ("lightning", "NLL and routing of good images that were held out"),
    "test": ("lightning", "score the test images, and write the report"),
    "predict": ("lightning", "score a file, a folder or a pattern"),
    "export": ("export", "write a model as one file: ONNX or torch.export"),
    "calibrate": ("calibrate", "show thresholds, or move them to another false-alarm rate"),
    "experts": ("experts", "list, export, import, remove, rename, update or roll back experts"),
    "report": ("report", "set several runs side by side"),
}
HELP = """\
usage: moleflow VERB [options]

Learn to inspect one product after another from good images alone, forget nothing, and tell by
itself which product a new image shows.

verbs:
{verbs}

moleflow VERB --help tells a verb's options, with examples.

examples:
  moleflow fit --config configs/demo.yaml
  moleflow fit --data.root FOLDER --data.tasks '[bottle, cable]'
  moleflow test --ckpt_path runs/demo/last.ckpt
  moleflow predict --ckpt_path runs/demo/last.ckpt --data.predict_path 'new/*.png'
  moleflow export --ckpt_path runs/demo/last.ckpt"""


def help_text() -> str:
    """What `moleflow --help` prints.

    Example:
        >>> print(help_text().splitlines()[0])
        usage: moleflow VERB [options]
    """
    width = max(map(len, VERBS))
    return HELP.format(verbs="\n".join(f"  {v:<{width}}  {says}" for v, (_, says) in VERBS.items()))


def main(args: Sequence[str] | None = None) -> None:
    """Run the command with `args`, those of the process by default."""
    args = list(sys.argv[1:] if args is None else args)
    verb = args[0] if args else "--help"
    if verb in ("-h", "--help", "help"):
        print(help_text())
    elif verb == "--version":
        print(f"moleflow {installed_version()}")
    elif verb not in VERBS:
        sys.exit(f"moleflow: no verb {verb!r}; the verbs are {', '.join(VERBS)}: moleflow --help")
    else:
        run(verb, args)


def run(verb: str, args: Sequence[str]) -> None:
    """Run a verb; LightningCLI finds its own name among its arguments, the others do not."""
    # a verb's imports take seconds, and the help needs none
    asked = VERBS[verb][0] == "lightning" and {"-h", "--help"} & set(args)
    module = import_module(f"moleflow_pl.cli.{'help' if asked else VERBS[verb][0]}")
    try:
        module.main(args if VERBS[verb][0] == "lightning" else args[1:])
    except MoLEFlowError as error:
        # an error of a loader's process comes wrapped in that process' traceback
        message = str(error).rpartition(f"{type(error).__name__}: ")[2].strip()
        sys.exit(f"moleflow: {message}")
    except OSError as error:
        if error.errno not in OF_THE_DISK:
            raise
        sys.exit(f"moleflow: {error.filename or 'the disk'}: {error.strerror}")


def installed_version() -> str:
    """The version that is installed; `unknown` where the files were only copied."""
    try:
        return version("moleflow")
    except PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    main()
