"""`moleflow VERB --help` for LightningCLI's verbs: one screen for each group of options.

jsonargparse's help would import Lightning, which takes seconds. This one reads the sources instead,
and leaves out the Trainer's options that are not needed here.
"""

from __future__ import annotations

import ast
import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from moleflow_pl._internal.files import regular
from moleflow_pl._internal.presets import preset_names

ROOT = Path(__file__).parents[2]
WIDTH = 98
INDENT = 36
# group of options: (module and class whose constructor takes them, example)
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
    "gradient_clip_val": ("0.5", "Largest norm of a step's gradient; null: no limit."),
    "deterministic": ("null", "true: refuse operations whose result varies between runs."),
    "enable_progress_bar": ("true", "Show the progress of each epoch."),
    "logger": ("metrics.csv", "Another Lightning logger for the curves, or false."),
    "profiler": ("null", "`simple` or `advanced`: report where the time is spent."),
}
ALL_GROUPS = " | ".join((*GROUPS, "trainer"))
VERBS = {
    "fit": """\
usage: moleflow fit [--config NAME|FILE] [--ckpt_path FILE] [options]

Learn products one after another, evaluate after each, and write RUN/report.

  --config NAME|FILE            a preset, or options in a YAML file; may be given more than once.
{presets}
  --safe-config                 a FILE can build any class that it names: allow only those of
                                torch, torchvision, lightning and moleflow_pl
  --ckpt_path RUN|FILE          resume from a run's checkpoint, which holds its options
  --data.root FOLDER            the images, arranged as --data.layout says
  --data.tasks '[a, [b, c]]'    products in the order of learning; an inner list is one task
  --trainer.default_root_dir D  the run folder
  --seed_everything N           the run's seed (0)
  --print_config                print all options with their values, and stop

examples:
  moleflow fit --config demo
  moleflow fit --config demo --data.root data --data.layout folder \\
      --data.tasks '[bottle, cable]' --trainer.default_root_dir runs/mine
  moleflow fit --ckpt_path runs/mine --data.tasks '[bottle, cable, screw]'
""",
    "validate": """\
usage: moleflow validate RUN [options]

Compute NLL and routing accuracy on the calibration images (--data.val_fraction) of all learned
tasks.

  RUN                           the folder of a fit, or a checkpoint in it (--ckpt_path)

example:
  moleflow validate runs/demo
""",
    "test": """\
usage: moleflow test RUN [options]

Score the test images of all learned tasks, and write RUN/report. The checkpoint holds its run's
options; options on the command line override them.

  RUN                           the folder of a fit, or a checkpoint in it (--ckpt_path)

examples:
  moleflow test runs/demo
  moleflow test runs/mine/tasks/00-bottle.ckpt --data.root /new/place
""",
    "predict": """\
usage: moleflow predict RUN IN [options]

Decide about the images of a file, a folder or a pattern, and write one row for each to
RUN/predictions/predictions.csv.

  RUN                           the folder of a fit, or a checkpoint in it (--ckpt_path)
  IN                            the images (--data.predict_path); by default the test images
  --product NAME                the product that all images show; by default the router decides

examples:
  moleflow predict runs/demo 'new/*.png'
  moleflow predict runs/demo new --product solar_mono
""",
}


def main(args: Sequence[str]) -> None:
    """Print the help of a verb, or of one of its groups of options.

    Args:
        args: The verb, and the rest of the command line.
    """
    verb, *others = args
    groups = [arg for arg in others if arg in (*GROUPS, "trainer")]
    print(group_help(verb, groups[0]) if groups else verb_help(verb))


def verb_help(verb: str) -> str:
    """Return the help of a verb with its most common options, and how to list the others."""
    names = indented(f"Presets: {', '.join(preset_names())}.", 32)
    text = VERBS[verb].replace("{presets}", names)
    return f"{text}\nall options, by group:\n  moleflow {verb} --help {ALL_GROUPS}"


def group_help(verb: str, group: str) -> str:
    """Return name, default and description of each option of a group."""
    if group == "trainer":
        rows = [(name, value, text) for name, (value, text) in TRAINER.items()]
        example = "--trainer.accelerator cpu"
        more = "\nThe others: https://lightning.ai/docs/pytorch/stable/common/trainer.html"
    else:
        module, kind, example = GROUPS[group]
        rows, more = list(options(module, kind)), ""
    lines = [f"options of moleflow {verb} in the group {group}, with their defaults:", ""]
    lines += [option_help(f"--{group}.{name} {value}", text) for name, value, text in rows]
    return "\n".join([*lines, "", f"example:\n  moleflow {verb} … {example}{more}"])


def option_help(option: str, text: str) -> str:
    """Return an option with its description beside it, or below it if it is too long."""
    head, body = f"  {option}", indented(text, INDENT)
    return f"{head}\n{body}" if len(head) >= INDENT else head + body[len(head) :]


def indented(text: str, indent: int) -> str:
    """Return a text wrapped to `WIDTH` characters, with an indent."""
    space = " " * indent
    return textwrap.fill(text, WIDTH, initial_indent=space, subsequent_indent=space)


def options(module: str, kind: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, default and description of a class's arguments, from its source.

    Example:
        >>> next(options("moleflow_pl.callbacks.task_scheduler", "TaskSchedulerCallback"))[:2]
        ('epochs_per_task', '10')
    """
    body = source(module)
    (definition,) = [n for n in body if isinstance(n, ast.ClassDef) and n.name == kind]
    (init,) = [
        n for n in definition.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"
    ]
    texts = descriptions(ast.get_docstring(definition) or "")
    names = [argument.arg for argument in init.args.args[1:]]
    for name, default in zip(names, init.args.defaults, strict=True):
        yield name, as_yaml(default, body), texts[name]


def source(module: str) -> list[ast.stmt]:
    """Return the statements of a module of the package, without importing it."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(regular(file).read_text(encoding="utf-8")).body


def as_yaml(default: ast.expr, body: Sequence[ast.stmt] = ()) -> str:
    """Return a default as a user types it; a named constant becomes its value.

    Args:
        default: The expression in the signature.
        body: Statements of the module in which its names are defined.

    Example:
        >>> [as_yaml(ast.parse(text, mode="eval").body) for text in ("None", "(8, 9)", "adamw")]
        ['null', '[8, 9]', 'adamw']
    """
    value = constant(default.id, body) if isinstance(default, ast.Name) else default
    try:
        return json.dumps(ast.literal_eval(value or default)).strip('"')
    except ValueError:
        return ast.unparse(default)  # a function, by its name


def constant(name: str, body: Sequence[ast.stmt]) -> ast.expr | None:
    """Find the expression assigned to a name, in a module or in the one that it imports it from."""
    for node in body:
        if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets):
            return node.value
        if isinstance(node, ast.AnnAssign) and name == ast.unparse(node.target):
            return node.value
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("moleflow"):
            names = {alias.asname or alias.name: alias.name for alias in node.names}
            if name in names:
                return constant(names[name], source(node.module))
    return None


def descriptions(docstring: str) -> dict[str, str]:
    r"""Return the text of each argument in the `Args` of a docstring.

    Example:
        >>> descriptions("Does.\n\nArgs:\n    a: One\n        thing.\n    b: Other.\n\nMore.")
        {'a': 'One thing.', 'b': 'Other.'}
    """
    _, _, rest = docstring.partition("\nArgs:\n")
    block = textwrap.dedent(rest.partition("\n\n")[0]).replace("\n    ", " ")
    return {name: text for name, _, text in (line.partition(": ") for line in block.splitlines())}
