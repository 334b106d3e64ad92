"""Models as files for other runtimes: ONNX and `torch.export`, verified before they are kept.

A new runtime goes into `runtimes`. Private: `stacked`, the form in which experts share one graph.
"""
