from pathlib import Path

from moleflow_pl import MoLEFlow
from tests.conftest import fit


def test_last_checkpoint_keeps_its_name_in_a_used_folder(tmp_path: Path, data_root: Path) -> None:
    for _ in range(2):
        fit(tmp_path, data_root, ["b"], epochs=1, callbacks=[])
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["last.ckpt"]


def test_last_checkpoint_has_the_last_evaluation(learned: tuple[Path, MoLEFlow]) -> None:
    loaded = MoLEFlow.load_from_checkpoint(learned[0] / "last.ckpt")
    assert loaded.schedule.tasks[-1].evaluation is not None
