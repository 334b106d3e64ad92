import torch

from moleflow_pl.cli.validation import validation_table
from moleflow_pl.tasks.schedule import TaskSchedule


def test_every_task_that_was_validated_has_a_row_with_its_whole_name() -> None:
    schedule = TaskSchedule()
    schedule.extend([["a long name of a product"], ["gone"], ["c"]], epochs=1)
    metrics = {
        "val/a long name of a product/nll_per_dim": torch.tensor(1.5),
        "val/a long name of a product/routing_accuracy": torch.tensor(0.25),
        "val/c/nll_per_dim": torch.tensor(-2.0),
    }
    table = validation_table(schedule, metrics)
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    assert cells == [["a long name of a product", "c"], ["1.500", "-2.000"], ["0.250", "-"]]
