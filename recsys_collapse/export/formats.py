"""The model in each format: written, and read back as it will be used.

Shapes: B batch, N fields, M embedding sets, K embedding size per set.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from recsys_collapse import __version__
from recsys_collapse.build import build
from recsys_collapse.model.backbone import Backbone
from recsys_collapse.runs.checkpoint import misfit

FILES = {"safetensors": "model.safetensors", "torch_export": "model.pt2", "onnx": "model.onnx"}
OPSET = 20  # of ONNX 1.15, November 2023
LARGEST_ONNX = 2**31 - 2**24  # bytes of weights in the file itself: protobuf ends at 2 GiB
BUILT = ("backbone", "cardinalities", "num_sets", "embed_size")
"""Of the card's `architecture`, what the backbone is built from."""
KEPT = (torch.float32, torch.float64)


class Servable(nn.Module):
    """A backbone as it is used: ids (B, N), int32 or int64 -> logit (B,) float32.

    An id that its field does not have is read as 0, the id of rare and unseen values. All fields share one table, so
    it would otherwise silently get the embedding of another field.
    """

    cardinality_N: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("cardinality_N", torch.tensor(backbone.embedding.cardinalities))

    def forward(self, ids: Tensor) -> Tensor:  # the name of the input in every format
        known_BN = (ids >= 0) & (ids < self.cardinality_N)
        return self.backbone(torch.where(known_BN, ids, 0)).float()


def servable(backbone: Backbone) -> Servable:
    """The backbone with float32 weights if that loses nothing (bfloat16, float16), else as it is (float64)."""
    keeps = backbone.embedding.weight.dtype in KEPT
    return Servable(backbone if keeps else deepcopy(backbone).float()).eval()


def write(kind: str, model: Servable, folder: Path, example_BN: Tensor) -> dict[str, Any]:
    """Write the model into `folder`; what the card has to say of the format.

    Raises:
        ValueError: a library is not installed, or the format cannot express the model.
    """
    path = folder / FILES[kind]
    if kind == "safetensors":
        return write_safetensors(model, path)
    with told_if_untraceable(kind), torch.no_grad():
        # Two rows: torch would take a batch of one for a batch that is always one.
        shapes = {"ids": {0: torch.export.Dim("batch", min=1)}}
        program = torch.export.export(model, (example_BN[:2],), dynamic_shapes=shapes)
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # paths of this machine
    if kind == "onnx":
        return write_onnx(program, model, path)
    torch.export.save(program, path)
    return {"inputs": "ids (B, N) int64 or int32", "outputs": "logit (B,) float32"}


def write_safetensors(model: Servable, path: Path) -> dict[str, Any]:
    """Every weight and buffer of the backbone, also buffers that its state dict leaves out, under their names in it."""
    with told_if_missing():
        from safetensors.torch import save_file
    tensors = model.backbone.state_dict() | dict(model.backbone.named_buffers())
    about = {"format": "pt", "kind": "recsys_collapse backbone", "version": __version__}
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path, metadata=about)
    return {"inputs": "ids (B, N) int64 or int32", "outputs": "logit (B,) float32", "metadata": about}


def write_onnx(program: torch.export.ExportedProgram, model: Servable, path: Path) -> dict[str, Any]:
    """A graph with the weights in it or, above 2 GB, beside it in `model.onnx.data`."""
    with told_if_missing():
        import onnx
        import onnxscript  # noqa: F401 (torch needs it)
    with told_if_untraceable("onnx"), quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=["ids"],
            output_names=["logit"],
            dynamic_shapes={"ids": {0: "batch"}},
            opset_version=OPSET,
            verbose=False,
        )
    assert made is not None  # None is for `f=...`
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    made.save(path, external_data=size > LARGEST_ONNX)
    onnx.checker.check_model(str(path))
    ir_version = onnx.load(str(path), load_external_data=False).ir_version
    inputs, outputs = "ids (B, N) int64", "logit (B,) float32"
    return {"inputs": inputs, "outputs": outputs, "opset": OPSET, "ir_version": ir_version}


def read(kind: str, folder: Path, built: dict[str, Any]) -> Any:
    """What was written as a function ids (B, N) -> logit (B,); None: there is no onnxruntime to run it."""
    path = folder / FILES[kind]
    if kind == "safetensors":
        return load_weights(folder, built)
    if kind == "torch_export":
        return torch.export.load(path).module()
    return _onnx_session(path)


def _onnx_session(path: Path) -> Callable[[Tensor], Tensor] | None:
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(ids_BN: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logit"], {"ids": ids_BN.numpy()})[0])

    return run


def load_weights(folder: Path, built: dict[str, Any]) -> Servable:
    """The backbone that a card describes, built anew, with the weights of `model.safetensors`.

    Args:
        folder: where the file is.
        built: the card's `architecture`; trusted, as it says which class is built.

    Raises:
        ValueError: the weights cannot be read, or are not those of the model.
    """
    path = folder / FILES["safetensors"]
    with told_if_missing():
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    sizes = {key: built[key] for key in BUILT if key != "backbone"}
    backbone: Backbone = build(OmegaConf.create(built["backbone"]), "architecture.backbone", **sizes)
    state = {name: found[name] for name in backbone.state_dict() if name in found}
    if why := misfit({"state_dict": state}, backbone):
        raise ValueError(f"{path}: not the weights of the model that card.json describes: {why}")
    backbone.to(next(tensor.dtype for tensor in state.values() if tensor.is_floating_point()))
    backbone.load_state_dict(state)
    return Servable(backbone).eval()


@contextmanager
def told_if_missing() -> Iterator[None]:
    """A library of the extra `export` that is not installed is an error that says how to get it."""
    try:
        yield
    except ImportError as error:
        raise ValueError(
            f"predict.export needs {error.name}, which is not installed: pip install 'recsys-collapse[export]'"
        ) from error


@contextmanager
def told_if_untraceable(kind: str) -> Iterator[None]:
    """What torch cannot turn into a graph, such as a backbone of the user's own with an `if` on its numbers."""
    try:
        yield
    except Exception as error:  # there is no one class for it
        raise ValueError(
            f"predict.export={kind}: torch finds no graph of this model for any number of rows; "
            f"predict.export=safetensors needs none. {type(error).__name__}: {error}"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the remarks of the ONNX exporter on libraries that nobody needs here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
