from moleflow_pl.metrics.names import METRICS


def test_metrics_are_those_of_the_summary() -> None:
    assert METRICS == (
        "image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "aupro",
    )  # fmt: skip
