"""Pickles of later protocols say the same in protocol 2, and cannot do more there."""

import argparse
import collections
import enum
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_collapse.diagnose.weights import read_weights
from recsys_collapse.diagnose.weights.protocol import as_protocol_2, protocol_of

TABLE_DK = torch.arange(12.0).reshape(4, 3)


class Kind(enum.Enum):
    POINT = 1


scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.lists(inner, max_size=2).map(lambda one: [one, one, "a", "a"])  # the same thing twice
    ),
    max_leaves=8,
)


@given(values, st.sampled_from([3, 4, 5]))
@settings(deadline=None, max_examples=60)
def test_values_stay_what_they_are(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    assert protocol_of(data) == protocol
    written = as_protocol_2(data)
    assert protocol_of(written) == 2
    assert pickle.loads(written) == value
    assert as_protocol_2(written) == written


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_objects_stay_what_they_are(protocol: int) -> None:
    shared = collections.OrderedDict(a=argparse.Namespace(rate=0.1, kind=Kind.POINT))
    value = [shared, shared, Kind.POINT, "rate", {"x" * 300: 2**40}]
    found = pickle.loads(as_protocol_2(pickle.dumps(value, protocol)))
    assert found == value and found[0] is found[1]
    assert pickle.loads(as_protocol_2(pickle.dumps([b"\xff\x00"], protocol))) == ["\xff\x00"]
    if protocol > 3:  # which has frozen sets of its own
        assert pickle.loads(as_protocol_2(pickle.dumps([frozenset([1])], protocol))) == [(1,)]


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_checkpoints_of_later_protocols(tmp_path: Path, protocol: int) -> None:
    """As RecBole writes them: a config object beside a state dict."""
    state = collections.OrderedDict({"embedding_dict.a.weight": TABLE_DK, "embedding_dict.b.weight": TABLE_DK[1:]})
    plain, mixed = tmp_path / "plain.pt", tmp_path / "mixed.pt"
    torch.save({"epoch": 2, "state_dict": state}, plain, pickle_protocol=protocol)
    found = read_weights(plain)
    assert found.values == {"epoch": 2} and found.tensors.keys() == state.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in state.items())
    one, other = found.tensors.values()
    assert one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()  # one table, shared as it was
    torch.save({"config": argparse.Namespace(kind=Kind.POINT), "state_dict": state}, mixed, pickle_protocol=protocol)
    with pytest.raises(ValueError, match=r"argparse.Namespace.*Nothing of it was run"):
        read_weights(mixed)
    found = read_weights(mixed, skip_objects=True)
    assert torch.equal(found.tensors["embedding_dict.a.weight"], TABLE_DK)


def test_a_file_that_lies_about_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"embedding_dict.a.weight": TABLE_DK}, path, pickle_protocol=4)
    data = path.read_bytes()
    assert data.count(b"K\x0c") == 1  # 12 numbers
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for count in (13, 200):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in parts.items():
                archive.writestr(name, content.replace(b"K\x0c", bytes([75, count])))
        with pytest.raises(ValueError, match=f"{count} numbers are said to be in 48 bytes"):
            read_weights(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, b"big" if name.endswith("byteorder") else content)
    with pytest.raises(ValueError, match="numbers with the highest byte first"):
        read_weights(path)


def test_names_that_no_pickler_writes_are_refused() -> None:
    text = b"\x8c\x02os"
    for data in (b"\x93.", text + b"\x93.", text + b"0\x93.", text + b"\x8c\x02a\n\x93."):
        with pytest.raises(ValueError, match="a class is named in a way that no pickler writes"):
            as_protocol_2(b"\x80\x04" + data)


def test_a_text_that_is_asked_for_many_times_is_written_once() -> None:
    """Else 600 KB would become 40 GB."""
    text = "x" * 10_000
    data = pickle.dumps([text] * 5_000, 4)
    written = as_protocol_2(data)
    assert len(written) < 3 * len(data) + 40_000 and pickle.loads(written) == [text] * 5_000
    named = pickle.dumps([argparse.Namespace, "Namespace", "Namespace", "argparse"], 4)  # first of all a class's name
    assert pickle.loads(as_protocol_2(named)) == [argparse.Namespace, "Namespace", "Namespace", "argparse"]


@given(st.binary(max_size=40))
@settings(deadline=None, max_examples=200)
def test_damage_is_an_error_or_a_pickle(data: bytes) -> None:
    whole = pickle.dumps({"a": [1, "x", (2.5, None)], "b": "x"}, 4)
    for cut in (len(data) % len(whole), 2):
        try:
            written = as_protocol_2(whole[:cut] + data)
        except (ValueError, struct.error, IndexError, UnicodeDecodeError):
            continue
        assert protocol_of(written) == 2 or written == whole[:cut] + data
