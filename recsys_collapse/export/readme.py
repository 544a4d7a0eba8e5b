"""The card for people: what the model is, what its fields are, and how to use it, with code that runs as it stands."""

from typing import Any

LOAD = {
    "torch_export": """\
```python
import json
import torch

card = json.load(open("card.json", encoding="utf-8"))
model = torch.export.load("model.pt2").module()
ids = torch.tensor(card["example"]["ids"])  # (B, N), any B >= 1, fields in the order of the table below
with torch.inference_mode():
    logit = model(ids)  # (B,) float32
print(logit.sigmoid(), card["example"]["logit"])
```
""",
    "onnx": """\
```python
import json
import numpy
import onnxruntime

card = json.load(open("card.json", encoding="utf-8"))
model = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
ids = numpy.array(card["example"]["ids"])  # (B, N) int64, any B >= 1, fields in the order of the table below
(logit,) = model.run(["logit"], {"ids": ids})  # (B,) float32
print(1 / (1 + numpy.exp(-logit)), card["example"]["logit"])
```
""",
    "safetensors": """\
With `pip install 'recsys-collapse[export]'`:

```python
import json
import torch
from recsys_collapse.export import load

model, card = load(ARGUMENTS), json.load(open("card.json", encoding="utf-8"))
ids = torch.tensor(card["example"]["ids"])  # (B, N), any B >= 1, fields in the order of the table below
with torch.inference_mode():
    logit = model(ids)  # (B,) float32
print(logit.sigmoid(), card["example"]["logit"])
```

Without it, the weights are read with `safetensors`, here up to the embeddings of every set. What comes then is said in
`card.json` under `architecture`: the equation, every module with its shape, and what each kind of module computes.

```python
import json
import torch
from safetensors.torch import load_file

weights, card = load_file("model.safetensors"), json.load(open("card.json", encoding="utf-8"))
ids = torch.tensor(card["example"]["ids"])
cardinality = torch.tensor([field["cardinality"] for field in card["fields"]])
ids = torch.where((ids >= 0) & (ids < cardinality), ids, 0)
rows = weights["embedding.weight"][ids + weights["embedding.offset_N"]]  # (B, N, M*K)
e = rows.unflatten(2, (card["num_sets"], card["embed_size"])).transpose(1, 2)  # (B, M, N, K)
```
""",
}
ENCODE = """\
```python
import json
import polars

card = json.load(open("card.json", encoding="utf-8"))
vocabulary = polars.read_parquet("vocabulary.parquet")
id_of = {(field, value): id for field, value, id in vocabulary.iter_rows()}
values = {field["name"]: "" for field in card["fields"]}  # your row: text, or the bucket; here all missing
ids = [[id_of.get((field["name"], values[field["name"]]), 0) for field in card["fields"]]]
```
"""
NO_EDGES = """
The edges of {names} were not recorded when the data was prepared: new values of these fields cannot be bucketed.
"""


def readme(card: dict[str, Any]) -> str:
    """README.md of a card, in Markdown."""
    sets = f"{card['num_sets']} embedding set{'s' if card['num_sets'] > 1 else ''} of size {card['embed_size']}"
    words, kind, data = card["architecture"], card["kind"], card["data"]
    return "\n".join(
        [
            f"# {_cell(card['run_name'])}",
            "",
            f"A click-through rate model: `{words['backbone']['_target_']}`, {card['embed']} at scale {card['scale']}: "
            f"{sets}. It maps {len(card['fields'])} categorical fields to the logit of `{_cell(card['label'])}`.",
            "",
            f"Exported as `{kind}` by `recsys_collapse`: input {card['format']['inputs']}, output "
            f"{card['format']['outputs']}." + _onnx(card["format"]),
            card["outside"] + " " + _verified(card["format"]["verified"]),
            "",
            "## Use it",
            "",
            "In this folder:",
            "",
            LOAD[kind].replace("ARGUMENTS", _arguments(words["backbone"]["_target_"])),
            "## From values to ids",
            "",
            card["values"],
            "",
            ENCODE,
            *([NO_EDGES.format(names=", ".join(_without_edges(card)))] if _without_edges(card) else []),
            *(["", "The buckets:", "", "```text", card["buckets"], "```", ""] if card["buckets"] else []),
            "## Fields",
            "",
            "| | field | column | cardinality | first row | bucket |",
            "|---|---|---|---|---|---|",
            *(_row(number, field) for number, field in enumerate(card["fields"])),
            "",
            "## Metrics",
            "",
            *(f"- {key}: {value}" for key, value in card["metrics"].items() if isinstance(value, float)),
            *(f"- {key}: none, as {why}" for key, why in (card["metrics"].get("null_reasons") or {}).items()),
            f"- parameters: {card['parameters']}",
            "",
            "## Data",
            "",
            f"`{_cell(data['name'])}`, {data['rows']} rows ({data['parts']}), of which positive {data['positives']}; "
            f"fingerprint {card['data_fingerprint']}. `vocabulary.parquet` holds values of this data as they were: "
            "share it only where you would share those.",
            "",
            "## Precision and versions",
            "",
            card["precision"]["words"],
            "",
            f"Run {card['run_id']}, code {card['code_version']}. Trained with {_list(card['versions']['training'])}; "
            f"exported with {_list(card['versions']['export'])}.",
            "",
        ]
    )


def _arguments(target: str) -> str:
    """Of `load`, which builds a class from elsewhere only if it is told to."""
    is_ours = target.startswith("recsys_collapse.")
    return '"."' if is_ours else f'".", allow=["{target.rpartition(".")[0]}"]'


def _cell(text: Any) -> str:
    """In one line of Markdown, and in one cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("`", "'")


def _row(number: int, field: dict[str, Any]) -> str:
    cells = [number, *(field[key] for key in ("name", "column", "cardinality", "offset")), field["bucket"] or ""]
    return f"| {' | '.join(map(_cell, cells))} |"


def _onnx(about: dict[str, Any]) -> str:
    return f" ONNX opset {about['opset']}, IR version {about['ir_version']}." if "opset" in about else ""


def _verified(about: dict[str, Any]) -> str:
    if about["largest_difference"] is None:
        return f"It was {about['why']}."
    return f"Read back after writing, its logits were those of the model within {about['largest_difference']:.1g}."


def _without_edges(card: dict[str, Any]) -> list[str]:
    fields = card["fields"]
    return [_cell(f["name"]) for f in fields if (f["bucket"] or "").startswith("quantile") and f["edges"] is None]


def _list(about: dict[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in about.items() if number is not None)
