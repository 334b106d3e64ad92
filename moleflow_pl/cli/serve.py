"""`moleflow serve`: an inspection service that runs until a signal ends it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from moleflow_pl._internal.garbage import importing
from moleflow_pl.cli import moved_weights
from moleflow_pl.cli.mistakes import VerbParser
from moleflow_pl.cli.run_argument import CHECKPOINT, SETTINGS
from moleflow_pl.errors import ConfigError

DESCRIPTION = """\
Inspect images by HTTP, from watched folders and from cameras. Each inspection is in the database
before it is answered. The service is reachable from this machine alone, unless --host and the
variable MOLEFLOW_TOKEN are set.
"""
EXAMPLES = """\
examples:
  moleflow serve runs/demo
  moleflow serve runs/demo --source folder:/data/in --sink csv:line.csv
  curl --data-binary @cell.png http://127.0.0.1:8420/v1/inspect
"""
PARTS = ("fastapi", "uvicorn", "sqlalchemy", "python_multipart", "prometheus_client",
         "watchfiles", "httpx", "paho")  # fmt: skip
NUMBER, WHOLE = {"type": float, "metavar": "N"}, {"type": int, "metavar": "N"}
# option: (its name in `Settings`, settings of the parser); defaults are those of `Settings`
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "--host": ("host", {"help": "address to listen on (127.0.0.1)"}),
    "--port": ("port", {**WHOLE, "help": "port; 0 is a free one (8420)"}),
    "--database": (
        "database",
        {"metavar": "URL", "help": "SQLite file, or postgresql://… (RUN/service/line.sqlite)"},
    ),
    "--workers": ("workers", {**WHOLE, "help": "processes, each with the model (1)"}),
    "--source": (
        "sources",
        {
            "action": "append",
            "metavar": "KIND:ADDRESS",
            "help": "source of images: folder:PATH, camera:NUMBER or camera:rtsp://…; repeatable",
        },
    ),
    "--move-inspected": (
        "move_inspected",
        {"action": "store_true", "help": "move inspected files to the subfolder `inspected`"},
    ),
    "--interval": ("interval", {**NUMBER, "help": "seconds between images of a camera (1)"}),
    "--sink": (
        "sinks",
        {
            "action": "append",
            "metavar": "KIND:ADDRESS",
            "help": "receiver: webhook:https://…, mqtt:mqtt://HOST/TOPIC or csv:FILE; repeatable",
        },
    ),
    "--batch": ("batch_size", {**WHOLE, "help": "most images in a batch (16)"}),
    "--batch-wait": (
        "batch_wait",
        {**NUMBER, "help": "seconds that a single image waits for others to join its batch (0)"},
    ),
    "--queue": ("queue", {**WHOLE, "help": "most waiting images; further requests get 429 (64)"}),
    "--deadline": ("deadline", {**NUMBER, "help": "seconds until a request gets 504 (30)"}),
    "--rate": ("rate", {**NUMBER, "help": "most requests per second of a client (500)"}),
    "--max-mb": ("max_mb", {**WHOLE, "help": "largest image file in MiB (32)"}),
    "--max-pixels": ("max_pixels", {**WHOLE, "help": "most pixels of an image (100000000)"}),
    "--no-images": (
        "keep_images",
        {"action": "store_false", "help": "keep no images; then decisions cannot be reviewed"},
    ),
    "--keep-days": (
        "keep_days",
        {**NUMBER, "help": "days until an image without a review is removed (90)"},
    ),
    "--keep-gb": ("keep_gb", {**NUMBER, "help": "GiB of images; then the oldest go (50)"}),
    "--device": ("device", {"help": "device of the model (auto)"}),
}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the verb's options."""
    parser = VerbParser(
        prog="moleflow serve",
        usage="moleflow serve RUN [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # `Settings` has them
    )
    parser.add_argument(CHECKPOINT, **SETTINGS)
    for name, (target, settings) in OPTIONS.items():
        parser.add_argument(name, dest=target, **settings)
    moved_weights.add_option(parser)
    return parser


def main(args: Sequence[str]) -> None:
    """Serve until a signal ends the process."""
    options = vars(make_parser().parse_args(args))
    require_parts()
    model = Path(options.pop("ckpt_path")).expanduser()
    with importing():  # after parsing: torch takes seconds to import
        from moleflow_pl.service.server import serve
        from moleflow_pl.service.settings import Settings

    serve(Settings(str(model), **options))


def require_parts() -> None:
    """Check that the service's libraries are installed.

    Raises:
        ConfigError: a package is not installed.
    """
    missing = [part for part in PARTS if find_spec(part) is None]
    if missing:
        raise ConfigError(
            f"serve needs {', '.join(missing)}: pip install 'moleflow[serve]', or in a checkout "
            "pip install -e '.[serve]'"
        )
