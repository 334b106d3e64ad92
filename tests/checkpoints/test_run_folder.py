from pathlib import Path

from moleflow_pl.checkpoints.run_folder import RunFolder, free_name


def test_run_of_a_checkpoint_and_free_names(tmp_path: Path) -> None:
    assert (
        RunFolder.of(tmp_path / "tasks" / "00-a.ckpt").root
        == RunFolder.of(tmp_path / "last.ckpt").root
        == tmp_path
    )
    (tmp_path / "a.csv").touch()
    (tmp_path / "a~1.csv").touch()
    assert free_name(tmp_path / "a.csv").name == "a~2.csv"
