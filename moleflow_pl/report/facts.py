"""Cost and provenance of a report's numbers."""

from __future__ import annotations

import sys
from typing import Any

from moleflow_pl._internal.provenance import hardware, versions
from moleflow_pl.model.inspector import Inspector


def cost(inspector: Inspector, tasks: int) -> dict[str, Any]:
    """Parameters of the shared part and of each task, and peak memory.

    The shared part counts the trained base and the fixed rotations, not the frozen backbone. The
    part of a task counts its expert and its prototypes.
    """
    flow = inspector.flow
    shared = sum(p.numel() for p in flow.base_parameters())
    shared += sum(block.w_perm.numel() for block in flow.flow)
    return {
        "shared_parameters": shared,
        "parameters_per_task": [
            sum(p.numel() for p in flow.expert_parameters(task)) + prototype_size(inspector, task)
            for task in range(tasks)
        ],
        "peak_memory_mb": peak_memory_mb(),
    }


def prototype_size(inspector: Inspector, task: int) -> int:
    """Number of values in the prototypes of a task."""
    routers = (inspector.router, inspector.novelty_router)
    return sum(b.numel() for router in routers for b in router.prototypes[str(task)].buffers())


def about(inspector: Inspector, tasks: int, seed: int, config: str) -> dict[str, Any]:
    """Provenance of a report: facts, hardware, versions and arguments.

    Args:
        inspector: The model.
        tasks: Number of tasks in the report.
        seed: Seed of the run.
        config: All arguments of the run, YAML.
    """
    backbone = inspector.extractor.fingerprint()
    facts = {
        "seed": str(seed),
        "backbone": f"{backbone['backbone']}, layers {backbone['layers']}, "
        f"images {backbone['image_size']}, weights {backbone['weights_sha256'][:12]}",
    }
    for task in inspector.schedule.tasks[:tasks]:
        facts[f"images of {task.name}"] = f"sha256 {task.split}"
    return {"facts": facts, "hardware": hardware(), "versions": versions(), "config": config}


def peak_memory_mb() -> float | None:
    """Peak resident memory of this process, in MB; None if the system does not report it."""
    try:
        import resource
    except ModuleNotFoundError:  # on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
