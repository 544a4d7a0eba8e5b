"""The card for people: what the model is, what its fields are, and how to use it, with code that runs as it stands."""

import re
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
ids = numpy.array(card["example"]["ids"], numpy.int64)  # (B, N), any B >= 1, fields in the order of the table below
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
`card.json` under `architecture`: the equation, every module, and what each kind of module computes.

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
NO_EDGES = (
    "The edges of {} were not recorded when the data was prepared: new values of these fields cannot be bucketed."
)
BUCKETS = """\
The buckets, of which the edges of quantiles stand in `card.json`:

```text
{}
```
"""
README = """\
# {run_name}

A click-through rate model: `{target}`, {embed} at scale {scale}, {sets}. It maps {num_fields} categorical fields to the
logit of `{label}`.

Exported as `{kind}` by `recsys_collapse`: input {inputs}, output {outputs}.{versions_of_onnx}
{outside} {verified}

## Use it

In this folder:

{load}
## From values to ids

{values}

{encode}
{no_edges}

{buckets}

## Fields

| | field | column | cardinality | first row | bucket |
|---|---|---|---|---|---|
{fields}

## Metrics

{metrics}

## Data

`{data_name}`, {rows} rows ({parts}), of which positive {positives}; fingerprint {fingerprint}.
`vocabulary.parquet` holds values of this data as they were: share it only where you would share those.

## Precision and versions

{precision}

Run {run_id}, code {code_version}. Trained with {trained_with}; exported with {exported_with}.
"""


def readme(card: dict[str, Any]) -> str:
    """README.md of a card, in Markdown."""
    about, data, target = card["format"], card["data"], card["architecture"]["backbone"]["_target_"]
    size, many = card["embed_size"], card["num_sets"] > 1
    no_edges = _without_edges(card)
    text = README.format(
        run_name=_cell(card["run_name"]),
        target=target,
        embed=card["embed"],
        scale=card["scale"],
        sets=f"{card['num_sets']} embedding {'sets' if many else 'set'} of size {size}",
        num_fields=len(card["fields"]),
        label=_cell(card["label"] or "label"),
        kind=card["kind"],
        inputs=about["inputs"],
        outputs=about["outputs"],
        versions_of_onnx=f" Opset {about['opset']}, IR version {about['ir_version']}." if "opset" in about else "",
        outside=card["outside"],
        verified=_verified(about["verified"]),
        load=LOAD[card["kind"]].replace("ARGUMENTS", _arguments(target)),
        values=card["values"],
        encode=ENCODE,
        no_edges=NO_EDGES.format(", ".join(no_edges)) if no_edges else "",
        buckets=BUCKETS.format(card["buckets"]) if card["buckets"] else "",
        fields="\n".join(_row(number, field) for number, field in enumerate(card["fields"])),
        metrics="\n".join(_metrics(card)),
        data_name=_cell(data["name"]),
        rows=data["rows"],
        parts=_list(data["parts"]),
        positives=_list(data["positives"]),
        fingerprint=card["data_fingerprint"],
        precision=card["precision"]["words"],
        run_id=card["run_id"],
        code_version=card["code_version"],
        trained_with=_list(card["versions"]["training"]),
        exported_with=_list(card["versions"]["export"]),
    )
    return re.sub(r"\n{3,}", "\n\n", text)  # where a paragraph is empty


def _metrics(card: dict[str, Any]) -> list[str]:
    truth = (card["metrics"].get("truth") or {}).get("test", {})  # of data whose answer is known
    numbers = card["metrics"] | {f"test_{key}": value for key, value in truth.items()}
    found = [f"- {key}: {value}" for key, value in numbers.items() if isinstance(value, float)]
    missing = [f"- {key}: none, as {why}" for key, why in (card["metrics"].get("null_reasons") or {}).items()]
    return [*found, *missing, f"- parameters: {_list(card['parameters'])}"]


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


def _verified(about: dict[str, Any]) -> str:
    if about["largest_difference"] is None:
        return f"It was {about['why']}."
    return f"Read back after writing, its logits were those of the model within {about['largest_difference']:.1g}."


def _without_edges(card: dict[str, Any]) -> list[str]:
    fields = card["fields"]
    return [_cell(f["name"]) for f in fields if (f["bucket"] or "").startswith("quantile") and f["edges"] is None]


def _list(about: dict[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in about.items() if number is not None)
