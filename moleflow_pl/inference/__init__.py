"""From images to decisions: `Predictor`, and where in an image the defect is.

Use `Predictor` from Python; `decisions` turns numbers into labels for it, `predict` and export.
"""
