import pytest

from benchmarks import memory
from tests.helpers.benchmarks import last_rows, run_script


def test_memory_of_predict_is_measured_with_all_that_it_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script(memory.main, monkeypatch, "predict", "--images=90") == 0
    rows = last_rows(capsys)
    assert (rows["rows"]["value"], rows["heatmaps"]["value"]) == (90, 90)


def test_prediction_that_writes_too_little_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = memory.draw

    def draw_fewer(folder: memory.Path, count: int) -> None:
        whole(folder, count - (folder.name == "new"))

    monkeypatch.setattr(memory, "draw", draw_fewer)
    assert run_script(memory.main, monkeypatch, "predict", "--images=20") == 1
    missed = [what for what, row in last_rows(capsys).items() if not row["holds"]]
    assert missed == ["rows", "heatmaps"]


def test_memory_that_grows_with_the_images_is_beyond_the_limit() -> None:
    log = memory.MemoryLog()
    log.samples = [float(batch) for batch in range(100)]  # a megabyte a batch
    assert log.grown_mb == 80
    assert log.grown_mb > memory.MOST_PREDICT_MB


@pytest.mark.parametrize(("most", "code"), [(4.0, 0), (0.001, 1)])
def test_peak_of_learning_is_judged_by_its_limit(
    most: float,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(memory, "MOST_FIT_GB", most)
    monkeypatch.setattr(memory, "in_fresh_process", lambda function, **given: function(**given))
    assert run_script(memory.main, monkeypatch, "fit", "--small", "--images=20") == code
    (row,) = last_rows(capsys).values()
    assert 0.05 < row["value"] < 4


@pytest.mark.parametrize(("peak", "least", "code"), [(4.0, 0, 0), (0.001, 1e6, 1)])
def test_memory_and_time_of_many_products_are_judged_by_their_limits(
    peak: float,
    least: float,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(memory, "MOST_PRODUCTS_GB", peak)
    monkeypatch.setattr(memory, "LEAST_THROUGHPUT", least)
    monkeypatch.setattr(memory, "VECTORS", 20)
    monkeypatch.setattr(memory, "in_fresh_process", lambda function, **given: function(**given))
    assert run_script(memory.main, monkeypatch, "products", "--small", "--products=3") == code
    rows = last_rows(capsys)
    assert [row["holds"] for row in rows.values()] == [not code, not code]
    assert list(rows) == ["peak anonymous memory, 3 products", "throughput, 3 products against 1"]
