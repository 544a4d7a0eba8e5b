"""From a user's rows to batches: a source reads, `encode` makes ids, `store` keeps them, `batches` serves them.

`conf/dataset/<name>.yaml` configures the source in `<name>.py`; everything else is the same for all of them.
"""
