from pathlib import Path

import pytest
import torch

from moleflow_pl.checkpoint import STATE_KEY, check_state, differences, plain, read_checkpoint
from moleflow_pl.errors import CheckpointError

STATE = {"backbone": {"backbone": "a", "dim": 8}, "structure": {"lora_rank": 4}}


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_a_file_that_fits_is_taken() -> None:
    assert check_state({STATE_KEY: STATE}, STATE["backbone"], STATE["structure"]) == STATE


def test_another_backbone_is_refused_and_named() -> None:
    with pytest.raises(CheckpointError, match="another backbone.*dim: file 8, model 16"):
        check_state({STATE_KEY: STATE}, {"backbone": "a", "dim": 16}, STATE["structure"])


def test_other_model_arguments_are_refused_and_named() -> None:
    with pytest.raises(CheckpointError, match="lora_rank: file 4, model 2"):
        check_state({STATE_KEY: STATE}, STATE["backbone"], {"lora_rank": 2})


def test_foreign_checkpoint_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no MoLE-Flow checkpoint"):
        check_state({"state_dict": {}}, {}, {})


def test_foreign_damaged_and_missing_files_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "text.ckpt").write_text("no checkpoint at all")
    whole = (tmp_path / "foreign.ckpt").read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    for name in ("foreign", "empty", "text", "half", "missing"):
        with pytest.raises(CheckpointError, match=f"{name}.ckpt"):
            read_checkpoint(tmp_path / f"{name}.ckpt")


def test_reading_runs_no_code_of_the_file(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    torch.save({STATE_KEY: Bomb(touched)}, tmp_path / "bomb.ckpt")
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        read_checkpoint(tmp_path / "bomb.ckpt")
    assert not touched.exists()


def test_differences_are_told_in_words() -> None:
    assert differences({"a": 1}, {"a": 1}) == ""
    assert differences({"a": 1}, {"b": 2}) == "a: file 1, model None; b: file None, model 2"


def test_plain_leaves_dicts_lists_strings_and_numbers() -> None:
    value = {"a": (1, 2.5, None), "b": {"c": Path("x")}, "d": True}
    assert plain(value) == {"a": [1, 2.5, None], "b": {"c": "x"}, "d": True}
