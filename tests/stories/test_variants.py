"""Variants of a product's images: they belong to its name, whatever becomes of its expert."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.checkpoints.schema import CONFIG_KEY
from tests.helpers.commands import MODEL, run_here
from tests.helpers.products import draw_product

pytestmark = pytest.mark.slow


def variants_of(run: Path) -> dict[str, Any]:
    return yaml.safe_load(read_checkpoint(run / "last.ckpt")[CONFIG_KEY])["data"]["variants"]


def test_products_that_are_renamed_updated_and_imported_again_keep_their_variants(
    tmp_path: Path,
) -> None:
    for i, name in enumerate(("a", "b", "bolt")):
        draw_product(tmp_path / "data", name, i, train=20)
    given = "--data.variants={a: [hflip], b: [darker]}"
    run_here(
        tmp_path, "fit", "--data.root=data", "--data.tasks=[a, b]", given, *MODEL,
        "--trainer.default_root_dir=run",
    )  # fmt: skip
    run_here(tmp_path, "experts", "rename", "run", "b", "bolt")
    expected = {"a": ["hflip"], "bolt": ["darker"]}
    assert variants_of(tmp_path / "run") == expected
    run_here(tmp_path, "experts", "update", "run", "bolt", "--data.root=data")
    assert variants_of(tmp_path / "run") == expected
    run_here(tmp_path, "experts", "remove", "run", "bolt")
    run_here(tmp_path, "test", "run")  # with variants of a product that is gone
    run_here(tmp_path, "experts", "import", "run", "run/experts/versions/bolt~2.safetensors")
    run_here(tmp_path, "test", "run")
    assert variants_of(tmp_path / "run") == expected
