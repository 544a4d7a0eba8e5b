"""Text of any encoding -> UTF-8 without a byte-order mark; whether UTF-8 is valid is checked where lines are known."""

import codecs
from pathlib import Path

from recsys_collapse.dataset.files import ByteStream

MARKS = {"UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)}


class Utf8Stream:
    """A stream as UTF-8 without a byte-order mark; `offset` counts the bytes handed out and, in UTF-8, the mark.

    Raises:
        ValueError: no such encoding.
    """

    def __init__(self, stream: ByteStream, path: Path, encoding: str) -> None:
        try:
            "a".encode(encoding)  # hex, zlib and the like are no text encodings
            known = codecs.lookup(encoding)
        except (LookupError, ValueError) as error:
            raise ValueError(f"dataset.encoding={encoding}: no such encoding; e.g. utf-8, latin-1, utf-16") from error
        self.stream, self.path, self.encoding = stream, path, encoding
        self.decoder = None if known.name == "utf-8" else known.incrementaldecoder("strict")
        self.offset, self.read_so_far = 0, 0

    def read(self, size: int) -> bytes:
        """About `size` bytes; none only at the end.

        Raises:
            ValueError: the bytes are not of this encoding.
        """
        size = max(size, 8)  # a mark comes whole and with something behind it
        data = self.stream.read(size)
        first, self.read_so_far = self.read_so_far == 0, self.read_so_far + len(data)
        if self.decoder is None:
            for name, marks in MARKS.items():
                if first and data.startswith(marks):
                    raise ValueError(f"{self.path}: the text is {name}: set dataset.encoding={name.lower()}")
            self.offset += len(data)
            return data.removeprefix(codecs.BOM_UTF8) if first else data
        encoded = self._encoded(data, first)
        while data and not encoded:
            data = self.stream.read(size)
            self.read_so_far += len(data)
            encoded = self._encoded(data, False)
        self.offset += len(encoded)
        return encoded

    def _encoded(self, data: bytes, first: bool) -> bytes:
        assert self.decoder is not None
        try:
            text = self.decoder.decode(data, final=not data)
            return (text.removeprefix("\ufeff") if first else text).encode()
        except UnicodeError as error:  # not only of decoding: utf-7 decodes to half characters
            start = error.start if isinstance(error, UnicodeDecodeError) else 0
            raise ValueError(
                f"{self.path}: around byte {self.read_so_far - len(data) + start}: not {self.encoding}: "
                f"{getattr(error, 'reason', error)}; set dataset.encoding to that of the file"
            ) from error
