import pytest

from moleflow_pl.data.layouts.registry import LAYOUTS
from moleflow_pl.data.no_images import no_images


@pytest.mark.parametrize("layout", ["folder", "mvtec"])
def test_who_predicts_without_images_is_told_to_give_some(layout: str) -> None:
    said = str(no_images("predict", ["b"], layout, "good"))
    assert said.startswith("no image to predict")
    assert "give images: moleflow predict RUN IMAGES" in said
    assert "--data.root" not in said


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_where_test_images_may_be_depends_on_the_layout(layout: str) -> None:
    said = str(no_images("test", ["b"], layout, "data"))
    assert said.startswith("no image to test of the learned tasks ['b']")
    if layout == "folder":
        assert "layout folder has no test images" in said
        assert said.endswith("--data.layout mvtec --data.root DATA")
    else:
        assert said.endswith(
            f"in data.root data (layout {layout}): set --data.root to their folder"
        )


def test_good_images_are_looked_for_in_another_folder_of_any_layout() -> None:
    for part in ("train", "val"):
        said = str(no_images(part, ["b"], "folder", "moved"))  # type: ignore[arg-type]
        assert said.endswith("in data.root moved (layout folder): set --data.root to their folder")
