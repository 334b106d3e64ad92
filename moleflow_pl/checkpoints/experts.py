"""Expert files: all that a site learned of a product, for runs on the same base."""

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
from moleflow_pl._internal.schema import SEAL, require_schema, require_seal, stamp, validate
from moleflow_pl._internal.signing import SIGNATURE, require_signature, sign
from moleflow_pl._internal.torch_files import MOST_PLAIN
from moleflow_pl.checkpoints.schema import one_line, require_finite, validate_tasks
from moleflow_pl.errors import CheckpointError, MoLEFlowError, raise_if_out_of_memory
from moleflow_pl.tasks.schedule import Task, TaskSchedule

PLACEHOLDER = "*"  # in place of the task's number in an expert file
LONGEST_NUMBER = 10  # digits
HEADER = 8  # bytes at the start that say how long the text is
TASK_LISTS = ("experts", "prototypes")  # of task numbers, in a checkpoint's state


@dataclass
class Expert:
    """All that belongs to one task alone.

    Attributes:
        tensors: By their names in the checkpoint, the task's number replaced by `*`.
        task: The task's state: products, calibration, hash of its images.
        lists: Which lists of the checkpoint's state name the task.
        base: Hash of the base's tensors, which the expert needs unchanged.
        backbone: Fingerprint of the backbone.
        structure: The model's arguments that decide what its tensors mean.
        metrics: Its last evaluation, routed and oracle.
        versions: Of the packages that wrote it.
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
        # an evaluation is the run's, not the expert's
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
            CheckpointError: there is no such file, or it is not an expert file of this schema, or
                it does not hold what was written.
        """
        try:
            require_short_header(path)
            with safe_open(path, framework="pt") as file:
                text = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except Exception as error:  # what another program wrote can break a reader in any way
            raise CheckpointError(f"no expert file at {path}: {one_line(error)}") from error
        name, schema = f"the expert file {path}", text.get("schema", "")
        seal, signature = text.pop(SEAL, ""), text.pop(SIGNATURE, None)
        number = int(schema) if schema.isdecimal() and len(schema) < LONGEST_NUMBER else None
        require_schema({**text, "schema": number}, name)
        require_seal(seal or None, content_hash([text, tensors]), name)
        require_signature(signature, seal, name)
        try:
            require_finite(tensors)
            task, facts = parse_metadata(text)
        except Exception as error:  # its text can break a parser in any way
            raise_if_out_of_memory(error)
            raise CheckpointError(f"{name} cannot be used: {one_line(error)}") from error
        return cls(tensors, task, base=text.get("base_sha256", ""), **facts)


def require_short_header(path: Path) -> None:
    """Refuse a file whose text is longer than an expert's, before it is unpacked.

    Raises:
        CheckpointError: it is.
        OSError: the file cannot be read.
    """
    with regular(path).open("rb") as file:
        length = int.from_bytes(file.read(HEADER), "little")
    if length > MOST_PLAIN:
        raise CheckpointError(f"its header has {length} bytes, of {MOST_PLAIN} at most")


@contextmanager
def taking_over(path: Path) -> Iterator[Path]:
    """Name an expert's file, not the checkpoint, where the file is why it cannot be taken over.

    Raises:
        CheckpointError: it is damaged, or fits no model like the checkpoint's.
    """
    try:
        yield path
    except CheckpointError as error:
        if str(path) in str(error):
            raise
        raise CheckpointError(f"the expert file {path} cannot be used: {error}") from error
    except (MoLEFlowError, OSError):
        raise
    except Exception as error:  # its contents can break what reads them in any way
        raise_if_out_of_memory(error)
        raise CheckpointError(f"the expert file {path} is damaged: {one_line(error)}") from error


class Facts(TypedDict):
    """What an expert file says beside its task and its tensors."""

    lists: list[str]
    backbone: dict[str, Any]
    structure: dict[str, Any]
    metrics: dict[str, dict[str, float | None]]
    versions: dict[str, str]


def parse_metadata(metadata: Mapping[str, str]) -> tuple[Task, dict[str, Any]]:
    """An expert's task and `Facts`, from the text in its file.

    Raises:
        CheckpointError: they have another form, or the task is not learned.
        KeyError: one is missing.
        ValueError: one is not JSON.
    """
    facts = {key: json.loads(metadata[key]) for key in Facts.__annotations__}
    validate(facts, Facts, "it")
    state = json.loads(metadata["task"])
    validate_tasks([state])
    (task,) = TaskSchedule.from_state([state]).tasks
    if not task.learned or sorted(facts["lists"]) != sorted(TASK_LISTS):
        raise CheckpointError("its task is not learned")
    return task, facts
