"""Names of the metrics, importable without the libraries that compute them."""

IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1_max")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "aupro")
METRICS = IMAGE_METRICS + PIXEL_METRICS
