"""The oldest version of everything the package needs, as requirements for pip.

    python -m tests.helpers.floors > floors.txt

torch is left out, because an old one is a download of gigabytes, and torchvision, because each of
its versions works with one version of torch.
"""

import configparser
import re
from pathlib import Path

SETUP = Path(__file__).parents[2] / "setup.cfg"
UNTRIED = ("torch", "torchvision")


def floors(setup: str) -> list[str]:
    """`name==version` of each requirement in the text of a `setup.cfg`.

    Raises:
        ValueError: a requirement has no lower limit.
    """
    config = configparser.ConfigParser()
    config.read_string(setup)
    found = []
    for line in config["options"]["install_requires"].split():
        parts = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?>=([\w.]+)(?:,\S+)?", line)
        if parts is None:
            raise ValueError(f"setup.cfg: {line} has no lower limit: write name>=version")
        if parts[1] not in UNTRIED:
            found.append(f"{parts[1]}=={parts[2]}")
    return found


if __name__ == "__main__":
    print("\n".join(floors(SETUP.read_text())))
