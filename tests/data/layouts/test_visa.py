from pathlib import Path

import pytest
from PIL import Image

from moleflow_pl.data.layouts.visa import VisALayout
from moleflow_pl.errors import DataError

ROWS = """object,split,label,image,mask
candle,train,normal,candle/Data/Images/Normal/0836.JPG,
candle,train,normal,candle/Data/Images/Normal/0451.JPG,
candle,test,normal,candle/Data/Images/Normal/0001.JPG,
candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png
pcb1,train,normal,pcb1/Data/Images/Normal/0000.JPG,
"""


@pytest.fixture
def visa(tmp_path: Path) -> Path:
    """VisA in small, with the names of the real one."""
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv" / "1cls.csv").write_text(ROWS)
    for line in ROWS.splitlines()[1:]:
        for name in filter(None, line.split(",")[3:]):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (2, 2)).save(tmp_path / name, format="png")
    # images that the list leaves out take no part
    Image.new("L", (2, 2)).save(tmp_path / "candle/Data/Images/Normal/0999.JPG", format="png")
    return tmp_path


def test_visa_is_split_by_its_own_list(visa: Path) -> None:
    layout = VisALayout(visa)
    assert layout.products() == ["candle", "pcb1"]
    assert [r.path.name for r in layout.train("candle")] == ["0451.JPG", "0836.JPG"]
    bad, good = layout.test("candle")
    assert (bad.path.name, bad.defect, bad.gt_label) == ("000.JPG", "anomaly", 1)
    assert bad.mask == visa / "candle/Data/Masks/Anomaly/000.png"
    assert (good.path.name, good.gt_label, good.mask, good.has_masks) == ("0001.JPG", 0, None, True)
    assert layout.test("pcb1") == []


def test_a_defective_image_in_the_training_part_is_not_learned_from(visa: Path) -> None:
    path = visa / "split_csv" / "1cls.csv"
    path.write_text(path.read_text().replace("candle,test,anomaly", "candle,train,anomaly"))
    assert len(VisALayout(visa).train("candle")) == 2


def test_visa_says_what_is_missing(visa: Path) -> None:
    with pytest.raises(DataError, match=r"no product 'pcb9'.*it has \['candle', 'pcb1'\]"):
        VisALayout(visa).train("pcb9")
    (visa / "candle/Data/Masks/Anomaly/000.png").unlink()
    (visa / "candle/Data/Images/Normal/0451.JPG").unlink()
    with pytest.raises(DataError, match="1cls.csv names .*0451.JPG, which does not exist"):
        VisALayout(visa).train("candle")
    path = visa / "split_csv" / "1cls.csv"
    path.write_text("image,label\n")
    with pytest.raises(DataError, match=r"has the columns \['image', 'label'\]"):
        VisALayout(visa)
    path.unlink()
    with pytest.raises(DataError, match=r"(?s)the list .*1cls.csv is missing; .*spot-diff"):
        VisALayout(visa)


def test_a_missing_mask_of_visa_is_a_warning_and_no_error(visa: Path) -> None:
    path = visa / "split_csv" / "1cls.csv"
    mask = visa / "candle/Data/Masks/Anomaly/000.png"
    mask.unlink()
    bad, good = VisALayout(visa).test("candle")
    assert (bad.lacks_mask, bad.mask, bad.expected_mask) == (True, None, mask)
    assert not good.lacks_mask
    line = "candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,"
    path.write_text(path.read_text() + line + "\n")
    expected = [r.expected_mask for r in VisALayout(visa).test("candle") if r.lacks_mask]
    assert expected == [mask, path]
