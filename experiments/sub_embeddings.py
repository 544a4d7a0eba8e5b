"""Sub-embeddings and interaction patterns of finished runs, measured on their best weights: no run is made for them.

Shapes: M embedding sets, N fields, K embedding size per set, L cross layers.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from recsys_collapse.load import LoadedRun
from recsys_collapse.similarity import pair_norms, sub_abundance
from recsys_collapse.spectrum import TableSpectra, set_grams


class SubEmbeddings(NamedTuple):
    """Information abundance of sub-embeddings E_i^{->j} and of the fields' own tables."""

    ia_MNN: Tensor
    ia_MN: Tensor


@torch.no_grad()
def sub_embeddings(run: LoadedRun, centred: bool = False) -> SubEmbeddings:
    """Of every set, all rows as they are, or with their mean taken off.

    Raises:
        ValueError: the backbone has no sub-embeddings.
    """
    embedding = run.backbone.embedding
    weight, num_sets = embedding.weight.detach(), embedding.num_sets
    spectra = TableSpectra(weight, embedding.field_slices, num_sets, None, embedding.entries, exact=False)
    sub_MNNKK = run.backbone.sub_gram(set_grams(spectra.grams(centred), num_sets))
    ia_MNN = sub_abundance(sub_MNNKK, (spectra.moments.rows_N - int(centred)).clamp(min=0))
    own = [s for s in spectra.spectra(centred) if num_sets == 1 or s.embedding_set is not None]
    ia_MN = torch.tensor([s.information_abundance for s in own], dtype=torch.float64)
    return SubEmbeddings(ia_MNN, ia_MN.view(num_sets, len(embedding.cardinalities)))


@torch.no_grad()
def patterns(run: LoadedRun, layer: int = 0) -> Tensor:
    """||W_{i->j}^(m)||_F (M, N, N) of a cross layer.

    Raises:
        ValueError: the backbone projects no field pairs.
    """
    return pair_norms(run.backbone.pair_projections()[layer])


@torch.no_grad()
def distance_from_unitary(run: LoadedRun) -> float:
    """||W^T W - lambda I|| / ||W^T W|| with the best lambda, mean over layers and field pairs: 0 if unitary, at most 1.

    Raises:
        ValueError: the backbone projects no field pairs.
    """
    w_XKK = run.backbone.pair_projections()[:, 0].double().flatten(0, 2)
    gram_XKK = w_XKK.mT @ w_XKK
    trace_X, square_X = gram_XKK.diagonal(dim1=1, dim2=2).sum(1), gram_XKK.square().sum((1, 2))
    return (1 - trace_X.square() / (square_X * w_XKK.shape[-1])).clamp(min=0).sqrt().mean().item()
