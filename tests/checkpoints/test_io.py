import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from moleflow_pl._internal.schema import SEAL
from moleflow_pl.checkpoints.io import (
    earlier,
    plain,
    read_checkpoint,
    restoring,
    validate_checkpoint,
    verify,
    with_seal,
    write_checkpoint,
)
from moleflow_pl.checkpoints.schema import (
    CONFIG_KEY,
    STATE_KEY,
    differences,
    require_match,
    require_tensors,
)
from moleflow_pl.errors import CheckpointError, OutputError
from tests.helpers.checkpoints import Bomb, bare_checkpoint, save_sealed

STATE = {"backbone": {"backbone": "a", "dim": 8}, "structure": {"lora_rank": 4}}


def test_a_file_that_fits_is_taken() -> None:
    whole = bare_checkpoint(**STATE)
    assert require_match(whole, STATE["backbone"], STATE["structure"]) == whole[STATE_KEY]


def test_another_backbone_is_refused_and_named() -> None:
    with pytest.raises(CheckpointError, match="another backbone.*dim: file 8, model 16"):
        require_match(bare_checkpoint(**STATE), {"backbone": "a", "dim": 16}, STATE["structure"])


def test_other_model_arguments_are_refused_and_named() -> None:
    with pytest.raises(CheckpointError, match="lora_rank: file 4, model 2"):
        require_match(bare_checkpoint(**STATE), STATE["backbone"], {"lora_rank": 2})


def test_foreign_checkpoint_is_refused() -> None:
    with pytest.raises(CheckpointError, match="not a MoLE-Flow checkpoint"):
        validate_checkpoint({"state_dict": {}})


def test_checkpoint_of_another_schema_names_the_version_to_use() -> None:
    whole = bare_checkpoint(schema=2, version="9.9.1")
    with pytest.raises(CheckpointError, match=r"schema 2.* reads schema 1: use version 9.9.1"):
        validate_checkpoint(whole)
    unknown = bare_checkpoint()
    del unknown[STATE_KEY]["schema"]
    with pytest.raises(CheckpointError, match="has no schema"):
        validate_checkpoint(unknown)


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
    with pytest.raises(
        CheckpointError, match="damaged or not a checkpoint: Weights only load failed$"
    ):
        read_checkpoint(tmp_path / "bomb.ckpt")
    assert not touched.exists()


def test_the_checkpoint_before_a_damaged_one_is_offered(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    for name in ("00-a", "01-b"):
        write_checkpoint(bare_checkpoint(), tasks / f"{name}.ckpt")
    (tasks / "02-c.ckpt").write_bytes((tasks / "00-a.ckpt").read_bytes()[:200])
    (tmp_path / "last.ckpt").touch()
    for path, before in ((tmp_path / "last.ckpt", "01-b"), (tasks / "02-c.ckpt", "01-b")):
        with pytest.raises(CheckpointError, match=f"{path.name} is damaged.*--ckpt_path.*{before}"):
            read_checkpoint(path)
    assert earlier(tasks / "01-b.ckpt") == tasks / "00-a.ckpt"
    assert earlier(tasks / "00-a.ckpt") is None


def test_checkpoint_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(bare_checkpoint(seed=1), path)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="last.ckpt: No space left on device"):
        write_checkpoint(bare_checkpoint(seed=2), path)
    assert read_checkpoint(path)[STATE_KEY]["seed"] == 1
    assert list(tmp_path.iterdir()) == [path]


def whole() -> dict[str, Any]:
    """A checkpoint as a file holds it, with a tensor."""
    content: dict[str, Any] = bare_checkpoint("a: 1", seed=3)
    content["state_dict"] = {"a": torch.arange(4.0), "b": torch.zeros(2, 2)}
    return with_seal({**content, "epoch": 2, "optimizer_states": [{"lr": 0.1}]})


CHANGES: list[Callable[[dict], object]] = [
    lambda content: content["state_dict"]["a"].add_(torch.tensor([0, 0, 0, 1e-6])),
    lambda content: content["state_dict"].update(a=torch.arange(4)),
    lambda content: content["state_dict"].update(b=torch.zeros(4)),
    lambda content: content["state_dict"].update(c=content["state_dict"].pop("a")),
    lambda content: content["optimizer_states"][0].update(lr=0.2),
    lambda content: content.update(epoch=3),
    lambda content: content.update(more={}),
    lambda content: content.update({CONFIG_KEY: "a: 2"}),
    lambda content: content[STATE_KEY].update(seed=4),
    lambda content: content[STATE_KEY].update({SEAL: "0" * 64}),
    lambda content: content[STATE_KEY].update({SEAL: None}),
    lambda content: content[STATE_KEY].pop(SEAL),
]


