import os
import shutil
from pathlib import Path

import pytest
import torch

from moleflow_pl._internal.result_names import STATE_FILE, TABLE_FILE
from moleflow_pl.data.images import ImageFile, read_image
from moleflow_pl.data.predict_dataset import (
    FoundFiles,
    UnsortedImages,
    find_files,
    identity_of,
    path_key,
    skip_reason,
)
from moleflow_pl.errors import DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def images(where: Path | str) -> list[str]:
    return find_files(str(where)).images


def dataset_of(*paths: Path, **options: object) -> UnsortedImages:
    found = FoundFiles(str(paths[0].parent), [str(path) for path in paths])
    return UnsortedImages(found, (24, 30), **options)  # type: ignore[arg-type]


def test_files_are_found_by_file_folder_and_pattern_and_sorted_out(
    data_root: Path, tmp_path: Path
) -> None:
    folder = data_root / "b" / "test"
    assert len(images(folder)) == 6
    assert len(images(folder / "square" / "*.png")) == 3
    one = str(folder / "good" / "000.png")
    assert find_files(one) == FoundFiles(str(folder / "good"), [one])
    found = find_files(str(touch(tmp_path, "a.png", "notes.txt", ".hidden.png", ".git/x.png")))
    assert found.images == [str(tmp_path / "a.png")]
    assert found.others == [str(tmp_path / "notes.txt")]
    assert found.hidden == 2
    with pytest.raises(DataError, match="no image at"):
        find_files(str(data_root / "nothing*"))


def test_path_without_images_says_what_it_holds_instead(tmp_path: Path) -> None:
    hidden = touch(tmp_path / "in", ".x/1.png", "..y/2.png", ".3.png")
    with pytest.raises(DataError, match=r"no image at .*in \(not used: 3 hidden \(\.\.y/2\.png, "):
        find_files(str(hidden))
    with pytest.raises(DataError, match=r"in/\*/\*.png: give a file"):
        find_files(str(hidden / "*" / "*.png"))
    mixed = touch(tmp_path / "mixed", "a.txt", "roi.png", f"p/{STATE_FILE}", f"p/{TABLE_FILE}")
    with pytest.raises(DataError) as error:
        find_files(str(mixed))
    for said in ("1 whose name has no image suffix (a.txt)", "1 that is the mask of a region",
                 f"1 written by `predict` ({mixed / 'p'})"):  # fmt: skip
        assert said in str(error.value)


@pytest.mark.parametrize("where", ["a" * 300 + ".png", "a" * 300 + "/**/*.png", "~no such user/a"])
def test_name_that_no_disk_can_hold_is_no_image(where: str) -> None:
    with pytest.raises(DataError, match=r"^no image at .*: give a file, a folder or a pattern"):
        find_files(where)


def test_mask_of_a_region_of_interest_is_no_image_to_predict(tmp_path: Path) -> None:
    found = find_files(str(touch(tmp_path, "a/1.png", "a/roi.png")))
    assert found.images == [str(tmp_path / "a" / "1.png")]
    assert found.others == [str(tmp_path / "a" / "roi.png")]
    assert skip_reason(found.others[0]) == "it is the mask of a region of interest"
    # asked for by its name, it is one
    assert find_files(found.others[0]).images == found.others


def test_links_are_followed_and_loops_end_in_folders_and_patterns(tmp_path: Path) -> None:
    touch(tmp_path, "in/a/1.png", "more/2.png")
    for name, target in (("link", "more"), ("self", "in"), ("again", "in")):
        (tmp_path / "in" / name).symlink_to(tmp_path / target)
    expected = [str(tmp_path / "in" / name) for name in ("a/1.png", "link/2.png")]
    assert images(tmp_path / "in") == expected
    assert images(tmp_path / "in" / "**" / "*.png") == expected
    assert images(f"{tmp_path}/i?/**/*.png") == expected


