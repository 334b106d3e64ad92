"""A PostgreSQL server of Debian's, for a test."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

PLACES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
OWNER = "postgres"  # the server refuses root


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database; skips where there is no server."""
    initdb = shutil.which("initdb", path=os.pathsep.join(map(str, PLACES)))
    if initdb is None:
        pytest.skip("there is no PostgreSQL")
    user = OWNER if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
        place.close()
        data = Path(folder) / "data"
        if user is not None:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        command = [initdb, "-D", str(data), "-U", "line", "--auth=trust", "--no-sync"]
        subprocess.run(command, user=user, check=True, capture_output=True, cwd=folder)
        options = ["-D", str(data), "-p", str(port), "-k", folder, "-c", "fsync=off"]
        server = subprocess.Popen(
            [str(Path(initdb).with_name("postgres")), *options],
            user=user, cwd=folder, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            for _ in range(600):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            yield f"postgresql://line@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # does not wait for clients
            server.wait(20)
