"""Files of a run: checkpoints, expert files, and every path of a run folder.

A new field of a checkpoint goes into `schema`, and a step from the old schema into
`_internal.upgrade`. Private: `io`, which reads and writes the bytes.
"""
