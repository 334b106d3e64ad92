from pathlib import Path

import pytest

from moleflow_pl.data.layouts.folder import FolderLayout
from moleflow_pl.data.layouts.mvtec import BTADLayout, MPDDLayout, MVTec2Layout, MVTecLayout
from moleflow_pl.errors import DataError
from tests.helpers.products import draw_product
from tests.helpers.trees import plant, seen


def test_mvtec_tree_is_read_as_it_is_laid_out(data_root: Path) -> None:
    layout = MVTecLayout(data_root)
    assert layout.products() == ["01", "b", "c"]
    assert [record.path.name for record in layout.train("b")] == [f"{i:03d}.png" for i in range(6)]
    test = layout.test("b")
    assert [record.gt_label for record in test] == [0, 0, 0, 1, 1, 1]
    assert [record.mask and record.mask.name for record in test[2:4]] == [None, "000_mask.png"]
    assert all(record.has_masks for record in test)


def test_mvtec_ad_is_read_by_its_own_names(tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        "bottle/train/good/000.png",
        "bottle/test/good/000.png",
        "bottle/test/broken_large/000.png",
        "bottle/ground_truth/broken_large/000_mask.png",
        "metal_nut/train/good/000.png",
    )
    (root / "license.txt").touch()
    layout = MVTecLayout(root)
    assert layout.products() == ["bottle", "metal_nut"]
    assert seen(root, layout.train("bottle")) == [("bottle/train/good/000.png", "good", None)]
    assert seen(root, layout.test("bottle")) == [
        (
            "bottle/test/broken_large/000.png",
            "broken_large",
            "bottle/ground_truth/broken_large/000_mask.png",
        ),
        ("bottle/test/good/000.png", "good", None),
    ]


def test_product_without_masks_has_none(data_root: Path) -> None:
    assert not any(record.has_masks or record.mask for record in MVTecLayout(data_root).test("c"))


def test_one_missing_mask_is_a_warning_and_no_error(tmp_path: Path) -> None:
    draw_product(tmp_path, "a", 0)
    (tmp_path / "a" / "ground_truth" / "square" / "001_mask.png").unlink()
    test = MVTecLayout(tmp_path).test("a")
    assert [record.lacks_mask for record in test] == [False, False, False, False, True, False]
    assert test[4].expected_mask == tmp_path / "a" / "ground_truth" / "square" / "001_mask.png"


def test_hidden_and_other_files_are_no_images(tmp_path: Path) -> None:
    draw_product(tmp_path, "a", 0)
    folder = tmp_path / "a" / "train" / "good"
    for name in (".DS_Store", "._000.png", "notes.txt"):
        (folder / name).touch()
    assert len(MVTecLayout(tmp_path).train("a")) == 6


@pytest.mark.parametrize("root", [None, "/no/such/folder"])
def test_missing_root_shows_the_tree_and_where_the_data_is_had(root: str | None) -> None:
    with pytest.raises(DataError) as error:
        MVTecLayout(root)
    assert "<root>/<product>/train/good" in str(error.value)
    assert "mvtec.com" in str(error.value)


def test_unknown_product_lists_those_there_are(data_root: Path) -> None:
    with pytest.raises(DataError, match=r"no product 'x' in .*it has \['01', 'b', 'c'\]"):
        MVTecLayout(data_root).train("x")


def test_empty_train_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a" / "train" / "good").mkdir(parents=True)
    with pytest.raises(DataError, match="no image to learn 'a' from in .*a/train/good"):
        MVTecLayout(tmp_path).train("a")


def test_product_without_test_folder_has_no_test_images(tmp_path: Path) -> None:
    draw_product(tmp_path, "a", 0)
    (tmp_path / "a" / "test").rename(tmp_path / "a" / "later")
    assert MVTecLayout(tmp_path).test("a") == []


def test_mvtec_ad_2_learns_from_train_and_tests_with_the_public_part(tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        "can/train/good/000_regular.png",
        "can/validation/good/000_regular.png",
        "can/test_private/000_regular.png",
        "can/test_private_mixed/000_mixed.png",
        "can/test_public/good/000_regular.png",
        "can/test_public/bad/000_overexposed.png",
        "can/test_public/ground_truth/bad/000_overexposed_mask.png",
        "fruit_jelly/train/good/000_regular.png",
    )
    layout = MVTec2Layout(root)
    assert layout.products() == ["can", "fruit_jelly"]
    assert seen(root, layout.train("can")) == [("can/train/good/000_regular.png", "good", None)]
    assert seen(root, layout.test("can")) == [
        (
            "can/test_public/bad/000_overexposed.png",
            "bad",
            "can/test_public/ground_truth/bad/000_overexposed_mask.png",
        ),
        ("can/test_public/good/000_regular.png", "good", None),
    ]
    assert all(record.has_masks for record in layout.test("can"))
    assert layout.test("fruit_jelly") == []


