"""Measuring callbacks, one file each; `conf/callback/<name>.yaml` configures `<name>.py`, `callback=[a,b]` selects."""
