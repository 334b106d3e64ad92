"""What a report says beside its numbers: cost, and where the numbers come from."""

from __future__ import annotations

import sys
from typing import Any

from moleflow_pl._internal.provenance import hardware, versions
from moleflow_pl.model.inspector import Inspector


def cost(inspector: Inspector, tasks: int) -> dict[str, Any]:
    """Parameters of the shared part and of each of the first tasks, and memory at its peak.

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
    """Numbers in the prototypes of a task."""
    routers = (inspector.router, inspector.novelty)
    return sum(b.numel() for router in routers for b in router.prototypes[str(task)].buffers())


def about(inspector: Inspector, tasks: int, seed: int, config: str) -> dict[str, Any]:
    """What a report says of where its numbers come from.

    Args:
        inspector: The model.
        tasks: How many tasks the report is about.
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
    """Largest resident memory of this process so far, in MB; None where the system has no count."""
    try:
        import resource
    except ModuleNotFoundError:  # on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
