"""Short values as integers: up to 8 bytes fit into one uint64, exactly and in the order of their bytes.

Large fields of click logs are hexadecimal words and numbers of up to 8 characters. As keys they need no dictionary of
all distinct values, which would take about 100 bytes for each and a cache miss or two for each row: they are counted by
sorting, in as many passes as keep the memory bounded, and looked up in a table of those that are frequent enough.

Shapes: n rows, v values that are kept, S slots of the table.
"""

import numpy as np
import polars as pl

LONGEST = 8  # bytes
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: the high bits of a product are well mixed
LOW, HIGH = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
PADDING = np.array([2**64 - 1 >> 8 * size if size < LONGEST else 0 for size in range(LONGEST + 1)], np.uint64)
SLICE = 1 << 20  # rows at a time
SORTED_AT_ONCE = 1 << 23  # keys: 64 MB


def pack(values: pl.Series) -> np.ndarray | None:
    """Keys (n,) uint64 of text without nulls, the bytes big-endian and padded with zeros.

    None if a value does not fit: it has more than 8 bytes, or fewer and is not ASCII, or has a zero byte.
    """
    sizes = values.str.len_bytes()
    if not len(values) or sizes.max() > LONGEST:  # type: ignore[operator]
        return None if len(values) else np.empty(0, np.uint64)
    padded = values if sizes.min() == LONGEST else values.str.pad_end(LONGEST, "\0")  # counts characters, not bytes
    keys = padded.cast(pl.Binary).bin.reinterpret(dtype=pl.UInt64, endianness="big")
    if keys.null_count():
        return None
    key_n = keys.to_numpy()
    filled_n = key_n | PADDING[sizes.to_numpy()]
    has_zero = ((filled_n - LOW) & ~filled_n & HIGH).any()
    return None if has_zero else key_n


def unpack(key_v: np.ndarray) -> pl.Series:
    """The text of keys."""
    if not len(key_v):
        return pl.Series("value", [], dtype=pl.String)
    words = np.ascontiguousarray(key_v).astype(">u8").view(f"S{LONGEST}")  # numpy drops the zeros at the end
    return pl.Series("value", words, dtype=pl.Binary).cast(pl.String)


def count_keys(
    key_n: np.ndarray, counted_n: np.ndarray, min_count: int, at_once: int = SORTED_AT_ONCE
) -> tuple[np.ndarray, np.ndarray, int]:
    """Keys (v,) that stand at least `min_count` times in the counted rows, their counts (v,), and how many differ.

    Args:
        key_n: of all rows; may be mapped from a file.
        counted_n: which rows are counted, (n,) bool.
        min_count: at least 1.
        at_once: keys that are sorted at a time; more are split by their hash into several passes.
    """
    passes = max(1, -(-int(np.count_nonzero(counted_n)) // at_once))
    keys, counts, distinct = [], [], 0
    for number in range(passes):
        chosen = []
        for start in range(0, len(key_n), SLICE):
            rows = slice(start, start + SLICE)
            key_b = key_n[rows][counted_n[rows]]
            if passes > 1:
                group_b = (key_b * MULTIPLIER >> np.uint64(32)) * np.uint64(passes) >> np.uint64(32)
                key_b = key_b[group_b == number]
            chosen.append(key_b)
        sorted_b = np.concatenate(chosen) if chosen else np.empty(0, np.uint64)
        del chosen
        sorted_b.sort()
        last_v = np.flatnonzero(np.append(sorted_b[1:] != sorted_b[:-1], True)) if len(sorted_b) else np.empty(0, int)
        count_v = np.diff(last_v, prepend=-1)
        distinct += len(last_v)
        frequent = count_v >= min_count
        keys.append(sorted_b[last_v[frequent]])
        counts.append(count_v[frequent])
    return np.concatenate(keys), np.concatenate(counts), distinct


class KeyTable:
    """Key -> id, by open addressing with linear probing, all keys of a slice at a time.

    Args:
        key_v: different keys.
        id_v: their ids, at least 1; every other key has id 0.
    """

    def __init__(self, key_v: np.ndarray, id_v: np.ndarray) -> None:
        size = 1 << max(1, int(2 * len(key_v)).bit_length())  # at most half full
        self._mask, self._shift = size - 1, np.uint64(64 - size.bit_length() + 1)
        self._key_S, self._id_S = np.zeros(size, np.uint64), np.zeros(size, np.int32)
        self._empty_id = 0  # key 0, the missing value, marks free slots
        missing = key_v == 0
        if missing.any():
            self._empty_id = int(id_v[missing][0])
            key_v, id_v = key_v[~missing], id_v[~missing]
        slot_v = self._slots(key_v)
        while len(key_v):
            free = self._key_S[slot_v] == 0
            self._key_S[slot_v[free]] = key_v[free]  # of several for one slot, one stays
            placed = self._key_S[slot_v] == key_v
            self._id_S[slot_v[placed]] = id_v[placed]
            key_v, id_v, slot_v = key_v[~placed], id_v[~placed], slot_v[~placed] + 1 & self._mask

    def ids(self, key_n: np.ndarray) -> np.ndarray:
        """Ids (n,) int32."""
        slot_n = self._slots(key_n)
        found_n = self._key_S[slot_n]
        id_n = np.where(found_n == key_n, self._id_S[slot_n], 0)
        open_n = np.flatnonzero((found_n != key_n) & (found_n != 0))
        while len(open_n):
            slot_n[open_n] = slot = slot_n[open_n] + 1 & self._mask
            found, key = self._key_S[slot], key_n[open_n]
            hit = found == key
            id_n[open_n[hit]] = self._id_S[slot[hit]]
            open_n = open_n[~hit & (found != 0)]
        id_n[key_n == 0] = self._empty_id
        return id_n.astype(np.int32, copy=False)

    def _slots(self, key_n: np.ndarray) -> np.ndarray:
        return (key_n * MULTIPLIER >> self._shift).astype(np.int64)
