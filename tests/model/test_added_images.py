from collections.abc import Callable

import pytest
import torch

from moleflow_pl import MoLEFlow
from moleflow_pl.data.batches import Batch
from moleflow_pl.errors import ConfigError
from moleflow_pl.model.added_images import FOLDS, NEW_SHARE, add_good_images, banks_of
from tests.helpers.models import some_tasks
from tests.helpers.products import SIZE

Build = Callable[..., MoLEFlow]


def batches(count: int, seed: int = 0) -> list[Batch]:
    """Batches of one image each."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    return [
        {"image": image[None], "product": ["p0"], "path": [f"reviewed/{i}.png"]}
        for i, image in enumerate(images)
    ]


def built(tiny_model: Build, **options: object) -> MoLEFlow:
    torch.manual_seed(0)
    return some_tasks(tiny_model(**options), 2)


@torch.no_grad()
def scores(model: MoLEFlow, images: list[Batch], task: int = 0) -> list[float]:
    inspector = model.inspector
    return [inspector.inspect(inspector.features(one), task).score.item() for one in images]


def frozen(model: MoLEFlow) -> dict[str, torch.Tensor]:
    """All that a model holds, but the banks of its first task."""
    state = model.inspector.state_dict()
    return {k: v.clone() for k, v in state.items() if not k.startswith("banks.0.")}


@pytest.mark.parametrize("score", ["bank", ["depths", "groups"]])
def test_images_in_the_bank_score_lower_and_all_else_is_equal_to_the_bit(
    score: object, tiny_model: Build
) -> None:
    model, images = built(tiny_model, score=score), batches(3)
    before, rest, other = scores(model, images), frozen(model), scores(model, images, 1)
    scale = [part.scale.clone() for part in model.inspector.memory(0).values()]
    add_good_images(model.inspector, 0, seed=0, for_bank=images)
    assert all(now < then for now, then in zip(scores(model, images), before, strict=True))
    assert scores(model, images, 1) == other
    now = frozen(model)
    assert rest.keys() == now.keys()
    assert all(torch.equal(tensor, now[key]) for key, tensor in rest.items())
    assert [part.scale for part in model.inspector.memory(0).values()] == scale


def test_image_in_the_bank_is_calibrated_without_itself(tiny_model: Build) -> None:
    model, (image,) = built(tiny_model, score="bank"), batches(1)
    (before,) = scores(model, [image])
    add_good_images(model.inspector, 0, seed=0, for_bank=[image])
    calibration = model.schedule.tasks[0].calibration
    assert calibration is not None
    assert calibration.scores == pytest.approx([1.0, 2.0, 4.0, before])
    assert scores(model, [image])[0] < before


def test_each_part_of_the_images_is_calibrated_with_the_others_in_the_bank(
    tiny_model: Build,
) -> None:
    """Twins in different parts: each is in the bank that the other is scored with."""
    model, images = built(tiny_model, score="bank"), batches(1) * FOLDS
    (before,) = scores(model, images[:1])
    add_good_images(model.inspector, 0, seed=0, for_bank=images)
    calibration = model.schedule.tasks[0].calibration
    assert calibration is not None
    assert len(calibration.scores) == 3 + FOLDS
    assert max(calibration.scores[3:]) < before


def test_further_images_are_calibrated_and_leave_the_bank_alone(tiny_model: Build) -> None:
    model, images = built(tiny_model, score="bank"), batches(2)
    bank, before = banks_of(model.inspector, 0)["bank"][0].clone(), scores(model, images)
    add_good_images(model.inspector, 0, seed=0, others=images)
    calibration = model.schedule.tasks[0].calibration
    assert calibration is not None
    assert calibration.scores == pytest.approx([1.0, 2.0, 4.0, *before])
    assert len(calibration.damaged_novelty_distances) == 5
    assert torch.equal(banks_of(model.inspector, 0)["bank"][0], bank)


def test_bank_grows_by_a_share_of_the_patches_within_its_limit(tiny_model: Build) -> None:
    for megabytes, most in ((4.0, None), (0.001, 20)):
        model = built(tiny_model, score="bank", bank_mb=megabytes)
        add_good_images(model.inspector, 0, seed=0, for_bank=batches(3))
        height, width, _ = model.inspector.extractor.shape
        grown = 20 + 3 * height * width // NEW_SHARE
        assert len(banks_of(model.inspector, 0)["bank"][0]) == (most or grown)


def test_same_images_give_the_same_bank(tiny_model: Build) -> None:
    banks = []
    for _ in range(2):
        model = built(tiny_model, score="bank")
        add_good_images(model.inspector, 0, seed=0, for_bank=batches(2))
        banks.append(banks_of(model.inspector, 0)["bank"][0])
    assert torch.equal(*banks)


def test_score_without_banks_is_calibrated_alone(tiny_model: Build) -> None:
    model = built(tiny_model, score="norm")
    add_good_images(model.inspector, 0, seed=0, for_bank=batches(2))
    calibration = model.schedule.tasks[0].calibration
    assert calibration is not None
    assert len(calibration.scores) == 5
    assert banks_of(model.inspector, 0) == {}


def test_task_without_calibration_is_refused(tiny_model: Build) -> None:
    model = built(tiny_model, score="bank")
    model.schedule.tasks[0].calibration = None
    with pytest.raises(ConfigError, match="'p0' has no calibration images and so no threshold"):
        add_good_images(model.inspector, 0, seed=0, for_bank=batches(1))
