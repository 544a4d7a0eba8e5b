"""Terms added to the loss, one file each; `conf/regularizer/<name>.yaml` configures `<name>.py`."""
