from pathlib import Path

import pytest

from moleflow_pl.data.layouts.folder import FolderLayout
from moleflow_pl.errors import DataError
from tests.helpers.products import draw_product
from tests.helpers.trees import plant, seen


def test_every_folder_of_good_images_is_a_product(tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        "screw/b.png",
        "screw/monday/a.JPG",
        "screw/.thumbnails/a.png",
        "nut/a.bmp",
    )
    (root / "empty").mkdir()
    layout = FolderLayout(root)
    assert layout.products() == ["nut", "screw"]
    assert seen(root, layout.train("screw")) == [
        ("screw/b.png", "good", None),
        ("screw/monday/a.JPG", "good", None),
    ]
    assert layout.test("screw") == []


def test_a_folder_of_images_alone_is_one_product(tmp_path: Path) -> None:
    root = plant(tmp_path / "bottle", "a.png", "b.png")
    layout = FolderLayout(root)
    assert layout.products() == ["bottle"]
    assert [record.path.name for record in layout.train("bottle")] == ["a.png", "b.png"]


def test_folders_of_another_layout_are_not_taken_for_good_images(tmp_path: Path) -> None:
    draw_product(tmp_path, "a", 0)
    with pytest.raises(DataError, match="ground_truth.*as good: use --data.layout mvtec"):
        FolderLayout(tmp_path).train("a")


def test_linked_products_and_folders_are_followed(tmp_path: Path) -> None:
    plant(tmp_path, "store/a/1.png", "store/b/2.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "screw").symlink_to(tmp_path / "store" / "a")
    (tmp_path / "store" / "a" / "more").symlink_to(tmp_path / "store" / "b")
    layout = FolderLayout(root)
    assert layout.products() == ["screw"]
    assert [p for p, *_ in seen(root, layout.train("screw"))] == ["screw/1.png", "screw/more/2.png"]
