"""Functional collapse: what a model loses when its tables keep fewer directions, without retraining.

`truncate.py` is the measurement, `of_run.py` does it for a run of this project, `of_function.py` for any model that a
function scores, `curves.py` is what comes out.
"""
