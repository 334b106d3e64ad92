"""The commands of the README and of the how-to pages, with options that exist; marked ones run."""

import ast
import inspect
import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch import Trainer
from PIL import Image

from docs.hooks import command_line
from moleflow_pl.checkpoints.io import read_checkpoint
from moleflow_pl.checkpoints.schema import STATE_KEY
from moleflow_pl.cli.main import VERBS
from moleflow_pl.tasks.schedule import TaskSchedule
from tests.helpers.commands import MODEL, ROOT, run_here
from tests.helpers.products import SIZE, draw_product
from tests.helpers.shared import built_once

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
BLOCK = re.compile(r"(<!-- run -->\n)?```bash\n(.*?)```", re.DOTALL)
MARKED_BLOCK = re.compile(r"<!-- run -->\n```(bash|python)\n(.*?)```", re.DOTALL)
CONFIG = re.compile(r"```yaml\n# (\w+\.yaml)\n(.*?)```", re.DOTALL)
# of LightningCLI's verbs, and of every verb
OTHERS = {
    "--config", "--safe-config", "--ckpt_path", "--seed_everything", "--print_config", "--help",
    "--product", "--key-file", "--require-signature", "--version",
}  # fmt: skip
TRAIN = 20  # images of a product: two are for calibration


def commands(page: Path, marked: bool) -> list[list[str]]:
    """Words of each `moleflow` command in the blocks of a page.

    Args:
        page: Its file.
        marked: Whether only of blocks that are marked to be run.
    """
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    return commands_of("\n".join(block for mark, block in blocks if mark or not marked))


def commands_of(text: str) -> list[list[str]]:
    """Words of each `moleflow` command in the text of a block."""
    lines = re.split(r"\n|&&", text.replace("\\\n", " "))
    words = [shlex.split(line, comments=True) for line in lines]
    return [one[1:] for one in words if one[:1] == ["moleflow"]]


def known_options() -> set[str]:
    """All options but those of the Trainer."""
    return OTHERS | set(re.findall(r"`(--[\w.-]+)`", command_line()))


def test_commands_of_all_pages_have_verbs_and_options_that_exist() -> None:
    known, trainer = known_options(), inspect.signature(Trainer).parameters
    assert len([1 for page in PAGES for _ in commands(page, marked=False)]) > 30
    for page in PAGES:
        for verb, *words in commands(page, marked=False):
            assert verb in VERBS or verb == "--help", page
            for option in (word.partition("=")[0] for word in words if word.startswith("--")):
                if option.startswith("--trainer."):
                    assert option.split(".")[1] in trainer, f"{page}: {option}"
                else:
                    assert option in known, f"{page}: {option}"


def test_options_that_texts_name_exist() -> None:
    known = known_options()
    for page in (page for page in PAGES if page.name != "CHANGELOG.md"):  # it tells of old ones
        text = page.read_text(encoding="utf-8")
        for option in re.findall(r"--(?:model|data|schedule|evaluation|predictions)\.\w+", text):
            assert option in known, f"{page}: {option}"


def test_python_of_all_pages_is_python_and_imports_names_that_exist() -> None:
    blocks = [
        (page, block)
        for page in PAGES
        for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    ]
    assert len(blocks) > 5
    for page, block in blocks:
        for node in ast.walk(ast.parse(block, str(page))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("moleflow_pl"):
                module = import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names), (page, node.module)


class Prepared:
    """A folder as the how-to pages suppose it: data, new images and a run in `runs/mine`."""

    def __init__(self, where: Path) -> None:
        self.folder = where / "prepared"
        if self.folder.exists():
            return
        made = where / "making"
        for seed, name in enumerate(("bottle", "cable", "screw")):
            draw_product(made / "data", name, seed, train=TRAIN)
        draw_product(made / "new_data", "cable", 1, train=TRAIN)
        shutil.copytree(made / "data" / "cable" / "test" / "good", made / "new")
        for name in ("bottle", "cable", "screw"):
            photos = made / "photos" / {"screw": "screws"}.get(name, name)
            shutil.copytree(made / "data" / name / "train" / "good", photos)
        (made / "masks").mkdir()
        mask = np.full((SIZE, SIZE), 255, np.uint8)
        mask[:, :6] = 0
        Image.fromarray(mask).save(made / "masks" / "bottle.png")
        folders = ["--data.root=data", "--trainer.default_root_dir=runs/mine"]
        run_here(made, "fit", *folders, "--data.tasks=[bottle, cable]", *MODEL)
        state = read_checkpoint(made / "runs" / "mine" / "last.ckpt")[STATE_KEY]
        calibration = TaskSchedule.from_state(state["tasks"]).tasks[1].calibration
        assert calibration is not None
        (made / "excluded.txt").write_text(calibration.images[0])
        made.rename(self.folder)  # whole or not there


MARKED = [page for page in PAGES if MARKED_BLOCK.search(page.read_text(encoding="utf-8"))]
# of fits with a preset: one epoch is enough to see that a command runs
BRIEF = ["--schedule.epochs_per_task=1", "--data.num_workers=0", "--trainer.accelerator=cpu"]


def run_block(where: Path, language: str, block: str) -> None:
    """Run a block in a folder, with images and frames as the pages suppose them."""
    if language == "bash":
        for words in commands_of(block):
            run_here(where, *words, *(BRIEF if words[1:3] == ["--config", "demo"] else []))
        return
    images = [Image.open(path).convert("RGB") for path in sorted((where / "new").iterdir())]
    frames = [np.asarray(image)[..., ::-1] for image in images]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        exec(compile(block, language, "exec"), {"images": images, "frames": frames})


@pytest.mark.slow
@pytest.mark.parametrize("page", MARKED, ids=lambda page: page.stem)
def test_marked_blocks_run_in_their_order(
    page: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    prepared = built_once(tmp_path_factory, "howto", Prepared).folder
    text = page.read_text(encoding="utf-8")
    # Python shows another way to do what the commands of a page do
    folders = {kind: shutil.copytree(prepared, tmp_path / kind) for kind in ("bash", "python")}
    for name, content in CONFIG.findall(text):
        (folders["bash"] / name).write_text(content)
    for language, block in MARKED_BLOCK.findall(text):
        run_block(folders[language], language, block)
