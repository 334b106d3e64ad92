"""What is learned when, and the thresholds that calibration images give each task.

Plain data and arithmetic: no model, no files.
"""
