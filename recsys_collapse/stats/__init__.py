"""Statistics of AUC differences: every claim with an interval, and with the difference that could have been found.

    question                                                        function
    one AUC, without its scores: how exact?                         hanley_mcneil
    two models, the same test rows: do they differ?                 delong
    any sum of AUCs (mean over seeds, slope): value and variance    placements, auc_contrast
    another metric than AUC, or rows that hang together (users)     paired_bootstrap
    mean over seeds; ME - SE paired by seed                         student, paired
    other seeds and other test rows, both                           both_sources
    how small a difference could this experiment find?              minimum_detectable
    is there no difference worth naming? no gain?                   equivalence, not_above
    many models, one claim                                          holm
    AUC per doubling of the size, SE against ME                     slope_weights
    which law does the loss follow?                                 fit_scaling

The claim "ME gains more from scale than SE", from the runs of S seeds and all cells:

    weight_C = slope_weights(cells)["difference"]
    per_seed = [weight_C @ auc_SC[seed] for seed in range(S)]
    runs = (placements(logits(seed, cell), label_n) for seed in range(S) for cell in cells)
    _, test_variance = auc_contrast([*weight_C / S] * S, runs)
    slope = both_sources(per_seed, test_variance)
"""

from recsys_collapse.stats.auc import Placements, auc_contrast, delong, hanley_mcneil, placements
from recsys_collapse.stats.bootstrap import Bootstrap, paired_bootstrap
from recsys_collapse.stats.decision import Equivalence, equivalence, holm, minimum_detectable, not_above
from recsys_collapse.stats.interval import Interval, both_sources, paired, student
from recsys_collapse.stats.scaling import Candidate, ScalingFit, fit_scaling, slope_weights

__all__ = [
    "Bootstrap",
    "Candidate",
    "Equivalence",
    "Interval",
    "Placements",
    "ScalingFit",
    "auc_contrast",
    "both_sources",
    "delong",
    "equivalence",
    "fit_scaling",
    "hanley_mcneil",
    "holm",
    "minimum_detectable",
    "not_above",
    "paired",
    "paired_bootstrap",
    "placements",
    "slope_weights",
    "student",
]
