from pathlib import Path

from moleflow_pl.data.layouts.mvtec import MVTecLayout
from moleflow_pl.data.unused import describe_unused, unused_files
from tests.helpers.products import draw_product
from tests.helpers.trees import plant


def found(root: Path) -> dict[str, list[str]]:
    layout = MVTecLayout(root)
    reasons = unused_files(root / "a", [*layout.train("a"), *layout.test("a")])
    return {reason: [path.as_posix() for path in paths] for reason, paths in reasons.items()}


def test_every_file_that_no_record_names_has_a_reason(tmp_path: Path) -> None:
    draw_product(tmp_path, "a", 0)
    assert found(tmp_path) == {}
    plant(tmp_path, "a/test/loose.png", "a/train/bad/1.png", "a/ground_truth/square/9_mask.png")
    for name in ("train/good/.DS_Store", "train/good/notes.txt", ".git/x.png"):
        (tmp_path / "a" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "a" / name).touch()
    assert found(tmp_path) == {
        "hidden": [".git/x.png", "train/good/.DS_Store"],
        "without an image suffix": ["train/good/notes.txt"],
        "in places where the layout does not look": [
            "ground_truth/square/9_mask.png", "test/loose.png", "train/bad/1.png",
        ],
    }  # fmt: skip


def test_a_file_that_is_used_through_a_link_is_used(tmp_path: Path) -> None:
    draw_product(tmp_path, "a", 0)
    plant(tmp_path, "a/pool/1.png")
    (tmp_path / "a" / "train" / "good" / "more").symlink_to(tmp_path / "a" / "pool")
    assert found(tmp_path) == {}


def test_one_line_says_how_many_and_why() -> None:
    text = describe_unused("a", {"hidden": [Path(f".{i}") for i in range(3)], "x": [Path("b\n")]})
    assert text == "4 files of a are not used: 3 hidden (.0, .1, …); 1 x (b\\n)"
