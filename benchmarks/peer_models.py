"""Our backbones in the libraries that a researcher would install: DeepCTR-Torch 0.3.0 and RecBole 1.2.1.

Neither has multi-embedding, so they stand beside single-embedding at every size. Options come from conf/model; each
model below is a class of the library, configured to the same architecture. What still differs from ours:

- All of DeepCTR-Torch: one `nn.Embedding` per field, ids travel as float32, the layers' arithmetic is the library's
  (pairs of ipnn are gathered twice and multiplied, the CIN holds all N*I products).
- `dnn`: `WDL` without its wide part. Nothing else differs.
- `fm`: `DeepFM` without its deep and its linear part. Nothing else differs.
- `ipnn`: `PNN`, which has no switch for batch norm: its `dnn` is replaced by the library's own `DNN` that has it.
- `xdeepfm`: `xDeepFM` without its linear part and without split maps. One bias fewer: CIN and MLP share the last one.
- `dcnv2`: RecBole's `DCNV2`, `structure: stacked`, `mixed: False` (DeepCTR-Torch has the parallel form only). Its table
  is fused, as ours. Dropout stands before every hidden layer and not after it. A first-order table (one weight per id
  and a bias) is built but never used, so that it is not trained. Its sigmoid is left out, since we want logits, and
  its `Config` and `Dataset` are stand-ins with what the model asks for: the real one wants files with every id.

No equal architecture: nfwfm, finalmlp; ffm (RecBole's has one table more per id).

Shapes: B batch, N fields.
"""

import contextlib
import importlib
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from recsys_collapse.config import config_dir
from recsys_collapse.head import ScalarHead
from recsys_collapse.layers import GroupedLinear
from recsys_collapse.model.backbone import Backbone
from recsys_collapse.model.xdeepfm import CINLayer

DEEPCTR, RECBOLE = "deepctr_torch", "recbole"
PEERS = {"dnn": DEEPCTR, "ipnn": DEEPCTR, "xdeepfm": DEEPCTR, "dcnv2": RECBOLE, "fm": DEEPCTR}
LARGEST_FLOAT_ID = 2**24  # every integer below has its own float32


class Peer(nn.Module):
    """A library's model: ids (B, N) without offsets -> logits (B,). `tables`, `linears` and `norms` in our order.

    A layer in `linears` has a `weight` and a `bias`, which is None where the library leaves it out.
    """

    model: Any

    def tables(self) -> list[nn.Embedding]:
        """The tables whose rows below each other are ours."""
        raise NotImplementedError

    def linears(self) -> list[Any]:
        """Linear layers and convolutions."""
        raise NotImplementedError

    def last_bias(self) -> nn.Parameter | None:
        """Added to the logit, for all biases of ours that have no layer of their own."""
        return None

    def norms(self) -> list[nn.BatchNorm1d]:
        """Batch norms."""
        return [layer for layer in self.modules() if isinstance(layer, nn.BatchNorm1d)]

    def default_loss(self, x_BN: Tensor, y_B: Tensor) -> Tensor:
        """What the library minimises if nothing is asked for."""
        raise NotImplementedError

    def default_optimizer(self) -> torch.optim.Optimizer:
        """What the library makes of "adam" if nothing else is asked for."""
        raise NotImplementedError


class DeepCTRPeer(Peer):
    """A model of DeepCTR-Torch. `task="regression"` is its way to leave out the sigmoid."""

    def __init__(self, name: str, cardinalities: Sequence[int], embed_size: int, options: dict[str, Any]) -> None:
        super().__init__()
        if max(cardinalities) > LARGEST_FLOAT_ID:
            raise ValueError(
                f"{max(cardinalities)} ids in a field: DeepCTR-Torch tells {LARGEST_FLOAT_ID} apart, float32"
            )
        with without_new_threads():
            inputs = import_peer(f"{DEEPCTR}.inputs")
            models, layers = import_peer(f"{DEEPCTR}.models"), import_peer(f"{DEEPCTR}.layers")
        columns = [inputs.SparseFeat(f"field{i}", size, embed_size) for i, size in enumerate(cardinalities)]
        hidden = options.get("hidden_sizes", ())
        deep = {"dnn_hidden_units": hidden, "dnn_dropout": options.get("dropout", 0), "task": "regression"}
        if name == "dnn":
            self.model = models.WDL([], columns, dnn_use_bn=True, **deep)
        elif name == "fm":
            self.model = models.DeepFM([], columns, **deep)
        elif name == "xdeepfm":
            cin = {"cin_layer_size": options["maps"], "cin_split_half": False}
            self.model = models.xDeepFM([], columns, dnn_use_bn=True, **cin, **deep)
        else:
            self.model = models.PNN(columns, **deep)
            width = self.model.dnn.linears[0].in_features
            self.model.dnn = layers.DNN(width, hidden, dropout_rate=options["dropout"], use_bn=True)

    def forward(self, x_BN: Tensor) -> Tensor:
        return self.model(x_BN.float()).squeeze(1)

    def tables(self) -> list[nn.Embedding]:
        return list(self.model.embedding_dict.values())

    def linears(self) -> list[Any]:
        maps = [*self.model.cin.conv1ds] if hasattr(self.model, "cin") else []
        if not hasattr(self.model, "dnn"):
            return maps
        first, *others = self.model.dnn.linears
        return [*maps, first, *([self.model.cin_linear] if maps else []), *others, self.model.dnn_linear]

    def last_bias(self) -> nn.Parameter | None:
        return self.model.out.bias

    def default_loss(self, x_BN: Tensor, y_B: Tensor) -> Tensor:
        """As `fit`: a sum over the batch, and 1e-5 times the squares of all embeddings."""
        probability_B = torch.sigmoid(self(x_BN))
        loss = nn.functional.binary_cross_entropy(probability_B, y_B, reduction="sum")
        return loss + self.model.get_regularization_loss() + self.model.aux_loss

    def default_optimizer(self) -> torch.optim.Optimizer:
        self.model.compile("adam", "binary_crossentropy")
        return self.model.optim


