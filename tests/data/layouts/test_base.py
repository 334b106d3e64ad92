from pathlib import Path

import pytest

from moleflow_pl.data.layouts.base import ImageRecord, describe_root, folders_in, images_in
from moleflow_pl.data.layouts.folder import FolderLayout
from moleflow_pl.data.layouts.mvtec import MVTecLayout
from moleflow_pl.errors import DataError
from tests.helpers.products import draw_product


def test_an_image_is_good_unless_it_shows_a_defect() -> None:
    assert ImageRecord(Path("a.png"), "a").gt_label == 0
    assert ImageRecord(Path("a.png"), "a", "scratch").gt_label == 1


def test_images_and_folders_come_in_order_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.bmp", ".c.png", "d.txt"):
        (tmp_path / name).touch()
    for name in ("y", "x", ".z"):
        (tmp_path / name).mkdir()
    assert [path.name for path in images_in(tmp_path)] == ["a.bmp", "b.PNG"]
    assert [path.name for path in folders_in(tmp_path)] == ["x", "y"]
    assert images_in(tmp_path / "nowhere") == []


def test_images_at_any_depth_and_behind_links_are_found(tmp_path: Path) -> None:
    for name in ("in/a/b/c.avif", "more/d.heic"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "more")
    (tmp_path / "in" / "back").symlink_to(tmp_path / "in")
    found = [path.relative_to(tmp_path / "in").as_posix() for path in images_in(tmp_path / "in")]
    assert found == ["a/b/c.avif", "link/d.heic"]
    assert [path.name for path in folders_in(tmp_path / "in")] == ["a", "link"]


@pytest.mark.parametrize("layout", [MVTecLayout, FolderLayout])
def test_each_product_may_be_in_a_folder_of_its_own(layout: type, tmp_path: Path) -> None:
    for seed, place in enumerate(("one/x", "two/deep/y")):
        draw_product(tmp_path, place, seed, train=2)
    good = "" if layout is MVTecLayout else "train/good"
    root = {"a": str(tmp_path / "one/x" / good), "b": str(tmp_path / "two/deep/y" / good)}
    found = layout(root)
    assert found.products() == ["a", "b"]
    (first, _) = found.train("b")
    assert first.path == tmp_path / "two/deep/y/train/good/000.png"
    assert first.product == "b"
    with pytest.raises(DataError, match=r"no product 'c' .* it has \['a', 'b'\]"):
        found.train("c")
    with pytest.raises(DataError, match="nowhere is not a folder"):
        layout({**root, "c": str(tmp_path / "nowhere")})
    assert describe_root(root) == ", ".join(root.values()).replace("/, ", ", ").rstrip("/")
