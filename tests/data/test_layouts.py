from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow_pl.data.layouts import ELPVLayout, MVTecLayout, check_name, task_groups
from moleflow_pl.errors import DataError
from tests.conftest import draw_product


def test_mvtec_tree_is_read_as_it_is_laid_out(data_root: Path) -> None:
    layout = MVTecLayout(data_root)
    assert layout.products() == ["01", "b", "c"]
    assert [record.path.name for record in layout.train("b")] == [f"{i:03d}.png" for i in range(6)]
    test = layout.test("b")
    assert [record.gt_label for record in test] == [0, 0, 0, 1, 1, 1]
    assert [record.mask and record.mask.name for record in test[2:4]] == [None, "000_mask.png"]
    assert all(record.has_masks for record in test)


def test_product_without_masks_has_none(data_root: Path) -> None:
    assert not any(record.has_masks or record.mask for record in MVTecLayout(data_root).test("c"))


def test_one_missing_mask_is_told_of_and_no_error_yet(tmp_path: Path) -> None:
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
    with pytest.raises(DataError, match=r"no product 'x' in .*there are \['01', 'b', 'c'\]"):
        MVTecLayout(data_root).train("x")


def test_empty_train_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a" / "train" / "good").mkdir(parents=True)
    with pytest.raises(DataError, match="no image to learn 'a' from in .*a/train/good"):
        MVTecLayout(tmp_path).train("a")


def test_product_without_test_folder_has_no_test_images(tmp_path: Path) -> None:
    draw_product(tmp_path, "a", 0)
    (tmp_path / "a" / "test").rename(tmp_path / "a" / "later")
    assert MVTecLayout(tmp_path).test("a") == []


@pytest.fixture
def elpv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ELPVLayout:
    package = tmp_path / "elpv_dataset"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").touch()
    rows = [
        f"images/cell{i:04d}.png  {probability}  {kind}"
        for i, (probability, kind) in enumerate(
            [(0.0, "mono"), (1.0, "mono"), (0.0, "mono"), (0.3333333, "mono"), (0.0, "mono"),
             (0.6666666, "poly"), (0.0, "poly"), (1.0, "poly")]
        )
    ]  # fmt: skip
    (package / "data" / "labels.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name: type("Spec", (), {"origin": str(package / "__init__.py")}),
    )
    return ELPVLayout()


def test_solar_cells_are_split_by_rule_and_doubtful_ones_left_out(elpv: ELPVLayout) -> None:
    assert elpv.products() == ["solar_mono", "solar_poly"]
    train = [record.path.name for record in elpv.train("solar_mono")]
    test = [(record.path.name, record.gt_label) for record in elpv.test("solar_mono")]
    assert train == ["cell0000.png", "cell0004.png"]
    assert test == [("cell0002.png", 0), ("cell0001.png", 1)]
    assert [record.path.name for record in elpv.train("solar_poly")] == ["cell0006.png"]


def test_unknown_kind_of_cell_lists_those_there_are(elpv: ELPVLayout) -> None:
    with pytest.raises(DataError, match=r"there are \['solar_mono', 'solar_poly'\]"):
        elpv.train("mono")


def test_elpv_without_its_package_or_with_a_root_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(DataError, match="--data.layout mvtec"):
        ELPVLayout("/data")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install"):
        ELPVLayout()


def test_task_list_may_hold_groups_and_numbers() -> None:
    assert task_groups(["a", ["b", 3], 7]) == [["a"], ["b", "3"], ["7"]]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "at least one product"),
        ([[]], "at least one product"),
        (["a", ["b", "a"]], r"\['a'\] more than once"),
        (["../a"], "no name for a product"),
        ([".."], "no name for a product"),
        ([" "], "no name for a product"),
        (["a\\b"], "no name for a product"),
        (["line\nbreak"], "no name for a product"),
        (["x" * 300], "at most 200 bytes"),
        ([["x" * 150, "y" * 150]], "longer than 200 bytes together"),
        (["a+b", ["a", "b"]], "one name"),
    ],
)
def test_bad_task_lists_are_refused(tasks: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        task_groups(tasks)


NAMES = [
    "a.b",
    "a b",
    "it's",
    'say "x"',
    "<script>alert(1)<|script>",
    "a..b",
    "..a",
    "ネジ",
    "[red]",
]


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_of_folders_are_names_of_products(name: str) -> None:
    assert task_groups([name]) == [[name]]


@given(st.text(max_size=300))
@settings(max_examples=300)
def test_every_name_is_refused_or_that_of_a_file_in_the_folder(name: str) -> None:
    try:
        check_name(name)
    except DataError:
        return
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"00-{name}.ckpt.part"
        path.touch()
        assert path.parent.samefile(folder)
        assert [p.name for p in Path(folder).iterdir()] == [path.name]
