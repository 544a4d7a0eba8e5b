"""The forward pass of every backbone, written once: y = F( mean_m I^(m)(e^(m)) ). Single-embedding is M=1.

A backbone is three parts: the embedding E, the interaction I (all M sets at once) and the shared head F. A new one
subclasses `Backbone`, takes `(cardinalities, num_sets, embed_size, <its own options>)` and builds the three parts.

Shapes: B batch, M embedding sets, N fields, K embedding size per set, H width of h, L cross layers.
"""

from typing import NamedTuple

from torch import Tensor, nn

from recsys_collapse.embedding import FieldEmbedding, FirstOrder


class Stages(NamedTuple):
    """What passes between the parts; callbacks and regularizers read these."""

    e_BMNK: Tensor
    h_BMH: Tensor
    logit_B: Tensor


class Backbone(nn.Module):
    """The paper's architecture (section 2 for M=1, section 5.1 for M>1).

    Args:
        embedding: ids (B, N) -> (B, M, N, K).
        interaction: (B, M, N, K) -> (B, M, H); copy m must see set m only.
        head: (B, H) -> logit (B,).
        first_order: ids (B, N) -> (B,), added to the logit; None (all models of the paper but FFM): nothing is.
    """

    def __init__(
        self, embedding: FieldEmbedding, interaction: nn.Module, head: nn.Module, first_order: FirstOrder | None = None
    ) -> None:
        super().__init__()
        self.embedding, self.interaction, self.head, self.first_order = embedding, interaction, head, first_order

    def stages(self, x_BN: Tensor) -> Stages:
        """All intermediate results for ids (B, N)."""
        e_BMNK = self.embedding(x_BN)
        h_BMH = self.interaction(e_BMNK)
        logit_B = self.head(h_BMH.mean(dim=1))
        if self.first_order is not None:
            logit_B = logit_B + self.first_order(x_BN)
        return Stages(e_BMNK, h_BMH, logit_B)

    def forward(self, x_BN: Tensor) -> Tensor:
        """Logits (B,) for ids (B, N), int32 or int64, each below the cardinality of its field."""
        return self.stages(x_BN).logit_B

    def tables(self) -> list[FieldEmbedding]:
        """Every table with one row per id: `embedding` first, then those of other parts."""
        return [module for module in self.modules() if isinstance(module, FieldEmbedding)]

    def pair_projections(self) -> Tensor:
        """W_{i->j} of every layer and set, (L, M, N, N, K, K), indexed [l, m, i, j].

        Raises:
            ValueError: the backbone projects no field pairs.
        """
        raise ValueError(f"{type(self).__name__} has no pair projections W_(i->j); model=dcnv2 has")

    def sub_gram(self, gram_MNKK: Tensor) -> Tensor:
        """Gram matrices of the sub-embeddings E_i^{->j}, (M, N, N, K, K), indexed [m, i, j], from those of E_i^(m).

        Raises:
            ValueError: the backbone has no sub-embeddings.
        """
        raise ValueError(f"{type(self).__name__} has no sub-embeddings E_i^(->j); dcnv2 and ffm have")


def refuse_sets(name: str, num_sets: int) -> None:
    """For a backbone whose interaction is linear in every embedding set (paper, appendix "Non-Linearity").

    Raises:
        ValueError: more than one embedding set.
    """
    if num_sets > 1:
        raise ValueError(
            f"{name} with {num_sets} embedding sets: without a non-linearity in the interaction, multi-embedding is "
            "single-embedding of the same size (paper, appendix on non-linearity): use embed=se"
        )
