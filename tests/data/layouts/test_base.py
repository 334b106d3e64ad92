from pathlib import Path

from moleflow_pl.data.layouts.base import ImageRecord, folders_in, images_in


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
