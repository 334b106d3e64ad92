"""`moleflow VERB --help` for the verbs of LightningCLI: a screen a group, read from the sources.

Nothing is imported for it, which would take seconds, and no option of the Trainer that the project
has no use for is shown.
"""

from __future__ import annotations

import ast
import json
import textwrap
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

WIDTH = 98
INDENT = 36
# a group of options: the class whose constructor takes them, and an example
GROUPS = {
    "model": ("moleflow_pl.module", "MoLEFlow", "--model.image_size '[256, 512]'"),
    "data": ("moleflow_pl.data.datamodule", "ContinualDataModule", "--data.layout visa"),
    "schedule": (
        "moleflow_pl.callbacks.task_scheduler",
        "TaskSchedulerCallback",
        "--schedule.epochs_per_task 60",
    ),
    "evaluation": (
        "moleflow_pl.callbacks.evaluation",
        "EvaluationCallback",
        "--evaluation.map_size 512",
    ),
    "predictions": (
        "moleflow_pl.callbacks.predictions",
        "PredictionWriter",
        "--predictions.boxes true",
    ),
}
TRAINER = {
    "default_root_dir": ("runs/moleflow", "The run folder."),
    "accelerator": ("auto", "`cpu`, `gpu`, `mps` …"),
    "gradient_clip_val": ("0.5", "Largest norm of a step's gradient; null for none."),
    "deterministic": ("null", "true: refuse operations that differ from run to run."),
    "enable_progress_bar": ("true", "Show how far it is."),
    "logger": ("metrics.csv", "Another Lightning logger for the curves, or false."),
    "profiler": ("null", "`simple` or `advanced`: where the time goes."),
}
VERBS = {
    "fit": """\
usage: moleflow fit [--config FILE] [--ckpt_path FILE] [options]

Learn products one after another, evaluate after each, and write RUN/report.

  --config FILE                 options as YAML; configs/ has those of the known data sets
  --ckpt_path FILE              go on from a checkpoint, which knows its run's options
  --data.root FOLDER            the images, --data.layout says how they lie
  --data.tasks '[a, [b, c]]'    products in the order of learning; a list is learned at once
  --trainer.default_root_dir D  the run folder
  --seed_everything N           the run's seed (0)
  --print_config                show all options with their values, and stop

examples:
  moleflow fit --config configs/demo.yaml
  moleflow fit --config configs/demo.yaml --data.root data --data.layout folder \\
      --data.tasks '[bottle, cable]' --trainer.default_root_dir runs/mine
  moleflow fit --ckpt_path runs/mine/last.ckpt --data.tasks '[bottle, cable, screw]'
""",
    "validate": """\
usage: moleflow validate --ckpt_path FILE [options]

NLL and routing of good images that were held out (--data.val_fraction), by what was learned.

example:
  moleflow validate --ckpt_path runs/demo/last.ckpt
""",
    "test": """\
usage: moleflow test --ckpt_path FILE [options]

Score the test images of all products learned, and write RUN/report. The checkpoint knows its run's
options; those given here come on top.

examples:
  moleflow test --ckpt_path runs/demo/last.ckpt
  moleflow test --ckpt_path runs/mine/last.ckpt --data.root /new/place
""",
    "predict": """\
usage: moleflow predict --ckpt_path FILE --data.predict_path IN [options]

Score the images of a file, a folder or a pattern; a row for each in
RUN/predictions/predictions.csv.

example:
  moleflow predict --ckpt_path runs/demo/last.ckpt --data.predict_path 'new/*.png'
""",
}


def main(args: Sequence[str]) -> None:
    """Print the help of a verb, or of one of its groups of options.

    Args:
        args: The verb, and what else was on the command line.
    """
    verb, *others = args
    asked = [arg for arg in others if arg in (*GROUPS, "trainer")]
    print(group_help(verb, asked[0]) if asked else verb_help(verb))


def verb_help(verb: str) -> str:
    """What a verb does, its commonest options, and where the others are shown."""
    groups = " | ".join((*GROUPS, "trainer"))
    return f"{VERBS[verb]}\nall options, a group at a time:\n  moleflow {verb} --help {groups}"


def group_help(verb: str, group: str) -> str:
    """One line or two for each option of a group."""
    if group == "trainer":
        rows = [(name, value, text) for name, (value, text) in TRAINER.items()]
        example = "--trainer.accelerator cpu"
        more = "\nThe others: https://lightning.ai/docs/pytorch/stable/common/trainer.html"
    else:
        module, kind, example = GROUPS[group]
        rows, more = list(options(module, kind)), ""
    lines = [f"options of moleflow {verb} in the group {group}, with their defaults:", ""]
    for name, value, text in rows:
        head = f"  --{group}.{name} {value}"
        told = textwrap.fill(
            text, WIDTH, initial_indent=" " * INDENT, subsequent_indent=" " * INDENT
        )
        # beside its name where there is room, below it otherwise
        lines.append(f"{head}\n{told}" if len(head) >= INDENT else head + told[len(head) :])
    return "\n".join([*lines, "", f"example:\n  moleflow {verb} … {example}{more}"])


def options(module: str, kind: str) -> Iterator[tuple[str, str, str]]:
    """Name, default and description of the arguments of a class, from its source.

    Example:
        >>> next(options("moleflow_pl.callbacks.task_scheduler", "TaskSchedulerCallback"))[:2]
        ('epochs_per_task', '10')
    """
    spec = find_spec(module.partition(".")[0])
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0], *module.split(".")[1:]).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8")).body
    (found,) = [node for node in tree if isinstance(node, ast.ClassDef) and node.name == kind]
    (made,) = [n for n in found.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    texts = descriptions(ast.get_docstring(found) or "")
    names = [argument.arg for argument in made.args.args[1:]]
    for name, default in zip(names, made.args.defaults, strict=True):
        yield name, as_yaml(default), texts[name]


def as_yaml(default: ast.expr) -> str:
    """A default as one would type it.

    Example:
        >>> [as_yaml(ast.parse(text, mode="eval").body) for text in ("None", "(8, 9)", "RANDOM")]
        ['null', '[8, 9]', 'random']
    """
    try:
        return json.dumps(ast.literal_eval(default)).strip('"')
    except ValueError:
        return ast.unparse(default).lower()  # a constant or a function, by its name


def descriptions(docstring: str) -> dict[str, str]:
    r"""What the `Args` of a docstring say of each argument.

    Example:
        >>> descriptions("Does.\n\nArgs:\n    a: One\n        thing.\n    b: Other.\n\nMore.")
        {'a': 'One thing.', 'b': 'Other.'}
    """
    _, _, rest = docstring.partition("\nArgs:\n")
    block = textwrap.dedent(rest.partition("\n\n")[0]).replace("\n    ", " ")
    return {name: text for name, _, text in (line.partition(": ") for line in block.splitlines())}
