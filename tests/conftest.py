"""One thread per test process: two xdist workers with two threads each wait for each other on two cores."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in the subprocesses of the tests
os.environ.pop("WANDB_MODE", None)