def test_btad_calls_good_ok_and_masks_by_the_images_name(tmp_path: Path) -> None:
    root = plant(
        tmp_path / "BTech_Dataset_transformed",
        "01/train/ok/0000.bmp",
        "01/test/ok/0021.bmp",
        "01/test/ko/0000.bmp",
        "01/ground_truth/ko/0000.png",
        "02/train/ok/0000.png",
        "02/test/ko/0003.png",
        "02/ground_truth/ko/0003.png",
        "03/train/ok/0000.bmp",
        "03/test/ko/0005.bmp",
        "03/ground_truth/ko/0005.bmp",
    )
    layout = BTADLayout(root)
    assert layout.products() == ["01", "02", "03"]
    assert seen(root, layout.train("01")) == [("01/train/ok/0000.bmp", "good", None)]
    assert seen(root, layout.test("01")) == [
        ("01/test/ko/0000.bmp", "ko", "01/ground_truth/ko/0000.png"),
        ("01/test/ok/0021.bmp", "good", None),
    ]
    assert [record.gt_label for record in layout.test("01")] == [1, 0]
    assert layout.test("02")[0].mask == root / "02/ground_truth/ko/0003.png"
    assert layout.test("03")[0].mask == root / "03/ground_truth/ko/0005.bmp"


def test_folders_within_good_and_a_defect_are_read_with_their_masks(tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        "a/train/good/monday/0.png",
        "a/test/hole/monday/0.png",
        "a/test/hole/1.png",
        "a/ground_truth/hole/monday/0_mask.png",
        "a/ground_truth/hole/1_mask.png",
    )
    layout = MVTecLayout(root)
    assert seen(root, layout.train("a")) == [("a/train/good/monday/0.png", "good", None)]
    assert seen(root, layout.test("a")) == [
        ("a/test/hole/1.png", "hole", "a/ground_truth/hole/1_mask.png"),
        ("a/test/hole/monday/0.png", "hole", "a/ground_truth/hole/monday/0_mask.png"),
    ]


def test_a_link_back_to_the_test_folder_is_no_kind_of_defect(tmp_path: Path) -> None:
    draw_product(tmp_path, "a", 0)
    (tmp_path / "a" / "test" / "again").symlink_to(tmp_path / "a" / "test")
    assert {record.defect for record in MVTecLayout(tmp_path).test("a")} == {"good", "square"}


@pytest.mark.parametrize("name", ["0_mask.PNG", "0_mask.tif", "0.bmp", "0_mask.webp", "0.jpg"])
def test_a_mask_has_any_ending_that_an_image_has(name: str, tmp_path: Path) -> None:
    mask = f"a/ground_truth/hole/{name}"
    root = plant(tmp_path, "a/test/hole/0.png")
    (root / mask).parent.mkdir(parents=True)
    (root / mask).touch()
    assert seen(root, MVTecLayout(root).test("a")) == [("a/test/hole/0.png", "hole", mask)]


def test_of_several_masks_of_an_image_the_lossless_one_is_taken(tmp_path: Path) -> None:
    masks = [f"a/ground_truth/hole/0{name}" for name in (".png", "_mask.jpg", "_mask.png")]
    root = plant(tmp_path, "a/test/hole/0.png", *masks)
    assert MVTecLayout(root).test("a")[0].mask == root / masks[2]


def test_mpdd_has_mvtecs_tree(tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        "bracket_black/train/good/000.png",
        "bracket_black/test/good/000.png",
        "bracket_black/test/hole/000.png",
        "bracket_black/ground_truth/hole/000_mask.png",
        "metal_plate/train/good/000.png",
    )
    layout = MPDDLayout(root)
    assert layout.products() == ["bracket_black", "metal_plate"]
    assert seen(root, layout.test("bracket_black")) == [
        ("bracket_black/test/good/000.png", "good", None),
        (
            "bracket_black/test/hole/000.png",
            "hole",
            "bracket_black/ground_truth/hole/000_mask.png",
        ),
    ]
    with pytest.raises(DataError, match="stepanje/MPDD"):
        layout.train("bracket")


@pytest.mark.parametrize("kind", [MVTecLayout, MVTec2Layout, BTADLayout, MPDDLayout, FolderLayout])
def test_a_wrong_product_or_root_is_answered_with_what_there_is(
    kind: type[MVTecLayout], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"(?s)no product 'x'.*it has \[\].*{'<root>'}"):
        kind(tmp_path).train("x")
    with pytest.raises(DataError, match=f"layout '{kind.name}' needs a folder as data.root"):
        kind(None)
