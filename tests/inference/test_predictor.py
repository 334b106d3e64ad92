import copy
import csv
import io
import multiprocessing
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from moleflow_pl import ContinualDataModule, MoLEFlow, Predictor
from moleflow_pl.data.image_forms import as_rgb
from moleflow_pl.errors import CheckpointError, ConfigError, DataError
from moleflow_pl.inference.predictor import BATCH, auto_device

# imported by learning, reports or exports, or by libraries for features that inspecting never uses
HEAVY = {
    "jsonargparse", "lightning", "matplotlib", "onnx", "pandas", "scipy.optimize", "scipy.stats",
    "sklearn", "sympy", "torch._dynamo", "torch.distributed.fsdp", "torchmetrics",
}  # fmt: skip
FIRST_DECISION = """
import sys
from PIL import Image
import moleflow_pl.service.server
from moleflow_pl import Predictor
prediction = Predictor.load(sys.argv[1])(Image.new("RGB", (80, 60)))
print(prediction.label, *sys.modules)
"""


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


def test_brightness_of_a_prediction_is_the_mean_of_its_image(
    predictor: Predictor, paths: list[Path]
) -> None:
    image = np.asarray(Image.open(paths[0]).convert("RGB"))
    assert predictor(paths[0]).brightness == pytest.approx(image.mean() / 255, abs=1e-3)


def test_a_fresh_process_or_service_imports_nothing_heavy_before_its_first_decision() -> None:
    checkpoint = Path(__file__).parents[1] / "formats" / "schema1" / "last.ckpt"
    command = [sys.executable, "-c", FIRST_DECISION, str(checkpoint)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    label, *modules = shown.stdout.split()
    assert label in ("normal", "anomalous", "unknown_product")
    assert "timm" in modules
    assert not HEAVY & set(modules)


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
    assert len(asked) == 1  # each frame is answered before the next is grabbed
    assert sum(1 for _ in stream) == 39
    asked.clear()
    next(predictor.stream(images(), batch_size=7))  # type: ignore[arg-type]
    assert len(asked) == 7


def test_a_stream_says_of_each_image_what_a_batch_does(
    predictor: Predictor, paths: list[Path]
) -> None:
    together = [one.score for one in predictor(paths)]
    assert [one.score for one in predictor.stream(paths)] == pytest.approx(together, rel=1e-5)
    for options in ({"batch_size": 0}, {"channels": "grb"}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            next(predictor.stream(paths, **options))  # type: ignore[arg-type]


def test_frames_of_opencv_are_taken_in_its_order_of_channels(predictor: Predictor) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    expected, (frame, *_) = predictor(rgb).score, [np.ascontiguousarray(rgb[..., ::-1])]
    assert predictor(frame).score != expected
    tensor = torch.from_numpy(frame).permute(2, 0, 1)
    opaque = np.dstack([frame, np.full((48, 48), 255, np.uint8)])
    for form in (frame, tensor, opaque):
        assert predictor(form, channels="bgr").score == expected
        assert next(predictor.stream([form], channels="bgr")).score == expected
    # a picture and grey know their own order
    for form in (Image.fromarray(rgb), rgb[..., 0]):
        assert predictor(form, channels="bgr").score == predictor(form).score


def test_a_model_goes_where_there_is_a_gpu_by_itself(
    learned: tuple[Path, MoLEFlow], monkeypatch: pytest.MonkeyPatch
) -> None:
    for available, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda here=available: here)
        assert auto_device().type == kind
    assert Predictor.load(learned[0]).inspector.device.type == "cpu"


def test_a_product_can_be_forced(learned: tuple[Path, MoLEFlow], paths: list[Path]) -> None:
    found = Predictor.load(learned[0] / "last.ckpt", product="01")(paths[0])
    assert found.product == "01"
    assert found.label in ("normal", "anomalous")
    with pytest.raises(ConfigError, match=r"no product '1' in this model: it knows \['01', 'b'\]"):
        Predictor.load(learned[0], product="1")


def test_missing_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="give a run folder or a .ckpt file"):
        Predictor.load(tmp_path)


@pytest.mark.parametrize("path", [None, 3, b"run", "a" * 300, "~no such user/run", "a\0b"])
def test_what_names_no_checkpoint_is_refused_in_one_sentence(path: Any) -> None:
    with pytest.raises(CheckpointError, match="^no checkpoint at .* a run folder or .*.ckpt file$"):
        Predictor.load(path)


@pytest.mark.parametrize("model", [None, "runs/demo", torch.nn.Identity()])
def test_predictor_of_something_else_than_a_model_is_refused(model: Any) -> None:
    with pytest.raises(ConfigError, match="needs a MoLEFlow or an Inspector, got"):
        Predictor(model)