def test_what_predict_wrote_is_left_out_and_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", *(f"out/{name}" for name in (STATE_FILE, TABLE_FILE, "maps/a.png")))
    for where in (tmp_path, tmp_path / "**" / "*.png"):
        found = find_files(str(where))
        assert found.images == [str(tmp_path / "a.png")]
        assert found.predictions == [str(tmp_path / "out")]
    assert images(tmp_path / "out" / "maps") == [str(tmp_path / "out" / "maps" / "a.png")]


def test_a_link_to_nothing_is_among_the_files_and_skipped_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    dataset = UnsortedImages(find_files(str(tmp_path)), (8, 8))
    reasons = [dataset[i].reason for i in range(2)]
    assert "No such file" in reasons[0]
    assert "symbolic links" in reasons[1]


def test_what_is_no_image_is_passed_over_and_named(data_root: Path, tmp_path: Path) -> None:
    good = data_root / "b" / "test" / "good" / "000.png"
    (tmp_path / "bad.png").write_bytes(b"no image")
    dataset = dataset_of(good, tmp_path / "bad.png")
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


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_vanished_is_skipped_whatever_the_number_of_workers(
    workers: int, data_root: Path, tmp_path: Path
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        shutil.copy(data_root / "b" / "test" / "good" / "000.png", tmp_path / name)
    dataset = UnsortedImages(find_files(str(tmp_path)), (8, 8), preview=10)
    (tmp_path / "b.png").unlink()
    (tmp_path / "c.png").write_bytes((tmp_path / "c.png").read_bytes()[:300])
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=3, num_workers=workers, collate_fn=dataset.collate
    )
    (batch,) = loader
    assert [Path(path).name for path in batch["path"]] == ["a.png"]
    assert [Path(path).name for path, _ in batch["skipped"]] == ["b.png", "c.png"]


def test_one_read_gives_image_identity_and_preview(data_root: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    shutil.copy(data_root / "b" / "test" / "good" / "000.png", path)
    expected = identity_of(ImageFile.read(path))
    reads: list[Path] = []

    def counting(file: Path) -> ImageFile:
        reads.append(file)
        return read(file)

    read = ImageFile.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFile, "read", counting)
        sample = dataset_of(path, preview=10)[0]
    assert reads == [path]
    assert sample.identity == expected
    assert sample.preview is not None
    assert sample.preview.shape == (10, 10, 3)
    assert dataset_of(path)[0].preview is None


def test_files_are_done_only_while_size_time_and_content_are_the_same(
    data_root: Path, tmp_path: Path
) -> None:
    source = data_root / "b" / "test" / "good" / "000.png"
    paths = [tmp_path / name for name in ("same", "longer", "later", "other", "gone", "new")]
    for path in paths:
        shutil.copy(source, path)
    done = {path_key(str(path)): identity_of(ImageFile.read(path)) for path in paths[:-1]}
    same, longer, later, other, gone, _ = paths
    time = source.stat().st_mtime_ns
    with longer.open("ab") as file:
        file.write(b"x")
    os.utime(later, ns=(time, time + 10**9))
    content, stat = bytearray(other.read_bytes()), other.stat()
    content[-1] ^= 1
    other.write_bytes(content)
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    gone.unlink()
    dataset = dataset_of(*paths, done=done)
    assert dataset.unchanged == {str(same)}
    assert dataset.paths == [str(path) for path in paths[1:]]


def test_the_last_image_is_done_again_where_nothing_else_is_left(
    data_root: Path, tmp_path: Path
) -> None:
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for path in paths:
        shutil.copy(data_root / "b" / "test" / "good" / "000.png", path)
    done = {path_key(str(path)): identity_of(ImageFile.read(path)) for path in paths}
    assert dataset_of(*paths, done=done).paths == [str(paths[1])]


def test_a_relative_path_is_known_by_its_absolute_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert path_key("a.png") == str(tmp_path / "a.png")
    assert path_key("/a/\udcff\n.png") == "/a/\\udcff\\n.png"