@pytest.mark.parametrize("change", CHANGES)
def test_file_that_does_not_say_what_was_written_is_refused(
    change: Callable[[dict], object], tmp_path: Path
) -> None:
    path, content = tmp_path / "last.ckpt", whole()
    torch.save(content, path)
    read_checkpoint(path)
    change(content)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="last.ckpt cannot be used: it .*undamaged copy"):
        read_checkpoint(path)
    with pytest.raises(CheckpointError, match="use an undamaged copy"), path.open("rb") as file:
        verify(file)


def test_what_was_read_has_no_seal_and_can_be_edited(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_checkpoint(whole(), path)
    content = read_checkpoint(path)
    assert SEAL not in content[STATE_KEY]
    content[STATE_KEY]["seed"] = 7
    write_checkpoint(content, path)
    assert read_checkpoint(path)[STATE_KEY]["seed"] == 7


def test_open_file_is_left_where_it_was(tmp_path: Path) -> None:
    write_checkpoint(whole(), tmp_path / "last.ckpt")
    with (tmp_path / "last.ckpt").open("rb") as file:
        verify(file)
        assert file.tell() == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_parameter_that_is_not_finite_is_refused_by_name(value: float, tmp_path: Path) -> None:
    path, content = tmp_path / "last.ckpt", whole()
    content["state_dict"]["b"][1, 0] = value
    save_sealed(content, path)
    with pytest.raises(CheckpointError, match="its tensor b holds NaN or infinity"):
        read_checkpoint(path)


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    path, content = tmp_path / "last.ckpt", whole()
    write_checkpoint(content, path)
    before = path.read_bytes()
    for change in (
        lambda content: content[STATE_KEY].update(seed=None),
        lambda content: content["state_dict"]["a"].fill_(torch.nan),
    ):
        changed = whole()
        change(changed)
        with pytest.raises(CheckpointError, match="expected a whole number|tensor a holds NaN"):
            write_checkpoint(changed, path)
    assert path.read_bytes() == before


def test_tensors_of_another_model_are_refused() -> None:
    own = {"a": torch.zeros(2), "b": torch.zeros(1)}
    require_tensors({"b": torch.ones(1), "a": torch.ones(2)}, own)
    with pytest.raises(CheckpointError, match=r"a: file \[3\], model \[2\]; b: file None"):
        require_tensors({"a": torch.zeros(3)}, own)


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("bad"), TypeError()])
def test_what_breaks_a_restored_model_names_the_file(error: Exception, tmp_path: Path) -> None:
    said = f"c.ckpt is damaged: {type(error).__name__}"
    with pytest.raises(CheckpointError, match=said), restoring(tmp_path / "c.ckpt"):
        raise error


@pytest.mark.parametrize(
    "error",
    [CheckpointError("said"), OSError("disk"), MemoryError("said"), RuntimeError("allocate said")],
)
def test_errors_not_caused_by_the_checkpoint_pass_through(error: Exception) -> None:
    with pytest.raises(type(error), match="said|disk"), restoring("c.ckpt"):
        raise error


def test_size_that_no_memory_holds_is_damage_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise RuntimeError("can't allocate memory")

    write_checkpoint(whole(), tmp_path / "last.ckpt")
    monkeypatch.setattr(torch, "load", no_memory)
    with pytest.raises(CheckpointError, match="or not a checkpoint: can't allocate memory$"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_differences_are_described_in_words() -> None:
    assert differences({"a": 1}, {"a": 1}) == ""
    assert differences({"a": 1}, {"b": 2}) == "a: file 1, model None; b: file None, model 2"


def test_plain_leaves_dicts_lists_strings_and_numbers() -> None:
    value = {"a": (1, 2.5, None), "b": {"c": Path("x")}, "d": True}
    assert plain(value) == {"a": [1, 2.5, None], "b": {"c": "x"}, "d": True}


def test_reading_leaves_later_threads_of_torch_as_many_cores_as_before(tmp_path: Path) -> None:
    write_checkpoint(bare_checkpoint(**STATE), path := tmp_path / "a.ckpt")

    def cores() -> int:
        with ThreadPoolExecutor(1) as pool:  # a thread that has computed nothing yet
            return pool.submit(torch.get_num_threads).result()

    before = cores()
    read_checkpoint(path)
    assert cores() == before
