"""`moleflow experts`: list, export, import, remove, rename, update and roll back experts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moleflow_pl.checkpoints.experts import Checkpoint, Expert
    from moleflow_pl.checkpoints.run_folder import RunFolder

ASKED = "update.json"  # the options of an update, beside its checkpoint
EXAMPLES = """\
examples:
  moleflow experts list --ckpt_path runs/demo/last.ckpt
  moleflow experts export solar_poly --ckpt_path runs/demo/last.ckpt --output poly.safetensors
  moleflow experts import poly.safetensors --ckpt_path runs/other/last.ckpt
  moleflow experts update solar_poly --ckpt_path runs/demo/last.ckpt --data.root new"""


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    made = argparse.ArgumentParser(
        prog="moleflow experts",
        description="Look after the experts of a trained model; all others stay equal to the bit.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = made.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, text: str, *names: str) -> argparse.ArgumentParser:
        one = actions.add_parser(name, help=text, description=text)
        for positional in names:
            one.add_argument(positional)
        one.add_argument("--ckpt_path", type=Path, required=True, help="the model's checkpoint")
        return one

    action("list", "show the experts and what is known of them")
    one = action("export", "write an expert to a file", "name")
    one.add_argument("--output", type=Path, help="default: experts/NAME.safetensors in the run")
    one = action("import", "add an expert that was learned on the same base", "file")
    one.add_argument("--name", help="what the product is called here")
    action("remove", "take an expert out; a file of it is kept in the run's experts/", "name")
    action("rename", "give a product another name", "name", "new_name")
    action(
        "update", "learn a product again on the same base, the old version kept; takes the options "
        "of moleflow fit", "name",
    )  # fmt: skip
    one = action("rollback", "put an earlier version of an expert back", "name")
    one.add_argument("--version", type=int, help="its number, see list; default: the last kept")
    return made


def main(args: Sequence[str]) -> None:
    """Do what is asked for, and say what the model has now."""
    given, options = parser().parse_known_args(args)
    if options and given.action != "update":
        parser().error(f"unrecognized arguments: {' '.join(options)}")
    from moleflow_pl.checkpoints.io import restoring

    if given.action == "update":
        learn_again(given.ckpt_path, given.name, options)
    with restoring(given.ckpt_path):
        carry_out(given)


def carry_out(given: argparse.Namespace) -> None:
    """Do what is asked for with a checkpoint, but learning."""
    from moleflow_pl.checkpoints.io import read_checkpoint, write_checkpoint
    from moleflow_pl.checkpoints.run_folder import RunFolder

    checkpoint = read_checkpoint(given.ckpt_path)
    run = RunFolder.of(given.ckpt_path)
    if given.action == "export":
        export(checkpoint, given.name, given.output or run.expert(given.name))
        return
    if given.action not in ("list", "update"):
        change(checkpoint, run, given)
        write_checkpoint(checkpoint, given.ckpt_path)
    show(checkpoint, run)


def change(checkpoint: Checkpoint, run: RunFolder, given: argparse.Namespace) -> None:
    """Import, remove, rename or roll back."""
    from moleflow_pl.checkpoints.experts import Expert, add, extract, remove, rename

    if given.action == "import":
        add(checkpoint, Expert.load(Path(given.file)), given.name)
    elif given.action == "rename":
        rename(checkpoint, given.name, given.new_name)
    elif given.action == "remove":
        keep(extract(checkpoint, given.name), run)
        remove(checkpoint, given.name)
    else:
        replace(checkpoint, Expert.load(version_file(run, given.name, given.version)), run)


def export(checkpoint: Checkpoint, name: str, path: Path) -> None:
    """Write an expert to a file."""
    from moleflow_pl.checkpoints.experts import extract

    extract(checkpoint, name).save(path)
    print(f"expert: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def replace(checkpoint: Checkpoint, expert: Expert, run: RunFolder) -> None:
    """Put an expert in the place of the one of its name, of which a file is kept."""
    from moleflow_pl.checkpoints.experts import add, check_fit, extract, remove, rename
    from moleflow_pl.tasks.schedule import GROUP_JOINT

    check_fit(checkpoint, expert)
    aside = keep(extract(checkpoint, expert.task.name), run).stem
    number = aside.rpartition("~")[2]
    for product in expert.task.products:
        rename(checkpoint, product, f"{product}~{number}")
    # added before the old one goes: a model is never without an expert
    old = GROUP_JOINT.join(f"{product}~{number}" for product in expert.task.products)
    add(checkpoint, expert)
    remove(checkpoint, old)


def learn_again(path: Path, name: str, options: Sequence[str]) -> None:
    """Fit a product's images again beside its old expert, then put the new one in its place."""
    from moleflow_pl.checkpoints.experts import extract, index_of, rename, settled
    from moleflow_pl.checkpoints.io import read_checkpoint, write_checkpoint
    from moleflow_pl.checkpoints.run_folder import RunFolder
    from moleflow_pl.cli import lightning

    run = RunFolder.of(path)
    number = free_version(run, name)
    work = run.update(name, number).last
    checkpoint = read_checkpoint(path)
    schedule = settled(checkpoint)
    products = schedule.tasks[index_of(schedule, name)].products
    if not goes_on(work.parent, options):
        for product in products:
            rename(checkpoint, product, f"{product}~{number}")
        write_checkpoint(checkpoint, work)
    groups = [task.products for task in settled(read_checkpoint(work)).tasks]
    plan = [*groups, products] if products not in groups else groups
    tasks = f"--data.tasks={json.dumps(plan)}"
    lightning.main(["fit", "--ckpt_path", str(work), tasks, *options])
    new = extract(read_checkpoint(work), name)
    checkpoint = read_checkpoint(path)
    replace(checkpoint, new, run)
    write_checkpoint(checkpoint, path)


