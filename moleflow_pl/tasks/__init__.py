"""The schedule of tasks, and the thresholds that follow from calibration images.

Plain data and arithmetic, without models or files. A new number of a task is a field of
`schedule.Task`; nothing here is registered by name.
"""