def test_files_bytes_and_generators_are_taken(predictor: Predictor, paths: list[Path]) -> None:
    expected = [one.score for one in predictor(paths[:2])]
    contents = [path.read_bytes() for path in paths[:2]]
    for images in (contents, map(io.BytesIO, contents), (path for path in paths[:2])):
        assert [one.score for one in predictor(images)] == expected  # type: ignore[arg-type]
    with paths[0].open("rb") as file:
        assert predictor(file).label == predictor(contents[0]).label
    assert predictor([]) == predictor(iter(())) == predictor(np.zeros((0, 8, 8, 3), np.uint8)) == []


def test_what_is_no_image_is_refused_in_one_sentence(predictor: Predictor, tmp_path: Path) -> None:
    empty = [Image.new("RGB", (0, 0)), Image.new("L", (0, 4)), np.zeros((0, 4))]
    names = ["no such.png", "a" * 300 + ".png", "~no such user/a.png"]
    for image in (None, [None], 1, {}, b"", tmp_path, *empty, *names):
        with pytest.raises(DataError) as error:
            predictor(image)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("image", [None, "a.png", np.zeros((4, 4, 3), np.uint8), b"x"])
def test_a_stream_of_a_single_image_is_refused(predictor: Predictor, image: Any) -> None:
    with pytest.raises(DataError, match="stream needs a list or a generator of images, got"):
        next(predictor.stream(image))


@contextmanager
def float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def meta_by_default() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize(
    "mode", [torch.inference_mode, torch.no_grad, float64_by_default, meta_by_default]
)
def test_loading_and_scoring_do_not_depend_on_the_callers_modes(
    mode: Callable[[], AbstractContextManager], learned: tuple[Path, MoLEFlow], paths: list[Path],
    predictor: Predictor,
) -> None:  # fmt: skip
    expected = predictor(paths)
    with mode():
        default = torch.get_default_dtype()
        loaded = Predictor.load(learned[0])
        module = MoLEFlow.load_from_checkpoint(learned[0] / "last.ckpt")
        assert torch.get_default_dtype() == default
        inside = [loaded(paths), Predictor(module)(paths)]
    for found in (*inside, loaded(paths)):
        for one, other in zip(found, expected, strict=True):
            assert (one.score, one.label) == (other.score, other.label)
            assert one.novelty_ratio == other.novelty_ratio
    # what was loaded in inference mode can be trained
    module.inspector.flow.reference_mean.add_(1)
    assert not any(p.is_inference() for p in module.parameters())


@pytest.mark.parametrize("change", ["half", "double", "bfloat16"])
def test_another_precision_is_refused_in_one_sentence(
    change: str, learned: tuple[Path, MoLEFlow], paths: list[Path]
) -> None:
    predictor = Predictor.load(learned[0])
    getattr(predictor.inspector, change)()
    with pytest.raises(ConfigError, match="computes in float32: load it again"):
        predictor(paths[0])


def test_a_predictor_can_be_pickled_and_copied(predictor: Predictor, paths: list[Path]) -> None:
    expected = [one.score for one in predictor(paths)]
    for other in (pickle.loads(pickle.dumps(predictor)), copy.deepcopy(predictor)):
        assert [one.score for one in other(paths)] == expected
        state = other.inspector.state_dict()
        other.inspector.load_state_dict(state)
        assert other.inspector.router is not predictor.inspector.router
    (found,) = pickle.loads(pickle.dumps(predictor(paths[:1])))
    assert found.score == expected[0]


def test_loading_into_a_copy_leaves_the_router_of_the_first_alone(predictor: Predictor) -> None:
    first = predictor.inspector.router
    prepared = first.prepared()
    other = copy.deepcopy(predictor).inspector
    other.load_state_dict(other.state_dict())
    assert first.prepared() is prepared


def score_in_process(predictor: Predictor, path: Path, results: Any) -> None:
    results.put(predictor(path).score)


@pytest.mark.slow  # importing torch again takes seconds; pickling is tested above
def test_a_spawned_process_takes_a_predictor(predictor: Predictor, paths: list[Path]) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=score_in_process, args=(predictor, paths[0], results))
    process.start()
    assert results.get(timeout=120) == pytest.approx(predictor(paths[0]).score)
    process.join()


def test_one_image_at_its_own_size_is_in_memory_at_a_time(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref] = []
    most = 0

    def watching(image: object, channels: str) -> Image.Image:
        nonlocal most
        rgb = as_rgb(image)  # type: ignore[arg-type]
        alive.append(weakref.ref(rgb))
        most = max(most, sum(one() is not None for one in alive))
        return rgb

    monkeypatch.setattr("moleflow_pl.inference.predictor.as_rgb", watching)
    assert len(predictor([np.zeros((64, 64, 3), np.uint8)] * BATCH)) == BATCH
    assert len(alive) == BATCH
    assert most == 1