def goes_on(folder: Path, options: Sequence[str]) -> bool:
    """Whether an update that was stopped had these options; one of others is moved aside."""
    from moleflow_pl._internal.files import write_text
    from moleflow_pl.checkpoints.run_folder import LAST, move_aside

    mark, asked = folder / ASKED, json.dumps(list(options))
    if mark.is_file() and mark.read_text(encoding="utf-8") == asked:
        return (folder / LAST).exists()
    if folder.exists():
        aside = move_aside(folder)
        print(f"an update with other options was stopped: it is now in {aside}, a new one begins")
    write_text(mark, asked)
    return False


def keep(expert: Expert, run: RunFolder) -> Path:
    """Write a version of an expert beside the earlier ones."""
    name = expert.task.name
    path = run.expert(name, free_version(run, name))
    expert.save(path)
    print(f"the {name} expert that was in the model is kept in {path}")
    return path


def versions_of(run: RunFolder, name: str) -> list[int]:
    """Numbers of the versions of an expert that were kept."""
    numbers = [path.stem.removeprefix(f"{name}~") for path in run.experts.glob("*~*.safetensors")]
    return sorted(int(number) for number in numbers if number.isdigit())


def free_version(run: RunFolder, name: str) -> int:
    """Number of the next version to keep."""
    return max(versions_of(run, name), default=0) + 1


def version_file(run: RunFolder, name: str, number: int | None) -> Path:
    """File of a version that was kept.

    Raises:
        ConfigError: there is none.
    """
    from moleflow_pl.errors import ConfigError

    there = versions_of(run, name)
    chosen = there[-1] if number is None and there else number
    if chosen not in there:
        raise ConfigError(f"no version {number or ''} of {name!r} in {run.experts}: {there}")
    return run.expert(name, chosen)


def show(checkpoint: Checkpoint, run: RunFolder) -> None:
    """Print the experts of a checkpoint."""
    from rich.console import Console
    from rich.table import Table

    from moleflow_pl.checkpoints.experts import base_hash, last_metrics, settled

    schedule = settled(checkpoint)
    table = Table(title=f"experts on base {base_hash(checkpoint)[:12]}")
    for column in ("name", "image AUROC", "held out", "data", "kept versions"):
        table.add_column(column)
    for number, task in enumerate(schedule.tasks):
        auroc = last_metrics(schedule, number).get("image_auroc", {}).get("oracle")
        held_out = 0 if task.calibration is None else len(task.calibration.scores)
        kept = ", ".join(map(str, versions_of(run, task.name)))
        quality = "-" if auroc is None else f"{auroc:.3f}"
        table.add_row(task.name, quality, str(held_out), (task.split or "-")[:12], kept)
    Console().print(table)
