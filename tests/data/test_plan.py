from collections.abc import Callable
from pathlib import Path

from moleflow_pl import ContinualDataModule, MoLEFlow


def test_plan_of_a_model_is_all_a_data_module_needs(
    tiny_model: Callable[..., MoLEFlow], data_root: Path, tmp_path: Path
) -> None:
    module = tiny_model()
    data = ContinualDataModule(str(data_root), ["b"], num_workers=0)
    module.schedule.extend(data.groups, epochs=1)
    data.follow(module.data_plan, tmp_path)
    batch = next(iter(data.train_dataloader()))
    assert batch["task"].tolist() == [0] * len(batch["path"])
    assert data.plan.schedule is module.schedule
