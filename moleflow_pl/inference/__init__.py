"""From images to decisions: `Predictor`, and the localisation of defects.

Use `Predictor` from Python, `drift` to watch a line, and `reviews` to improve a model. `decisions`
turns scores into labels for `Predictor`, `predict` and the service. Add a value of a decision as a
field of `decisions.Prediction`. `heatmap` is the home of `draw_heatmap`; no module is private.
"""
