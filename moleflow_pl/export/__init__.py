"""Models as files for other runtimes, ONNX and `torch.export`, verified against the model.

Add a runtime in `runtimes`: a `Format`, and a branch of `write` and of `open_file`. Private:
`stacked`, which puts the experts of several tasks into one graph.
"""
