"""The schedule of tasks, and the thresholds that follow from calibration images.

Plain data and arithmetic, without models or files. Add a new number of a task as a field of
`schedule.Task`; nothing here is registered by name. No module is private.
"""
