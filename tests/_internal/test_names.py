import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow_pl._internal.names import (
    LONGEST_NAME,
    check_name,
    folders_of,
    is_file_name,
    name_limits,
    output_file,
    stems,
)
from moleflow_pl.errors import DataError

GOOD = ("a", "metal nut", "x.y", "..x", "<b>'\"", "ネジ", "a" * LONGEST_NAME)
BAD = ("", " a", "a ", ".", "..", "a/b", "/a", "a\\b", "a\0b", "a\nb", "\ud800")


@pytest.mark.parametrize("name", GOOD)
def test_name_of_a_folder_is_taken(name: str) -> None:
    assert is_file_name(name)
    check_name(name)


@pytest.mark.parametrize("name", BAD)
def test_name_that_leads_elsewhere_or_cannot_be_written_is_refused(name: str) -> None:
    assert not is_file_name(name)
    with pytest.raises(DataError, match="not a valid product name"):
        check_name(name)


def test_name_that_is_too_long_is_refused_and_shortened() -> None:
    with pytest.raises(DataError, match=f"'{'a' * 40}…' is not a valid") as error:
        check_name("a" * (LONGEST_NAME + 1))
    assert len(str(error.value)) < 250


@given(st.text(max_size=300))
@settings(max_examples=120)
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


def test_an_output_has_the_inputs_name_where_that_fits(tmp_path: Path) -> None:
    assert output_file(tmp_path / "x", "a/b.png", ".jpg") == tmp_path / "x" / "a" / "b.png.jpg"
    longest, _ = name_limits(tmp_path)
    name = "b" * (longest - len(".jpg"))
    assert output_file(tmp_path, name, ".jpg").name == f"{name}.jpg"


@pytest.mark.parametrize("letter", ["x", "é", "\udcff"])
def test_outputs_of_names_that_are_too_long_can_be_written_and_differ(
    letter: str, tmp_path: Path
) -> None:
    room = 251 // len(os.fsencode(letter))
    names = [f"{letter * room}{ending}" for ending in (".png", ".bmp", ".PNG", "y.png")]
    targets = [output_file(tmp_path, name, ".tiff") for name in names]
    for target in targets:
        target.touch()
    assert len(list(tmp_path.iterdir())) == len(names)
    assert targets[0] == output_file(tmp_path, names[0], ".tiff")


def test_a_path_that_is_too_long_becomes_a_hash(tmp_path: Path) -> None:
    deep = "/".join(["d" * 200] * 25)
    targets = [output_file(tmp_path, f"{deep}/{name}.png", ".jpg") for name in "ab"]
    for target in targets:
        target.touch()
    assert {target.parent for target in targets} == {tmp_path}
    assert len(set(targets)) == 2


def test_names_without_endings_stay_different() -> None:
    names = ["a.png", "a.bmp", "a.png.jpg", "deep/a.png", "b.tar.png", "none"]
    found = stems(names)
    assert list(found) == names
    assert found["deep/a.png"] == "deep/a"
    assert found["b.tar.png"] == "b.tar"
    assert found["none"] == "none"
    assert len(set(found.values())) == len(names)


def test_no_output_has_the_name_of_a_folder_or_of_an_output_that_stays() -> None:
    names = ["x.png", "x.png.jpg/a.png", "x.jpg/a.png", "x.jpg/b.png", "y.jpg/c.png", "z.png"]
    settled = {"y.png": "y", "q.png": "z"}
    found = stems(names, [".jpg"], settled)
    assert found["x.png"].startswith("x.png~")
    assert found["x.jpg/a.png"] == "x.jpg/a"
    assert found["y.jpg/c.png"].startswith("c.png~")
    assert found["z.png"] == "z.png"
    assert found["y.png"] == "y"
    outputs = {f"{stem}.jpg" for stem in found.values()}
    assert len(outputs) == len(found)
    assert outputs.isdisjoint(folder for stem in found.values() for folder in folders_of(stem))
