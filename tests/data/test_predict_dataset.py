from pathlib import Path

import pytest
import torch

from moleflow_pl.data.images import read_image
from moleflow_pl.data.predict_dataset import UnsortedImages, find_files
from moleflow_pl.errors import DataError


def test_files_are_found_by_file_folder_and_pattern_and_sorted_out(
    data_root: Path, tmp_path: Path
) -> None:
    folder = data_root / "b" / "test"
    assert len(find_files(str(folder))[0]) == 6
    assert len(find_files(str(folder / "square" / "*.png"))[0]) == 3
    one = str(folder / "good" / "000.png")
    assert find_files(one) == ([one], [])
    for name in ("a.png", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_text("x")
    images, others = find_files(str(tmp_path))
    assert images == [str(tmp_path / "a.png")]
    assert others == [str(tmp_path / "notes.txt")]
    with pytest.raises(DataError, match="no image at"):
        find_files(str(data_root / "nothing*"))


def test_what_is_no_image_is_passed_over_and_named(data_root: Path, tmp_path: Path) -> None:
    good = data_root / "b" / "test" / "good" / "000.png"
    (tmp_path / "bad.png").write_bytes(b"no image")
    dataset = UnsortedImages([str(good), str(tmp_path / "bad.png")], (24, 30))
    batch = dataset.collate([dataset[0], dataset[1]])
    assert batch["path"] == [str(good)]
    assert batch["size"] == [(48, 48)]
    assert torch.equal(batch["image"][0], read_image(good, (24, 30)))
    ((path, reason),) = batch["skipped"]
    assert path.endswith("bad.png")
    assert "cannot read the image" in reason
    nothing = dataset.collate([dataset[1]])
    assert nothing["path"] == []
    assert nothing["image"].shape == (0, 3, 24, 30)


def test_names_are_told_from_the_common_folder_whatever_is_done(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a/1.png", "b/1.png", "b/2.png")]
    dataset = UnsortedImages(paths, (8, 8), done={paths[0]})
    assert dataset.root == str(tmp_path)
    assert dataset.paths == paths[1:]


def test_links_that_lead_in_circles_are_no_images(data_root: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes((data_root / "b/test/good/000.png").read_bytes())
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "self").symlink_to(tmp_path)
    assert find_files(str(tmp_path)) == ([str(tmp_path / "a.png")], [])
