"""The settings of a service.

They are checked without pydantic, although FastAPI brings it: its errors name fields of a class,
and a user needs the option, such as `--max-mb`. Each check is one line here.
"""

from __future__ import annotations

import ipaddress
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from moleflow_pl._internal.files import token, writing
from moleflow_pl._internal.validation import require_int, require_number
from moleflow_pl.checkpoints.run_folder import RunFolder
from moleflow_pl.errors import ConfigError
from moleflow_pl.service.database import Database
from moleflow_pl.service.images import ImageStore
from moleflow_pl.service.sinks.base import SINKS
from moleflow_pl.service.sources.base import SOURCES

TOKEN = "MOLEFLOW_TOKEN"
SHORTEST_TOKEN = 16  # characters
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Settings:
    """The options of `moleflow serve`, checked.

    Attributes:
        model: The run folder or the checkpoint.
        host: The address to listen on.
        port: The port; 0 is a free one.
        database: An SQLite file or a URL; by default a file in the run folder.
        workers: Processes that answer.
        batch_size: Largest batch.
        batch_wait: Seconds that a single image waits for others to join its batch.
        queue: Largest number of waiting images; more are refused.
        deadline: Seconds within which a request is answered.
        max_mb: Largest image file, in MiB.
        max_pixels: Most pixels of an image.
        rate: Requests a second that one client may send.
        keep_images: Whether images are kept; reviews need them.
        keep_days: Days after which an image without a review is removed.
        keep_gb: GiB of images, beyond which the oldest are removed.
        backbone_weights: Where the backbone's weights are, if they have moved.
        device: Where the model goes.
        move_inspected: Whether to move inspected files of a watched folder to `inspected` in it.
        interval: Seconds between two images of a camera.
        sources: Sources of images, as `KIND:ADDRESS`.
        sinks: Receivers of inspections, as `KIND:ADDRESS`.

    Raises:
        ConfigError: a value is invalid, or a host beyond this machine has no token.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = 8420
    database: str | None = None
    workers: int = 1
    batch_size: int = 16
    batch_wait: float = 0.0
    queue: int = 64
    deadline: float = 30.0
    max_mb: int = 32
    max_pixels: int = 100_000_000
    rate: float = 500.0
    keep_images: bool = True
    keep_days: float = 90.0
    keep_gb: float = 50.0
    backbone_weights: str | None = None
    device: str = "auto"
    move_inspected: bool = False
    interval: float = 1.0
    sources: list[str] = field(default_factory=list)
    sinks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_int("--port", self.port, 0, 65535)
        require_int("--workers", self.workers, 1, 64)
        require_int("--batch", self.batch_size, 1, 1024)
        require_number("--batch-wait", self.batch_wait, 0, 10)
        require_int("--queue", self.queue, 1, 100_000)
        require_number("--deadline", self.deadline, 0, 3600, above=True)
        require_int("--max-mb", self.max_mb, 1, 1024)
        require_int("--max-pixels", self.max_pixels, 1, 10**9)
        require_number("--rate", self.rate, 0, 10**6, above=True)
        require_number("--keep-days", self.keep_days, 0, 100_000, above=True)
        require_number("--keep-gb", self.keep_gb, 0, 10**6, above=True)
        require_number("--interval", self.interval, 0, 86400)
        for option, kinds, values in (
            ("--source", SOURCES, self.sources),
            ("--sink", SINKS, self.sinks),
        ):
            for value in values:
                split(option, value, kinds)
        self._check_token()

    def _check_token(self) -> None:
        if self.token is None and not is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host} is open to other machines: set {TOKEN} to a secret of at "
                f"least {SHORTEST_TOKEN} characters, such as that of openssl rand -hex 32"
            )
        if self.token is not None and len(self.token) < SHORTEST_TOKEN:
            raise ConfigError(f"{TOKEN} is too short: it needs {SHORTEST_TOKEN} characters")

    @property
    def token(self) -> str | None:
        """The secret that clients send, from the environment alone."""
        return os.environ.get(TOKEN) or None

    @property
    def run(self) -> RunFolder:
        """The run that the model lies in."""
        path = Path(self.model)
        return RunFolder(path) if path.is_dir() else RunFolder.of(path)

    @property
    def folder(self) -> Path:
        """Folder of the record and of the images."""
        return self.run.service

    @property
    def images(self) -> Path:
        """Folder of the images."""
        return self.folder / "images"

    @property
    def database_url(self) -> str:
        """The database's URL or file."""
        return self.database or str(self.folder / "line.sqlite")

    def open_database(self) -> Database:
        """Open the database; one in the run folder is created.

        Raises:
            ConfigError: the URL is invalid.
            OutputError: the database cannot be reached or written.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        return Database(self.database_url)

    def open_store(self, database: Database) -> ImageStore:
        """The images of a record; those of another record in the same run lie in another folder."""
        folder = self.images / database.setting("record", token())
        return ImageStore(folder, self.max_pixels, self.keep_images)

    @property
    def max_bytes(self) -> int:
        """Largest image file in bytes."""
        return self.max_mb * MEBIBYTE

    def to_json(self) -> str:
        """For the processes of `--workers`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """The settings that `to_json` wrote."""
        return cls(**json.loads(text))


def split(option: str, value: str, kinds: object) -> tuple[str, str]:
    """The kind and the address of a source or a sink.

    Raises:
        ConfigError: the kind is unknown, or the address is missing.
    """
    kind, colon, address = value.partition(":")
    kinds[kind]  # type: ignore[index] # names the kinds that there are
    if not colon or not address:
        raise ConfigError(f"{option} {value}: write {kind}:ADDRESS")
    return kind, address


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
        (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
