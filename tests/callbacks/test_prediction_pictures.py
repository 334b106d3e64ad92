import json
from pathlib import Path

import pytest

from moleflow_pl._internal.result_names import PICTURE_NAMES_FILE
from moleflow_pl.callbacks.prediction_pictures import (
    read_names,
    remove_pictures,
    write_names,
)
from moleflow_pl.errors import DataError

ENDINGS = {"heatmaps": ".jpg", "masks": ".png"}


def test_names_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_names(tmp_path) == {}
    names = {"/in/=1\\udcff.png": "=1\udcff", "/in/a/b.png": "a/b"}
    write_names(tmp_path, names)
    assert read_names(tmp_path) == names


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/a", 3, None])
def test_name_that_leads_to_other_files_is_refused(name: object, tmp_path: Path) -> None:
    (tmp_path / PICTURE_NAMES_FILE).write_text(json.dumps({"/a.png": name}))
    with pytest.raises(
        DataError, match=r"pictures\.json is damaged: .* is not the name of a picture"
    ):
        read_names(tmp_path)


def test_named_pictures_are_removed_with_the_folders_that_become_empty(tmp_path: Path) -> None:
    kept = ["heatmaps/b/2.jpg", "heatmaps/a/1.txt", "maps/a/1.npy"]
    for name in [*kept, "heatmaps/a/1.jpg", "masks/a/1.png", "heatmaps/b/1.jpg"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    remove_pictures(tmp_path, ["a/1", "b/1", "c/1"], ENDINGS)
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")} == set(kept)
    assert not (tmp_path / "masks").exists()
