import errno
import os
from pathlib import Path

import pytest

from moleflow_pl.data.folders import files_below, leads_back, matches_pattern


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def names(root: Path, **options: object) -> list[str]:
    return [path.relative_to(root).as_posix() for path in files_below(root, **options)]  # type: ignore[arg-type]


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "elsewhere/b.png", "elsewhere/deep/c.png")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "in") == ["a.png", "link/b.png", "link/deep/c.png"]


def test_loops_end_and_every_folder_is_entered_once(tmp_path: Path) -> None:
    root = touch(tmp_path / "top" / "in", "a/1.png", "b/2.png")
    for name, target in (("self", root), ("above", tmp_path), ("top", tmp_path / "top")):
        (root / name).symlink_to(target)
    for one, other in (("a", "b"), ("b", "a")):
        (root / one / "other").symlink_to(root / other)
    (root / "a" / "back").symlink_to(root / "a")
    assert names(root) == ["a/1.png", "b/2.png"]


def test_a_folder_keeps_its_own_name_where_a_link_leads_to_it_too(tmp_path: Path) -> None:
    touch(tmp_path, "z/1.png")
    (tmp_path / "a").symlink_to(tmp_path / "z")
    assert names(tmp_path) == ["z/1.png"]


def test_hidden_and_left_out_folders_are_not_entered(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", ".b.png", ".c/d.png", "out/e.png")
    assert names(tmp_path, leave_out=lambda folder: folder.name == "out") == ["a.png"]
    assert names(tmp_path, hidden=True) == [".b.png", "a.png", ".c/d.png", "out/e.png"]
    assert names(tmp_path / "nowhere") == []


def test_a_folder_that_is_closed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "a.png", "closed/b.png")
    scan = os.scandir

    def refusing(path: object) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)  # type: ignore[call-overload]

    monkeypatch.setattr("os.scandir", refusing)
    assert names(tmp_path) == ["a.png"]
    (message,) = caplog.messages
    assert message.startswith(f"cannot read the folder {tmp_path / 'closed'}: Permission denied")


def test_a_link_leads_back_to_a_folder_it_lies_in_and_nowhere_else(tmp_path: Path) -> None:
    touch(tmp_path, "a/b/1.png", "c/1.png")
    for name, target, back in (("up", "a", True), ("self", "a/b", True), ("other", "c", False)):
        link = tmp_path / "a" / "b" / name
        link.symlink_to(tmp_path / target)
        assert leads_back(link) == back
    assert not leads_back(tmp_path / "a")


@pytest.mark.parametrize(
    ("path", "pattern", "fit"),
    [
        ("a/b/1.png", "**/*.png", True),
        ("1.png", "**/*.png", True),
        ("a/1.png", "a/**", True),
        ("a/1.png", "**", True),
        ("a/1.jpg", "**/*.png", False),
        ("a/b/1.png", "a/*.png", False),
        ("b/1.png", "a/**/*.png", False),
        ("a/x/y/b/1.png", "a/**/b/*", True),
    ],
)
def test_a_pattern_fits_paths_as_the_shell_reads_it(path: str, pattern: str, fit: bool) -> None:
    assert matches_pattern(Path(path).parts, Path(pattern).parts) == fit
