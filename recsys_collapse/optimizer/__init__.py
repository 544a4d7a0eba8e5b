"""Optimizers that torch does not have, one short file each; `conf/optimizer/<name>.yaml` says which one a run takes."""
