from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from moleflow_pl.data.layouts.base import ImageRecord
from moleflow_pl.data.variants import (
    VARIANTS,
    Variant,
    alternating,
    apply_variant,
    check_shapes,
    check_variants,
    multiplied,
)
from moleflow_pl.errors import ConfigError, DataError
from tests.helpers.models import fit
from tests.helpers.products import SIZE, draw_product


def noise(height: int = 40, width: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def records(count: int, product: str = "a") -> list[ImageRecord]:
    return [ImageRecord(Path(f"{product}{i}.png"), product) for i in range(count)]


def test_every_variant_of_the_option_exists_and_keeps_size_and_type() -> None:
    assert set(VARIANTS) == {*get_args(Variant)}
    for change in VARIANTS.values():
        found = change(noise())
        assert found.shape == (3, 40, 40)
        assert found.dtype == torch.uint8
        assert not torch.equal(found, noise())


def test_flips_and_turns_are_numpys() -> None:
    image = noise()
    rows = image.permute(1, 2, 0).numpy()
    wanted = {
        "hflip": np.fliplr(rows), "vflip": np.flipud(rows), "rot90": np.rot90(rows),
        "rot180": np.rot90(rows, 2), "rot270": np.rot90(rows, 3),
    }  # fmt: skip
    for name, expected in wanted.items():
        assert np.array_equal(VARIANTS[name](image).permute(1, 2, 0).numpy(), expected)


def test_light_changes_by_a_fifth_within_the_range_of_a_byte() -> None:
    image = torch.tensor([0, 100, 240], dtype=torch.uint8).reshape(3, 1, 1)
    assert VARIANTS["darker"](image).flatten().tolist() == [0, 80, 192]
    assert VARIANTS["brighter"](image).flatten().tolist() == [0, 120, 255]


def test_a_tilt_turns_about_the_middle_and_leaves_no_black_corner() -> None:
    image = torch.full((3, 65, 65), 200, dtype=torch.uint8)
    image[:, 32, :] = 0  # a line through the middle
    for name, sign in (("tilt_left", 1), ("tilt_right", -1)):
        found = VARIANTS[name](image)[0].float()
        dark = [int(found[:, column].argmin()) for column in (5, 32, 59)]
        slope = (dark[0] - dark[2]) / 54  # rows count downwards
        assert dark[1] == 32
        assert slope == pytest.approx(sign * np.tan(np.radians(5)), abs=0.03)
        assert found[[0, 0, -1, -1], [0, -1, 0, -1]].min() > 150


@pytest.mark.parametrize("size", [(400, 16), (16, 400), (7, 7)])
def test_a_tilt_of_an_oblong_image_leaves_no_black_corner(size: tuple[int, int]) -> None:
    image = torch.full((3, *size), 200, dtype=torch.uint8)
    assert VARIANTS["tilt_left"](image).equal(image)


def test_training_images_come_first_and_then_all_their_variants() -> None:
    found = multiplied([*records(2), *records(1, "b")], {"a": ["hflip", "darker"]})
    assert [(r.path.name, r.variant) for r in found] == [
        ("a0.png", None), ("a1.png", None), ("b0.png", None),
        ("a0.png", "hflip"), ("a0.png", "darker"), ("a1.png", "hflip"), ("a1.png", "darker"),
    ]  # fmt: skip
    assert multiplied(records(2), None) == records(2)


def test_each_calibration_image_counts_once_as_one_variant_in_turn() -> None:
    found = alternating([*records(4), *records(2, "b")], ["hflip", "darker"])
    kinds = [None, "hflip", "darker", None, None, "hflip"]
    assert [record.variant for record in found] == kinds
    assert alternating(records(2), {"b": ["hflip"]}) == records(2)


@pytest.mark.parametrize("given", [["hflip", "hflip"], ["flip"], "hflip", {"a": "hflip"}])
def test_what_is_no_list_of_different_variants_is_refused(given: object) -> None:
    with pytest.raises(ConfigError, match=r"data.variants must be a list .*\['hflip', 'vflip'"):
        check_variants(given, [["a"]])  # type: ignore[arg-type]


def test_variants_of_an_unknown_product_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.variants names \['c'\], .*\['a', 'b'\]"):
        check_variants({"c": ["hflip"]}, [["a", "b"]])
    check_variants({"b": ["hflip"]}, [["a"], ["b"]])


def test_a_quarter_turn_needs_square_images() -> None:
    inside = torch.ones(4, 6, dtype=torch.bool)
    check_shapes(["a"], ["rot180", "hflip"], (40, 60), inside)
    with pytest.raises(DataError, match="rot90 of 'a' needs square images, got 40 x 60"):
        check_shapes(["a"], ["rot90"], (40, 60), inside)


def test_a_variant_must_leave_the_region_of_interest_where_it_is() -> None:
    inside = torch.ones(4, 4, dtype=torch.bool)
    inside[:, 0] = False
    check_shapes(["a"], ["vflip", "darker"], (40, 40), inside)
    with pytest.raises(DataError, match="hflip of 'a' moves its region of interest"):
        check_shapes(["a"], ["hflip"], (40, 40), inside)
    check_shapes(["a"], {"b": ["hflip"]}, (40, 40), inside)


def test_a_picture_is_shown_as_the_variant_that_was_scored() -> None:
    image = noise(30, 50).permute(1, 2, 0).numpy()
    picture = Image.fromarray(image)
    assert apply_variant(picture, None) is picture
    assert np.array_equal(np.asarray(apply_variant(picture, "hflip")), np.fliplr(image))


def test_a_fit_learns_from_variants_and_leaves_all_of_an_image_out(tmp_path: Path) -> None:
    draw_product(tmp_path, "a", 0, train=12)
    for path in (tmp_path / "a" / "train" / "good").iterdir():
        half = np.asarray(Image.open(path).convert("RGB"))[:, : SIZE // 2]
        # its mirror image is the image itself
        Image.fromarray(np.concatenate((half, half[:, ::-1]), 1)).save(path)
    options: dict[str, object] = {"val_fraction": 0.25}
    data = {**options, "variants": {"a": ["hflip"]}}
    module, plain = (
        fit(tmp_path / name, tmp_path, ["a"], epochs=1, data=given, model={"score": "bank"})
        for name, given in (("run", data), ("plain", options))
    )
    task, without = module.schedule.tasks[0], plain.schedule.tasks[0]
    assert task.calibration is not None
    assert without.calibration is not None
    assert task.calibration.images == without.calibration.images
    training = task.calibration.training
    assert training.images == without.calibration.training.images
    assert task.split != without.split
    # in the bank there is an image's own mirror image, from which nothing would be far
    assert min(training.scores) > 0.8 * min(without.calibration.training.scores)
