from pathlib import Path

from moleflow_pl.service.learn import write_progress
from moleflow_pl.service.products import progress_of


def test_progress_is_read_as_it_was_told(tmp_path: Path) -> None:
    """`test_products.py` runs the process."""
    assert progress_of(tmp_path) == {}
    write_progress(tmp_path, share=0.5)
    assert progress_of(tmp_path) == {"share": 0.5}
    (tmp_path / "progress.json").write_text("[")
    assert progress_of(tmp_path) == {}
