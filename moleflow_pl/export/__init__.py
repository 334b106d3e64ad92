"""Models as files for other runtimes, ONNX and `torch.export`, verified against the model.

Add a runtime in `runtimes`: a `Format`, and a branch of `write` and `open_file`. Private:
`stacked`, in which the experts of several tasks share one graph.
"""
