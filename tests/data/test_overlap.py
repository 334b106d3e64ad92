import dataclasses
from pathlib import Path

from moleflow_pl.data.overlap import Use, describe_overlaps

TRAIN = [Use("a", "train", Path(f"a/train/{i}.png")) for i in range(6)]


def test_images_in_train_and_test_are_counted_and_named() -> None:
    test = [Use("a", "test", Path(f"a/test/{i}.png")) for i in range(6)]
    digests = {use.path: use.path.name for use in TRAIN + test}
    (text,) = describe_overlaps(TRAIN + test, digests)
    assert text.startswith("6 images are in test of a and in train of a, and count in both:")
    assert "a/test/0.png = a/train/0.png" in text
    assert text.endswith("…")


def test_images_in_two_products_are_counted_and_named() -> None:
    other = Use("b", "train", Path("b/train/x.png"))
    digests = {TRAIN[0].path: "same", other.path: "same", TRAIN[1].path: "another"}
    (text,) = describe_overlaps([*TRAIN, other], digests)
    assert text.splitlines() == [
        "1 images are in train of a and in train of b, and count in both:",
        "  a/train/0.png = b/train/x.png",
    ]


def test_one_file_listed_twice_is_an_overlap_of_its_own() -> None:
    use = TRAIN[0]
    (text,) = describe_overlaps([use, dataclasses.replace(use, part="test")], {use.path: "x"})
    assert "1 images are in test of a and in train of a" in text


def test_equal_images_within_one_part_are_no_overlap() -> None:
    assert describe_overlaps(TRAIN, {use.path: "same" for use in TRAIN}) == []
    assert describe_overlaps(TRAIN, {}) == []
