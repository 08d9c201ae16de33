"""What the headers of audio files promise, so that a file cut short is noticed.

libsndfile silently reads what is left of a truncated wav, aiff, sph or ogg file.
"""

import io
import re
import struct
from typing import BinaryIO, NamedTuple

HEAD_BYTES = 4096
"""How much of a file is read at first; the headers of ordinary files are in it."""

_STREAM_SIZES = (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFFF - 36, 0x7FFFFFFF - 36)
"""Data sizes of wav files whose writer could not know the length (a pipe)."""

_OGG_TAIL = 1 << 17
"""More than the longest Ogg page, so that the last page's header is in it."""

_PCM, _EXTENSIBLE = 1, 0xFFFE

_File = BinaryIO | io.FileIO


class WavLayout(NamedTuple):
    """Where the samples of a wav file are, and how they are written."""

    is_pcm16: bool
    channels: int
    rate: int  # Hz
    data_start: int
    data_bytes: int  # that are there
    missing_bytes: int

    @property
    def num_samples(self) -> int:
        """Samples per channel, of 16 bits each."""
        return self.data_bytes // (2 * self.channels)


def wav_layout(file: _File, head: bytes) -> WavLayout | None:
    """Layout of a wav file from its chunks; None for other files and for odd chunks."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    size = file.seek(0, io.SEEK_END)
    position, fmt, length = 12, b"", -1
    while position + 8 <= size:
        chunk = _at(file, head, position, 8)
        kind, length = chunk[:4], int.from_bytes(chunk[4:], "little")
        if kind == b"data":
            break
        if kind == b"fmt ":
            fmt = _at(file, head, position + 8, min(length, 40))
        position += 8 + length + (length & 1)
    else:
        return None
    if len(fmt) < 16:
        return None
    tag, channels, rate, _, block, bits = struct.unpack("<HHIIHH", fmt[:16])
    if tag == _EXTENSIBLE and len(fmt) >= 26:  # the real tag comes later
        tag = int.from_bytes(fmt[24:26], "little")
    if not (channels and rate):
        return None
    start = position + 8
    if length in _STREAM_SIZES:
        length = size - start
    there = min(length, size - start)
    is_pcm16 = tag == _PCM and bits == 16 and block == 2 * channels
    return WavLayout(is_pcm16, channels, rate, start, there, length - there)


def missing_bytes(file: _File, head: bytes) -> int:
    """How many bytes an aiff, sph or ogg file lacks at least, by its own account; 0 for others.

    An Ogg stream tells only that its last page is missing, which counts as one byte.
    """
    size = file.seek(0, io.SEEK_END)
    if head[:4] == b"FORM" and head[8:11] == b"AIF":
        return max(0, int.from_bytes(head[4:8], "big") + 8 - size)
    if head[:8] == b"NIST_1A\n":
        return max(0, _sphere_bytes(head) - size)
    if head[:4] == b"OggS":
        return int(not _ogg_ends(_at(file, head, max(0, size - _OGG_TAIL), min(size, _OGG_TAIL))))
    return 0


def _sphere_bytes(head: bytes) -> int:
    """Length of a NIST SPHERE file of plain samples; 0 where the header does not tell."""
    text = head.decode("latin-1")
    if "-s" in text and re.search(r"sample_coding -s\d+ \S*embedded", text):
        return 0  # compressed inside
    fields = dict(re.findall(r"(sample_count|channel_count|sample_n_bytes) -i (\d+)", text))
    header = re.match(r"NIST_1A\s+(\d+)", text)
    if header is None or "sample_count" not in fields:
        return 0
    samples = int(fields["sample_count"]) * int(fields.get("channel_count", 1))
    return int(header.group(1)) + samples * int(fields.get("sample_n_bytes", 2))


def _ogg_ends(tail: bytes) -> bool:
    """Whether the last page is marked as the end of its stream and is whole."""
    start = tail.rfind(b"OggS")
    page = tail[start:]
    if start < 0 or len(page) < 27 or not page[5] & 4:
        return False
    num_segments = page[26]
    body = sum(page[27 : 27 + num_segments])
    return len(page) >= 27 + num_segments + body


def _at(file: _File, head: bytes, position: int, length: int) -> bytes:
    """Bytes of a file at a position, from its first block where they are in it."""
    if position + length <= len(head):
        return head[position : position + length]
    file.seek(position)
    return file.read(length) or b""
