"""Files of a run: checkpoints, expert files, and every path of a run folder.

A new field of a checkpoint goes into `schema`; `upgrade` is the one place that reads older schemas.
Private: `io`, which reads and writes the bytes.
"""
