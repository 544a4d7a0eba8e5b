"""Backbones, one short file each; `conf/model/<name>.yaml` configures `<name>.py`."""
