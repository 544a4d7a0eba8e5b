"""The collapse in a model trained elsewhere: `python -m recsys_collapse.diagnose CHECKPOINT`."""
