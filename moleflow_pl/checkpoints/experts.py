"""Expert files: everything learned about a product, for runs on the same base."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from moleflow_pl._internal.files import regular, replacing
from moleflow_pl._internal.hashing import content_hash
from moleflow_pl._internal.schema import SEAL, require_seal, stamp, validate
from moleflow_pl._internal.signing import SIGNATURE, require_signature, sign
from moleflow_pl._internal.torch_files import utf8_name
from moleflow_pl._internal.upgrade import Kind, require_readable, upgrade
from moleflow_pl.checkpoints.finite import require_finite
from moleflow_pl.checkpoints.schema import one_line, validate_tasks
from moleflow_pl.errors import CheckpointError, MoLEFlowError, raise_if_out_of_memory
from moleflow_pl.tasks.schedule import Task, TaskSchedule

PLACEHOLDER = "*"  # in place of the task's number in an expert file
LONGEST_NUMBER = 10  # digits of a schema number
HEADER = 8  # bytes at the start that hold the length of the metadata
MOST_HEADER = 2**24  # bytes of the metadata, in which a calibration image takes 45
TASK_LISTS = ("experts", "prototypes")  # of task numbers, in a checkpoint's state


@dataclass
class Expert:
    """Everything that belongs to one task alone.

    Attributes:
        tensors: Tensors by their names in the checkpoint, with `*` for the task's number.
        task: The task's state: products, calibration, hash of its images.
        lists: The lists in the checkpoint's state that contain the task.
        base: Hash of the base's tensors, which the expert needs unchanged.
        backbone: Fingerprint of the backbone.
        structure: The model's arguments that determine what its tensors mean.
        metrics: Its last evaluation, routed and oracle.
        versions: Versions of the packages that wrote it.
    """

    tensors: dict[str, Tensor]
    task: Task
    lists: list[str]
    base: str
    backbone: dict[str, Any]
    structure: dict[str, Any]
    metrics: dict[str, dict[str, float | None]]
    versions: dict[str, str]

    def metadata(self) -> dict[str, str]:
        """Everything but the tensors, as text."""
        # an evaluation belongs to the run, not to the expert
        task, calibration = {**asdict(self.task), "evaluation": None}, self.task.calibration
        threshold = "" if calibration is None else repr(calibration.score_threshold.value)
        return {
            **{key: str(value) for key, value in stamp().items()},
            "product": self.task.name,
            "base_sha256": self.base,
            "data_sha256": self.task.split or "",
            "threshold": threshold,
            "task": json.dumps(task),
            "lists": json.dumps(self.lists),
            "backbone": json.dumps(self.backbone),
            "structure": json.dumps(self.structure),
            "metrics": json.dumps(self.metrics),
            "versions": json.dumps(self.versions),
        }

    def save(self, path: Path) -> None:
        """Write one `.safetensors` file."""
        tensors, text = {k: t.contiguous() for k, t in self.tensors.items()}, self.metadata()
        seal = content_hash([text, tensors])
        with replacing(path, "wb") as file:
            file.write(save(tensors, {**text, SEAL: seal, **sign(seal)}))

    @classmethod
    def load(cls, path: Path) -> Expert:
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is missing, damaged, or not an expert file of this
                schema.
        """
        try:
            require_short_header(path)
            with utf8_name(path) as named, safe_open(named, framework="pt") as file:
                text = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except Exception as error:  # a file of another program can break a reader in any way
            raise CheckpointError(
                f"no expert file at {path} ({one_line(error)}): give one that moleflow experts "
                "export wrote"
            ) from error
        name = f"the expert file {path}"
        seal, signature = text.pop(SEAL, ""), text.pop(SIGNATURE, None)
        stored = {**text, "schema": schema_number(text.get("schema", ""))}
        require_readable(stored, name)
        require_seal(seal or None, content_hash([text, tensors]), name)
        require_signature(signature, seal, name)
        try:
            require_finite(tensors)
            content = upgrade(Kind.EXPERT, parse_metadata(stored), name)
            task, facts = task_and_facts(content)
        except Exception as error:  # its metadata can break a parser in any way
            raise_if_out_of_memory(error)
            raise CheckpointError(
                f"{name} cannot be used: {one_line(error)}; export it again"
            ) from error
        return cls(tensors, task, base=content.get("base_sha256", ""), **facts)


def require_short_header(path: Path) -> None:
    """Raise an error if a file's header is too long, before it is read.

    Raises:
        CheckpointError: the header is too long.
        OSError: the file cannot be read.
    """
    with regular(path).open("rb") as file:
        length = int.from_bytes(file.read(HEADER), "little")
    if length > MOST_HEADER:
        raise CheckpointError(
            f"its header has {length} bytes, and at most {MOST_HEADER} are allowed"
        )


@contextmanager
def taking_over(path: Path) -> Iterator[Path]:
    """Within the block, let errors name the expert file instead of the checkpoint.

    Raises:
        CheckpointError: the file is damaged, or does not fit the checkpoint's model.
    """
    try:
        yield path
    except CheckpointError as error:
        if str(path) in str(error):
            raise
        raise CheckpointError(f"the expert file {path} cannot be used: {error}") from error
    except (MoLEFlowError, OSError):
        raise
    except Exception as error:  # its contents can break a reader in any way
        raise_if_out_of_memory(error)
        raise CheckpointError(
            f"the expert file {path} is damaged: {one_line(error)}; export it again"
        ) from error


class Facts(TypedDict):
    """Metadata of an expert file besides its task."""

    lists: list[str]
    backbone: dict[str, Any]
    structure: dict[str, Any]
    metrics: dict[str, dict[str, float | None]]
    versions: dict[str, str]


def schema_number(text: str) -> int | None:
    """The number of a schema in the metadata; None if it is not one."""
    return int(text) if text.isdecimal() and len(text) < LONGEST_NUMBER else None


def parse_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Parse the entries of an expert's metadata that are JSON.

    Raises:
        ValueError: an entry is not JSON.
    """
    entries = {"task", *Facts.__annotations__} & set(metadata)
    return {**metadata, **{key: json.loads(metadata[key]) for key in entries}}


def task_and_facts(content: Mapping[str, Any]) -> tuple[Task, dict[str, Any]]:
    """Validate the task and the `Facts` of an expert in its parsed metadata.

    Raises:
        CheckpointError: an entry has the wrong type, or the task is not learned.
        KeyError: an entry is missing.
    """
    facts = {key: content[key] for key in Facts.__annotations__}
    validate(facts, Facts, "it")
    validate_tasks([content["task"]])
    (task,) = TaskSchedule.from_state([content["task"]]).tasks
    if not task.learned or sorted(facts["lists"]) != sorted(TASK_LISTS):
        raise CheckpointError("its task is not learned")
    return task, facts
