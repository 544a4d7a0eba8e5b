"""What a planted model (`planted.py`) is made of. Without numpy: what only skips finished runs draws nothing."""

from dataclasses import dataclass

BLOCK = 1 << 14  # rows drawn at a time, always a whole block, so that a row does not depend on how many are asked for


@dataclass(kw_only=True)
class PlantedOptions:
    """What a planted model is made of.

    Args:
        num_fields: N.
        min_cardinality, max_cardinality: smallest and largest D_i; those between are log-spaced.
        cardinality_order: `sorted`: D_i grows with i; `shuffled`: in no order.
        cardinalities: D_i of every field instead of the three above; null: as they say.
        zipf, zipf_shift: value v = 1 .. D_i has probability ~ (v + shift)^-zipf.
        dependence: 0: fields are independent. Else the share of values that are drawn by the row's cluster, one of 20,
            each of which has its own frequent values.
        spurious_fields: how many fields have no effect at all.
        num_patterns: P.
        fields_per_pattern: S; all that are not spurious, if there are fewer.
        rank: r.
        centroids: how many a field's latents share in each pattern.
        own_share: share of a latent's variance that is the value's own, not its centroid's; 1 makes rare values
            unlearnable.
        linear_share, third_order_share: w_lin and w_3 of the logit's variance; the patterns have the rest, w_pat.
        base_rate: expected share of label 1.
        bayes_auc: expected AUC of the true logit, which no model can beat.
        data_seed: seed of everything drawn.
    """

    num_fields: int
    min_cardinality: int
    max_cardinality: int
    cardinality_order: str
    cardinalities: list[int] | None
    zipf: float
    zipf_shift: float
    dependence: float
    spurious_fields: int
    num_patterns: int
    fields_per_pattern: int
    rank: int
    centroids: int
    own_share: float
    linear_share: float
    third_order_share: float
    base_rate: float
    bayes_auc: float
    data_seed: int