class RecBolePeer(Peer):
    """RecBole's DCNV2."""

    def __init__(self, cardinalities: Sequence[int], embed_size: int, options: dict[str, Any]) -> None:
        super().__init__()
        token = import_peer(f"{RECBOLE}.utils").FeatureType.TOKEN
        sizes = {f"field{i}": size for i, size in enumerate(cardinalities)}
        dataset = SimpleNamespace(
            fields=lambda source: list(sizes), num=sizes.__getitem__, field2type=dict.fromkeys(sizes, token)
        )
        config = {
            "LABEL_FIELD": "label",
            "device": torch.device("cpu"),
            "double_tower": False,
            "numerical_features": [],
            "mixed": False,  # this and the next two are its defaults
            "structure": "stacked",
            "reg_weight": 2,
            "embedding_size": embed_size,
            "cross_layer_num": options["num_cross_layers"],
            "mlp_hidden_size": list(options["hidden_sizes"]),
            "dropout_prob": options["dropout"],
        }
        self.model = import_peer(f"{RECBOLE}.model.context_aware_recommender.dcnv2").DCNV2(config, dataset)
        self.model.sigmoid = nn.Identity()
        self.names = list(sizes)

    def forward(self, x_BN: Tensor) -> Tensor:
        return self.model(dict(zip(self.names, x_BN.long().unbind(1), strict=True)))

    def tables(self) -> list[nn.Embedding]:
        return [self.model.token_embedding_table.embedding]

    def linears(self) -> list[Any]:
        pairs = zip(self.model.cross_layer_w, self.model.bias, strict=True)
        cross = [SimpleNamespace(weight=weight, bias=bias) for weight, bias in pairs]
        mlp = [layer for layer in self.model.mlp_layers.modules() if isinstance(layer, nn.Linear)]
        return [*cross, *mlp, self.model.predict_layer]

    def default_loss(self, x_BN: Tensor, y_B: Tensor) -> Tensor:
        """As `calculate_loss`: the mean over the batch, and twice the norm of every cross layer's matrix."""
        penalty = self.model.reg_weight * self.model.reg_loss(self.model.cross_layer_w)
        return self.model.loss(torch.sigmoid(self(x_BN)), y_B) + penalty

    def default_optimizer(self) -> torch.optim.Optimizer:
        """As its `Trainer`: learning rate 1e-3, no weight decay."""
        return torch.optim.Adam(self.model.parameters(), lr=1e-3, weight_decay=0.0)


def peer(name: str, cardinalities: Sequence[int], embed_size: int) -> Peer:
    """The library's model that is nearest to conf/model/<name>.yaml with one embedding set of size `embed_size`.

    Raises:
        ValueError: no library has it, or a field has more ids than the library can tell apart.
        ImportError: the library is not installed.
    """
    if name not in PEERS:
        raise ValueError(f"{name}: no library has the same architecture; expected one of {', '.join(PEERS)}")
    node: Any = OmegaConf.load(config_dir() / "model" / f"{name}.yaml")
    options: Any = OmegaConf.to_container(node.backbone)
    if PEERS[name] == RECBOLE:
        return RecBolePeer(cardinalities, embed_size, options)
    return DeepCTRPeer(name, cardinalities, embed_size, options)


def import_peer(module: str) -> Any:
    """A module of a library.

    Raises:
        ImportError: with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{module}: {error}; `make bench-peers` installs the peers into .venv-peers") from error


@contextlib.contextmanager
def without_new_threads() -> Any:
    """DeepCTR-Torch, once imported, asks PyPI in a thread for a newer version: a benchmark asks nobody."""
    with mock.patch.object(threading.Thread, "start"):
        yield


def parameter_counts(model: Peer) -> dict[str, int]:
    """Number of `embedding` parameters, in anything with one row per id, and of `dense` ones."""
    embedding = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Embedding))
    return {"embedding": embedding, "dense": sum(p.numel() for p in model.parameters()) - embedding}


@torch.no_grad()
def copy_weights(ours: Backbone, theirs: Peer) -> None:
    """All parameters and running statistics of our backbone, of one embedding set, into the peer.

    Raises:
        ValueError: layers do not correspond.
    """
    rows = ours.embedding.weight.split([table.num_embeddings for table in theirs.tables()])
    for table, rows_DK in zip(theirs.tables(), rows, strict=True):
        table.weight.copy_(rows_DK)
    left_over = [ours.head.bias] if isinstance(ours.head, ScalarHead) else []
    linears = [layer for layer in ours.modules() if isinstance(layer, GroupedLinear | CINLayer | nn.Linear)]
    for mine, layer in zip(linears, theirs.linears(), strict=True):
        # (O, N, I): the products of the peer's convolution are ordered the other way round.
        weight = mine.weight.transpose(2, 3) if isinstance(mine, CINLayer) else mine.weight
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        if layer.bias is None:
            left_over.append(mine.bias)
        else:
            layer.bias.copy_(mine.bias.reshape(layer.bias.shape))
    norms = [layer for layer in ours.modules() if isinstance(layer, nn.BatchNorm1d)]
    for norm, layer in zip(norms, theirs.norms(), strict=True):
        layer.load_state_dict(norm.state_dict())
    last_bias = theirs.last_bias()
    if (last_bias is None) == bool(left_over):
        raise ValueError(f"{len(left_over)} biases of ours are left over, and the peer's last one is {last_bias}")
    if last_bias is not None:
        last_bias.copy_(sum(left_over))
