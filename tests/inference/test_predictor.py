import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from moleflow_pl import ContinualDataModule, MoLEFlow, Predictor
from moleflow_pl.errors import CheckpointError, ConfigError
from moleflow_pl.inference.predictor import BATCH


@pytest.fixture(scope="module")
def predictor(learned: tuple[Path, MoLEFlow]) -> Predictor:
    return Predictor.load(learned[0])


@pytest.fixture
def paths(data_root: Path) -> list[Path]:
    return sorted((data_root / "b" / "test").rglob("*.png"))


def test_scores_are_those_of_test_from_the_run_folder_alone(
    predictor: Predictor, learned: tuple[Path, MoLEFlow], paths: list[Path]
) -> None:
    with (learned[0] / "report" / "scores.csv").open() as file:
        tested = {row["path"]: float(row["score"]) for row in csv.DictReader(file)}
    found = predictor([Image.open(path) for path in paths])
    for path, one in zip(paths, found, strict=True):
        assert one.score == pytest.approx(tested[str(path)], rel=1e-5)
        assert one.product == "b"
    assert predictor.products == ["01", "b"]


def test_equal_batches_score_bit_for_bit(predictor: Predictor, paths: list[Path]) -> None:
    first, second = predictor(paths), predictor([Image.open(path) for path in paths])
    assert [one.score for one in first] == [one.score for one in second]


def test_scores_are_those_of_test_bit_for_bit_at_equal_batches(
    learned: tuple[Path, MoLEFlow], data_root: Path
) -> None:
    predictor, module = Predictor.load(learned[0]), learned[1].eval()
    data = ContinualDataModule(str(data_root), ["01", "b"], batch_size=BATCH, num_workers=0)
    data.follow(module.data_plan, Path())
    (batch,) = data.test_loader(1)
    with torch.inference_mode():
        tested = module.test_step(batch, 0)
    found = predictor([Path(path) for path in batch["path"]])
    assert [one.score for one in found] == tested["routed_score"].tolist()
    assert torch.equal(torch.stack([one.patch_scores for one in found]), tested["routed_map"])


def test_every_form_of_an_image_is_the_same_image(predictor: Predictor, paths: list[Path]) -> None:
    image = Image.open(paths[0]).convert("RGB")
    array = np.asarray(image)
    expected = predictor(image)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    grey = array[..., 0]
    forms = [
        paths[0], str(paths[0]), array, tensor, array / 255, tensor / 255, grey, grey[..., None],
        grey.astype(np.uint16) * 257, np.dstack([array, grey]), array.astype(np.float32) / 255,
    ]  # fmt: skip
    for form in forms:
        assert predictor(form).score == pytest.approx(expected.score, rel=1e-6)  # type: ignore[arg-type]
    for batch in (np.stack([array] * 3), torch.stack([tensor] * 3), [image] * 3, (image, grey)):
        found = predictor(batch)  # type: ignore[arg-type]
        assert isinstance(found, list)
        assert [one.score for one in found] == pytest.approx([expected.score] * len(batch))


def test_images_of_any_sizes_get_maps_of_their_own(predictor: Predictor, paths: list[Path]) -> None:
    image = Image.open(paths[-1])
    found = predictor([image, image.resize((100, 60)), image.resize((31, 47))])
    assert [tuple(one.anomaly_map.shape) for one in found] == [(48, 48), (60, 100), (47, 31)]
    # the same square, wherever the pixels are
    boxes = [one.boxes[0] for one in found[:2]]
    assert abs(boxes[1].left / 100 - boxes[0].left / 48) < 0.1
    assert abs(boxes[1].top / 60 - boxes[0].top / 48) < 0.1


def test_a_stream_takes_more_images_than_memory_would(predictor: Predictor) -> None:
    def images() -> object:
        for i in range(40):
            asked.append(i)
            yield np.full((8, 8), i, np.uint8)

    asked: list[int] = []
    stream = predictor.stream(images())  # type: ignore[arg-type]
    next(stream)
    assert len(asked) == 16
    assert sum(1 for _ in stream) == 39


def test_a_product_can_be_forced(learned: tuple[Path, MoLEFlow], paths: list[Path]) -> None:
    found = Predictor.load(learned[0] / "last.ckpt", product="01")(paths[0])
    assert found.product == "01"
    assert found.label in ("normal", "anomalous")
    with pytest.raises(ConfigError, match=r"no product '1': the model knows \['01', 'b'\]"):
        Predictor.load(learned[0], product="1")


def test_where_there_is_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="give a run folder or a .ckpt file"):
        Predictor.load(tmp_path)
