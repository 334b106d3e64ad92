"""The pages of the Python API, from the docstrings: `python docs/api.py [FOLDER]`."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pdoc
import pdoc.render

PACKAGES = ("moleflow_pl", "callbacks")


def modules() -> Iterator[str]:
    """All modules there are; pdoc by itself shows no more than a package's `__all__`."""
    for name in PACKAGES:
        package = import_module(name)
        for public in package.__all__:
            setattr(package, public, getattr(package, public))  # pdoc asks for no lazy names
        yield name
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            # of a package without `__all__`, pdoc finds the modules
            if hasattr(import_module(module.name.rpartition(".")[0]), "__all__"):
                yield module.name


def build(folder: Path) -> None:
    """Write the pages into a folder."""
    pdoc.render.configure(docformat="google")
    pdoc.pdoc(*modules(), output_directory=folder)


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "api")
    build(target)
    print(target / "index.html")
