"""What one feature file holds: its size from the header alone, or why it cannot be used; and its first rows."""

from __future__ import annotations

import math
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from qd_detr.gates.data.feature_layout import FeatureFile
from qd_detr.gates.errors import first_few

# What NumPy and zipfile raise on a damaged, truncated, encrypted or foreign file.
UNREADABLE = (
    MemoryError,  # of the header's parser, at deep nesting
    RecursionError,
    OverflowError,
    struct.error,
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
# No .npy header of plain numbers comes near this; a longer one is not read whole.
_HEADER_BYTES_MAX = 1 << 16
# An array of a day of clips stays below the first. Deflate packs a thousandfold what is all zeros, and features hardly
# at all: above the second size, a member that shrank more than a hundredfold is no array of features.
_ARRAY_BYTES_MAX = 2 << 30
_PACKED_BYTES_MAX = 16 << 20
_PACKED_RATIO_MAX = 100
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Header:
    """Rows (clips or tokens) and columns of a file's array, and the size of the file in bytes."""

    rows: int
    columns: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a file cannot be used: it is missing or holds no rows, cannot be read, lacks its key, or is no such array."""

    kind: Literal["missing", "empty", "damaged", "key", "array"]
    detail: str = ""


def read_header(file: FeatureFile) -> Header | Fault:
    """Return the array's size as its header states it, or what is wrong with the file."""
    try:
        status = os.stat(file.path)
        if not stat.S_ISREG(status.st_mode):
            return Fault("damaged", "not a file")
        with open(file.path, "rb") as stream:
            if file.key is None:
                header, header_bytes = _npy_header(stream)
                data_bytes = status.st_size - header_bytes
            else:
                with zipfile.ZipFile(stream) as archive:
                    members = {info.filename: info for info in archive.infolist()}
                    member = members.get(f"{file.key}.npy")
                    if member is None:
                        there = first_few([name.removesuffix(".npy") for name in members], shown=5)
                        return Fault("key", f"has {there or 'none'}")
                    if (fault := _archive_fault(archive.infolist(), member, status.st_size)) is not None:
                        return fault
                    with archive.open(member) as array:
                        header, header_bytes = _npy_header(array)
                    data_bytes = member.file_size - header_bytes
                    packed_bytes = min(member.compress_size, status.st_size)
    except (FileNotFoundError, NotADirectoryError):
        return Fault("missing")
    except UNREADABLE as error:
        return Fault("damaged", reason(error))
    shape, dtype = header.shape, header.dtype
    if dtype.kind in "fiu" and 0 in shape:
        return Fault("empty", f"shape {shape}")
    if dtype.kind not in "fiu" or any(size < 1 for size in shape) or len(rows_first(shape, file)) != 2:
        return Fault("array", f"shape {shape}, {dtype}")
    wanted_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if data_bytes < wanted_bytes:
        return Fault("damaged", f"cut short, {data_bytes} of {wanted_bytes} bytes")
    if wanted_bytes > _ARRAY_BYTES_MAX:
        return Fault("damaged", f"claims {wanted_bytes} bytes, far more than features have")
    if file.key is not None and data_bytes > _unpacked_bytes_max(packed_bytes):
        return Fault("damaged", f"claims {data_bytes} bytes in {packed_bytes} packed ones")
    rows, columns = rows_first(shape, file)
    return Header(rows, columns, status.st_size)


def _archive_fault(members: Sequence[zipfile.ZipInfo], own: zipfile.ZipInfo, file_bytes: int) -> Fault | None:
    """Return what keeps an archive from being read as a whole, as `read_rows` does for the checksums."""
    names: set[str] = set()
    for member in members:
        if member.filename in names:
            return Fault("damaged", f"holds {member.filename.removesuffix('.npy')[:100]} more than once")
        names.add(member.filename)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            return Fault("damaged", "packed in a way that NumPy does not write")
        packed_bytes = min(member.compress_size, file_bytes)
        if member is not own and member.file_size > _unpacked_bytes_max(packed_bytes):
            return Fault("damaged", f"claims {member.file_size} bytes in {packed_bytes} packed ones")
    return None


def _unpacked_bytes_max(packed_bytes: int) -> int:
    return max(_PACKED_BYTES_MAX, _PACKED_RATIO_MAX * packed_bytes)


def read_rows(file: FeatureFile, most: int) -> npt.NDArray[Any]:
    """Return the first rows of the file's array as they are stored, `most` of them at most; no others are read.

    Raises:
        What `UNREADABLE` lists, KeyError: the file is not what the check found.
    """
    with open(file.path, "rb") as stream:
        if file.key is None:
            return _first_rows(stream, file, most)
        # As the check reads it: NumPy decides by the first bytes what a file is, and those may say something else.
        with zipfile.ZipFile(stream) as archive:
            with archive.open(f"{file.key}.npy") as array:
                rows = _first_rows(array, file, most)
                _read_to_the_end(array)
            for name in archive.namelist():  # a file that is damaged anywhere is to be copied again
                if name != f"{file.key}.npy":
                    with archive.open(name) as other:
                        _read_to_the_end(other)
            return rows


def _read_to_the_end(member: IO[bytes]) -> None:
    """Read what is left of an archive's member: its checksum is that of the whole, and is compared at the end."""
    while member.read(_BLOCK_BYTES):
        pass


def _first_rows(stream: IO[bytes], file: FeatureFile, most: int) -> npt.NDArray[Any]:
    header, _ = _npy_header(stream)
    rows, *columns = rows_first(header.shape, file)
    wanted = rows if header.fortran_order else min(rows, most)
    count = wanted * math.prod(columns)
    data = stream.read(count * header.dtype.itemsize)
    values = np.frombuffer(data, header.dtype, count)
    if header.fortran_order:
        return values.reshape(header.shape, order="F").reshape(rows, *columns)[:most]
    return values.reshape(wanted, *columns)


def rows_first(shape: tuple[int, ...], file: FeatureFile) -> tuple[int, ...]:
    """Return `shape` without the batch axis of 1 that text encoders leave in front of (tokens, columns)."""
    return shape[1:] if file.role == "text" and len(shape) == 3 and shape[0] == 1 else shape


def reason(error: BaseException) -> str:
    """Return in a few words why a file could not be read, without repeating its path."""
    lines = (getattr(error, "strerror", None) or str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class _NpyHeader(NamedTuple):
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype


def _npy_header(stream: IO[bytes]) -> tuple[_NpyHeader, int]:
    """Return what the .npy that `stream` begins with says of itself, and the length of its header in bytes."""
    version = npy_format.read_magic(stream)
    length_field = 2 if version == (1, 0) else 4
    prefix = stream.read(length_field)
    header = stream.read(min(int.from_bytes(prefix, "little"), _HEADER_BYTES_MAX))
    return _parse_header(version, prefix + header), npy_format.MAGIC_LEN + length_field + len(header)


# Thousands of files share a few headers, and parsing one costs more than reading it.
@lru_cache(maxsize=4096)
def _parse_header(version: tuple[int, int], header: bytes) -> _NpyHeader:
    readers = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
    if version not in readers:  # 3.0 is for named columns, which no feature array has
        raise ValueError(f"version {version[0]}.{version[1]} of the .npy format")
    return _NpyHeader(*readers[version](BytesIO(header)))
