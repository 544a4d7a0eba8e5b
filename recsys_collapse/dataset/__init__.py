"""From a user's rows to batches: a source reads, `build` makes ids, `store` keeps them, `batches` serves them.

`conf/dataset/<name>.yaml` configures the source in `<name>.py` or is a recipe for `table.py`; all else is the same
for all of them. Text is read by `text.py` (fast, block by block) and `records.py` (exact, what cannot be read fast).
"""
