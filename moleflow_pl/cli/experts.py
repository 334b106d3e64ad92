"""`moleflow experts`: list, export, import, remove, rename, update and roll back experts."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moleflow_pl._internal.printable import command_line
from moleflow_pl.cli import moved_weights
from moleflow_pl.cli.changed_model import save_changed
from moleflow_pl.cli.mistakes import UNKNOWN_WORDS, VerbParser
from moleflow_pl.cli.run_argument import CHECKPOINT, SETTINGS
from moleflow_pl.errors import StoppedError

if TYPE_CHECKING:
    from moleflow_pl.checkpoints.expert_edits import Checkpoint
    from moleflow_pl.checkpoints.run_folder import RunFolder
    from moleflow_pl.tasks.schedule import Task, TaskSchedule

logger = logging.getLogger(__name__)

OPTIONS_FILE = "update.json"  # the options of an update, beside its checkpoint
EXAMPLES = """\
examples:
  moleflow experts list runs/demo
  moleflow experts export runs/demo solar_poly --output poly.safetensors
  moleflow experts import runs/other poly.safetensors
  moleflow experts update runs/demo solar_poly --data.root new"""
COLUMNS = (
    "name", "learned\n(UTC)", "images", "threshold", "image\nAUROC", "recall", "versions",
)  # fmt: skip
CAPTION = (
    "images: for training + for calibration; AUROC and recall: by the oracle scores "
    "of its test images, in the last evaluation that had them; versions: saved ones, for rollback"
)
LONGEST_NAME = 30
POSITIONALS = {
    "name": "the product",
    "new_name": "its new name",
    "file": "an expert that `experts export` wrote",
}
OUTPUT_HELP = "default: experts/NAME.safetensors in the run folder"
# action: (what it does, its positional arguments, its own options with their settings)
ACTIONS: dict[str, tuple[str, tuple[str, ...], dict[str, dict[str, Any]]]] = {
    "list": ("show the experts of a model", (), {}),
    "export": (
        "write an expert to a file",
        ("name",),
        {"--output": {"type": Path, "help": OUTPUT_HELP}},
    ),
    "import": (
        "add an expert that was learned on the same base",
        ("file",),
        {"--name": {"help": "the product's name in this model"}},
    ),
    "remove": ("remove an expert; a copy is saved in the run's experts/versions/", ("name",), {}),
    "rename": ("rename a product", ("name", "new_name"), {}),
    "update": (
        "learn a product again on the same base and save the old version; accepts the options of "
        "moleflow fit",
        ("name",),
        {},
    ),
    "rollback": (
        "restore an earlier version of an expert",
        ("name",),
        {"--version": {"type": int, "help": "its number, see list; default: the newest saved one"}},
    ),
}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the verb's arguments."""
    parser = VerbParser(
        takes_others=True,  # for the action update
        prog="moleflow experts",
        description="Manage the experts of a trained model. Other experts stay equal bit for bit.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (text, positionals, options) in ACTIONS.items():
        words = " ".join(["RUN", *(word.upper() for word in positionals)])
        usage = f"moleflow experts {name} {words} [options]"
        action = actions.add_parser(
            name, help=text, description=text, usage=usage, takes_others=name == "update"
        )
        for positional in positionals:
            action.add_argument(
                positional, metavar=positional.upper(), help=POSITIONALS[positional]
            )
        action.add_argument(CHECKPOINT, **SETTINGS)
        action.set_defaults(parser=action)
        if name != "update":  # which takes the option from fit
            moved_weights.add_option(action, saved=True)
        for option, settings in options.items():
            action.add_argument(option, **settings)
    return parser


def main(args: Sequence[str]) -> None:
    """Run one action on a checkpoint."""
    options, fit_options = make_parser().parse_known_args(args)
    if fit_options and options.action != "update":
        options.parser.error(UNKNOWN_WORDS + " ".join(fit_options))
    # after parsing: torch takes seconds to import
    from moleflow_pl.checkpoints.io import restoring

    if getattr(options, "backbone_weights", None) is not None:
        moved_weights.save_place(options.ckpt_path, options.backbone_weights)
    ending: list[str] = []
    with lock_of(options):
        if options.action == "update":
            ending = update(options.ckpt_path, options.name, fit_options)
        with restoring(options.ckpt_path):
            table = run_action(options)
    # outside the block: a failure to print is not the checkpoint's fault
    if table is not None:
        from moleflow_pl._internal.console import print_table

        print_table(table)
    for line in ending:
        logger.info(line)


def lock_of(options: argparse.Namespace) -> AbstractContextManager[Any]:
    """Return the lock that an action holds while it changes files in the run folder.

    Raises:
        OutputError: the file of an exported expert cannot be written.
    """
    from moleflow_pl._internal.files import replaceable
    from moleflow_pl.checkpoints.run_folder import RunFolder
    from moleflow_pl.checkpoints.run_lock import locked_for

    run, written = RunFolder.of(options.ckpt_path), options.ckpt_path
    if options.action == "list":
        return nullcontext()
    if options.action == "export":
        written = replaceable(options.output or run.expert(options.name))
    return locked_for(written, run.root)


def run_action(options: argparse.Namespace) -> Any:
    """Run an action, and return the table of experts, if it shows one."""
    from moleflow_pl.checkpoints.io import read_checkpoint
    from moleflow_pl.checkpoints.run_folder import RunFolder

    checkpoint = read_checkpoint(options.ckpt_path)
    run = RunFolder.of(options.ckpt_path)
    if options.action == "export":
        export(checkpoint, options.name, options.output or run.expert(options.name))
        return None
    if options.action not in ("list", "update"):
        change(checkpoint, run, options)
        save_changed(checkpoint, options.ckpt_path)
        if options.action == "rename":  # last: after a failed change they stay where they are
            keep_versions(run, options.name, options.new_name, checkpoint)
    return experts_table(checkpoint, run)


def change(checkpoint: Checkpoint, run: RunFolder, options: argparse.Namespace) -> None:
    """Import, remove, rename or roll back an expert in memory, and log it."""
    from moleflow_pl.checkpoints.expert_edits import add, extract, learned_schedule, remove, rename
    from moleflow_pl.checkpoints.expert_versions import roll_back, save_version
    from moleflow_pl.checkpoints.experts import Expert, taking_over

    if options.action == "import":
        with taking_over(Path(options.file)) as path:
            add(checkpoint, Expert.load(path), options.name)
        logger.info(f"imported {learned_schedule(checkpoint).names[-1]} from {options.file}")
    elif options.action == "rename":
        rename(checkpoint, options.name, options.new_name)
        logger.info(f"renamed {options.name} to {options.new_name}")
    elif options.action == "remove":
        saved = save_version(extract(checkpoint, options.name), run)
        remove(checkpoint, options.name)
        restore = command_line(["moleflow", "experts", "import", str(run.root), str(saved)])
        logger.info(f"removed {options.name}; to restore it: {restore}")
    else:
        roll_back(checkpoint, options.name, options.version, run)


def keep_versions(run: RunFolder, old: str, new: str, checkpoint: Checkpoint) -> None:
    """Rename the saved versions of an expert when one of its products is renamed.

    Args:
        run: The run.
        old: The product's name before.
        new: Its name now.
        checkpoint: The model with the new name.
    """
    from moleflow_pl.checkpoints.expert_edits import learned_schedule
    from moleflow_pl.checkpoints.expert_versions import move_versions
    from moleflow_pl.tasks.schedule import GROUP_JOINT

    schedule = learned_schedule(checkpoint)
    task = schedule.tasks[schedule.find(new)]
    before = GROUP_JOINT.join(old if product == new else product for product in task.products)
    numbers = ", ".join(map(str, move_versions(run, before, task.name)))
    if numbers:
        logger.info(f"saved versions of {task.name}: {numbers}")


def export(checkpoint: Checkpoint, name: str, path: Path) -> None:
    """Write an expert to a file."""
    from moleflow_pl.checkpoints.expert_edits import extract

    extract(checkpoint, name).save(path)
    logger.info(f"expert: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def update(path: Path, name: str, fit_options: Sequence[str]) -> list[str]:
    """Learn a product again beside its old expert, then replace the old one.

    Returns:
        The last lines of the command.
    """
    from moleflow_pl.callbacks.last_messages import update_ending
    from moleflow_pl.checkpoints.expert_edits import extract, learned_schedule
    from moleflow_pl.checkpoints.expert_versions import free_version, replace
    from moleflow_pl.checkpoints.io import read_checkpoint
    from moleflow_pl.checkpoints.run_folder import RunFolder
    from moleflow_pl.cli import lightning

    run = RunFolder.of(path)
    number = free_version(run, name)
    work = run.update(name, number).last
    groups = plan_update(path, work, name, number, fit_options)
    tasks = f"--data.tasks={json.dumps(groups)}"
    try:
        lightning.main(["fit", "--ckpt_path", str(work), tasks, *fit_options])
    except StoppedError as error:
        # the same command resumes the update, without the limits that stopped it
        changes = {option: v for option, v in error.changes.items() if option != CHECKPOINT}
        raise StoppedError(f"the update of {name} is stopped", error.signum, changes) from error
    expert = extract(read_checkpoint(work), name)
    checkpoint = read_checkpoint(path)
    replace(checkpoint, expert, run)
    save_changed(checkpoint, path)
    (work.parent / OPTIONS_FILE).unlink(missing_ok=True)  # no later update resumes this one
    return update_ending(run, RunFolder.of(work), learned_schedule(checkpoint).tasks)


def plan_update(
    path: Path, work: Path, name: str, number: int, fit_options: Sequence[str]
) -> list[list[str]]:
    """Begin or resume an update: write its checkpoint `work` and return the tasks to learn."""
    from moleflow_pl.checkpoints.expert_edits import index_of, learned_schedule, set_aside
    from moleflow_pl.checkpoints.io import read_checkpoint, write_checkpoint

    checkpoint = read_checkpoint(path)
    schedule: TaskSchedule = learned_schedule(checkpoint)
    products = schedule.tasks[index_of(schedule, name)].products
    if not can_resume(work.parent, fit_options):
        set_aside(checkpoint, products, number)
        write_checkpoint(checkpoint, work)
    groups = [task.products for task in learned_schedule(read_checkpoint(work)).tasks]
    return groups if products in groups else [*groups, products]


def can_resume(folder: Path, fit_options: Sequence[str]) -> bool:
    """Return whether a stopped update in `folder` had these options; move any other aside."""
    from moleflow_pl._internal.files import regular, write_text
    from moleflow_pl._internal.schema import stamp
    from moleflow_pl.checkpoints.run_folder import LAST, move_aside

    state = {**stamp(), "options": list(fit_options)}
    file, text = folder / OPTIONS_FILE, json.dumps(state)
    # compare bytes: a damaged file may not be text
    if file.is_file() and regular(file).read_bytes() == text.encode():
        return (folder / LAST).exists()
    if folder.exists():
        which = (
            "the stopped update, which had other options," if file.is_file() else "an old update"
        )
        logger.info(f"moved {which} to {move_aside(folder)}: starting anew")
    write_text(file, text)
    return False


def experts_table(checkpoint: Checkpoint, run: RunFolder) -> Any:
    """Return a table of the experts of a checkpoint."""
    from moleflow_pl._internal.console import NamesTable
    from moleflow_pl.checkpoints.expert_edits import base_hash, learned_schedule

    schedule = learned_schedule(checkpoint)
    table = NamesTable(title=f"experts on base {base_hash(checkpoint)[:12]}", caption=CAPTION)
    # names are not wrapped unless they would fill the screen
    width = min(max((len(task.name) for task in schedule.tasks), default=0), LONGEST_NAME)
    for column in COLUMNS:
        table.add_column(column, min_width=width if column == COLUMNS[0] else None)
    for task in schedule.tasks:
        table.add_row(*table_row(task, run))
    return table


def table_row(task: Task, run: RunFolder) -> list[str]:
    """Return the cells of an expert's row."""
    from moleflow_pl.checkpoints.expert_versions import versions_of

    calibration = task.calibration
    return [
        task.name,
        task.learned_at or "-",
        f"{task.images} + {0 if calibration is None else len(calibration.scores)}",
        "-" if calibration is None else f"{calibration.score_threshold.value:.4g}",
        *test_cells(task),
        ", ".join(map(str, versions_of(run, task.name))),
    ]


def test_cells(task: Task) -> list[str]:
    """Return AUROC and recall by the oracle scores of a task, or dashes without any."""
    import torch

    from moleflow_pl.metrics.image import auroc

    scores = task.oracle_scores
    if scores is None or not scores.defective:
        return ["-", "-"]
    labels = torch.tensor([0] * len(scores.good) + [1] * len(scores.defective))
    area = auroc(torch.tensor(scores.good + scores.defective), labels)
    count, cells = len(scores.defective), ["-" if area is None else f"{area:.3f}"]
    if task.calibration is None:
        return [*cells, "-"]
    hits = scores.count_above(task.calibration.score_threshold.value)
    return [*cells, f"{hits / count:.0%} ({hits} of {count})"]
