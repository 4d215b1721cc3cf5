"""The damages that the campaign does to files, in their bytes and in their structure, and the allowed outcomes.

A damage is a row: a function of a random number generator and the bytes, the outcomes that are allowed for `load`, and
the kinds of bytes that it can be done to.
"""

from __future__ import annotations

import io
import json
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import h5py
import msgpack
import numpy as np

from weights_convert.containers.msgpack_file import ARRAY
from weights_convert.metadata import PACKED

REFUSED = "refused"
SAME = "refused, or the same"
BITS = "refused, or the same bits"
FREE = "refused, or what the bytes say"
KEPT = "the same"
"""The allowed outcomes of a damage.

FREE means an equal checkpoint if a hash or checksum covers the bytes. Otherwise names and shapes must be equal, and if
only bytes of arrays changed, exactly these may differ.
"""

Change = Callable[[Random, bytes], bytes]

ODD_NUMBERS = (
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
DEEP = 100_000
ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 10**400, 9 * 10**4299, 1.5, 4.0, float("nan"), float("inf"), "", "x" * 5000, "\0",
    "\ud800",
    "../../etc/passwd", [], {}, [[]], [1, 2, 3], {"a": {"b": []}}, ["a"] * 4, [2.0, 1, 1, 1], [True] * 4, [10**9] * 4,
)  # fmt: skip
"""Wrong lengths and offsets, a depth of nesting, and values that replace others in JSON."""

ODD_TEXTS = (
    b"", b"null", b"[]", b"7", b"NaN", b'""', b"[" * DEEP, b'{"a":' * DEEP, b"\xff\xfe", b'{"weight_map":[]}',
    b'{"weight_map":{"a":"../x"}}', b'{"weight_map":{"a":7}}', b'{"weight_map":{"a":"."}}', b"9" * 5000,
    b'{"weight_map":{"a":"model.safetensors.index.json"}}', b'{"registered_name":"resnet_parity>ResNet"}',
    b'{"registered_name":"resnet_parity>ResNet","config":{"config":7}}', b'{"a":1,"a":2}',
)  # fmt: skip
"""Texts that replace JSON."""


@dataclass(frozen=True)
class Damage:
    """A way to damage bytes.

    Attributes:
        name: What is done to the bytes.
        change: Returns damaged bytes; raises `Unfit` if it cannot be done to these.
        allowed: The allowed outcomes.
        kinds: The kinds of bytes that it can be done to; empty for all.
    """

    name: str
    change: Change
    allowed: str = FREE
    kinds: tuple[str, ...] = ()


class Unfit(Exception):
    """The damage cannot be done to these bytes."""


def damages_of(kind: str) -> list[Damage]:
    """Return the damages that can be done to a kind of bytes."""
    return [damage for damage in DAMAGES if not damage.kinds or kind in damage.kinds]


# Damages of any bytes


def _at(random: Random, content: bytes, length: int = 1) -> int:
    """Return a random position: anywhere, or near the start or end, where headers and directories are."""
    if len(content) < length:
        raise Unfit
    most = len(content) - length
    return random.choice(
        [random.randint(0, most), random.randint(0, min(most, 4096)), max(0, most - random.randint(0, 8192))]
    )


def _replaced(content: bytes, start: int, new: bytes) -> bytes:
    return content[:start] + new + content[start + len(new) :]


def _flipped(random: Random, content: bytes) -> bytes:
    at = _at(random, content)
    return _replaced(content, at, bytes([content[at] ^ 1 << random.randrange(8)]))


def _overwritten(random: Random, content: bytes) -> bytes:
    length = random.choice([1, 1, 2, 4, 8, 64])
    new = random.choice([random.randbytes(length), b"\0" * length, b"\xff" * length])
    return _replaced(content, _at(random, content, length), new)


def _misnumbered(random: Random, content: bytes) -> bytes:
    code = random.choice(["<B", "<H", "<I", "<Q", ">H", ">I", ">Q"])
    number = random.choice(ODD_NUMBERS) & (1 << 8 * struct.calcsize(code)) - 1
    return _replaced(content, _at(random, content, struct.calcsize(code)), struct.pack(code, number))


def _many_flipped(random: Random, content: bytes) -> bytes:
    for _ in range(random.randint(2, 40)):
        content = _flipped(random, content)
    return content


def _inserted(random: Random, content: bytes) -> bytes:
    at, length = _at(random, content), random.choice([1, 2, 4, 8, 100, 5000])
    return (
        content[:at]
        + random.choice([random.randbytes(length), b"\0" * length, content[at : at + length]])
        + content[at:]
    )


def _deleted(random: Random, content: bytes) -> bytes:
    at = _at(random, content)
    return content[:at] + content[at + random.choice([1, 2, 4, 8, 100, 5000]) :]


def _shuffled(random: Random, content: bytes) -> bytes:
    length = random.choice([4, 16, 128, 512])
    i, j = _at(random, content, length), _at(random, content, length)
    return _replaced(_replaced(content, i, content[j : j + length]), j, content[i : i + length])


def _nans(random: Random, content: bytes) -> bytes:
    """Write NaNs of unusual payloads, quiet and signalling, of any width, over aligned bytes."""
    nan = random.choice([b"\x01\x7c", b"\x81\x7f", b"\x01\x00\x80\x7f", b"\xff\xff\xff\xff", b"\x01\0\0\0\0\0\xf0\xff"])
    at = _at(random, content, 8 * len(nan))
    return _replaced(content, at - at % 8, nan * 8)


def _in_sequence(*changes: Change) -> Change:
    def changed(random: Random, content: bytes) -> bytes:
        for change in changes:
            content = change(random, content)
        return content

    return changed


# safetensors: a length, a header of JSON, and the numbers

Pairs = list[tuple[str, Any]]


def _parsed(content: bytes) -> tuple[Pairs, bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    return list(json.loads(content[8 : 8 + length]).items()), content[8 + length :]


def _built(pairs: Pairs, data: bytes) -> bytes:
    header = ("{" + ",".join(f"{json.dumps(name)}:{json.dumps(info)}" for name, info in pairs) + "}").encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data


def _entry(change: Callable[[Random, dict[str, Any]], Any]) -> Change:
    """Return a damage that changes the header's entry for one array."""

    def changed(random: Random, content: bytes) -> bytes:
        pairs, data = _parsed(content)
        info = random.choice([info for name, info in pairs if name != "__metadata__"])
        before = json.dumps(info)
        change(random, info)
        if json.dumps(info) == before:
            raise Unfit
        return _built(pairs, data)

    return changed


def _header(change: Callable[[Random, Pairs], Pairs]) -> Change:
    """Return a damage that changes the header's list of arrays."""

    def changed(random: Random, content: bytes) -> bytes:
        pairs, data = _parsed(content)
        return _built(change(random, pairs), data)

    return changed


def _lying_length(random: Random, content: bytes) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    lies = [*ODD_NUMBERS, length + 1, length + 8, length - 1, length - 8, len(content), len(content) - 8]
    return struct.pack("<Q", random.choice([lie for lie in lies if lie != length])) + content[8:]


def _moved(random: Random, info: dict[str, Any]) -> None:
    start, end = info["data_offsets"]
    step = random.choice([1, 4, 8, 1000, 2**63, -4])
    info["data_offsets"] = random.choice(
        [
            [start + step, end + step],
            [start, end + step],
            [start + step, end],
            [end, start],
            [0, 0],
            [start],
            [start, "x"],
        ]
    )


def _reshaped(random: Random, info: dict[str, Any]) -> None:
    shape = info["shape"]
    info["shape"] = random.choice(
        [shape[::-1], [*shape, 1], [1, *shape], [int(np.prod(shape))], shape[:-1], [2**62, 4], [0], [-1], [2**64],
        ["4"],
         [shape[0] + 1, *shape[1:]], None, [4.5], [shape]]
    )  # fmt: skip


def _retyped(random: Random, info: dict[str, Any]) -> None:
    info["dtype"] = random.choice(
        [
            "I8",
            "U8",
            "I16",
            "U16",
            "I32",
            "U32",
            "I64",
            "U64",
            "BOOL",
            "F8_E4M3",
            "F8_E5M2",
            "C64",
            "F4",
            "XYZ",
            "",
            7,
            None,
        ]
    )


def _respelled(random: Random, pairs: Pairs) -> Pairs:
    at = random.randrange(1, len(pairs))
    spelled = random.choice([pairs[at][0] + "x", pairs[at][0].upper(), "", "\0", "ä" * 300, "x" * 70_000, "a.b.c"])
    return [*pairs[:at], (spelled, pairs[at][1]), *pairs[at + 1 :]]


def _swapped(random: Random, pairs: Pairs) -> Pairs:
    """Exchange the names of two arrays."""
    i, j = random.sample(range(1, len(pairs)), 2)
    pairs[i], pairs[j] = (pairs[i][0], pairs[j][1]), (pairs[j][0], pairs[i][1])
    return pairs


def _empty_at_end(pairs: Pairs) -> tuple[str, Any]:
    end = max(info["data_offsets"][1] for name, info in pairs if name != "__metadata__")
    return "empty", {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}


def _framed(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def _lying_header(random: Random, content: bytes) -> bytes:
    pairs, data = _parsed(content)
    metadata = random.choice(METADATA_LIES)(random, dict(dict(pairs).get("__metadata__", {})))
    return _built([("__metadata__", metadata), *(pair for pair in pairs if pair[0] != "__metadata__")], data)


# Our metadata


def _without_a_key(random: Random, metadata: dict[str, Any]) -> Any:
    metadata.pop(random.choice([*metadata, ""]), None)
    return metadata


def _with_an_odd_value(random: Random, metadata: dict[str, Any]) -> Any:
    return metadata | {random.choice([*metadata, "format", "known_by", "content_hash"]): random.choice(ODD_VALUES)}


def _with_a_lie(random: Random, metadata: dict[str, Any]) -> Any:
    key, lies = random.choice([*LIES.items()])
    return metadata | {key: random.choice(lies)}


def _with_an_odd_network(random: Random, metadata: dict[str, Any]) -> Any:
    config = json.loads(metadata.get("config") or "{}")
    config[random.choice([*config, "more"])] = random.choice(ODD_VALUES)
    return metadata | {"format": "resnet-parity", "format_version": "1", "config": json.dumps(config)}


LIES = {
    "format": ["resnet-parity", "pt", "RESNET-PARITY"],
    "format_version": ["0", "2", "1.0", "one"],
    "dialect": ["canonical", "torch", "keras", "flax", "transformers", "nobody's", "keras-hub"],
    "variant": ["v1", "v1.5", "keras", "custom", "nobody's"],
    "content_hash": ["0" * 64, "", "x"],
    "known_by": ["its word"],
    "config": ["", "[]", "7", "null", "{}", "[" * DEEP, '{"a":' * DEEP, "9" * 5000],
}
METADATA_LIES: tuple[Callable[[Random, dict[str, Any]], Any], ...] = (
    _without_a_key,
    _with_an_odd_value,
    _with_a_lie,
    _with_an_odd_network,
    _with_an_odd_network,
    lambda random, metadata: random.choice(ODD_VALUES),
)


# msgpack: nested dictionaries


def _tree(change: Callable[[Random, dict[Any, Any], Any], Any]) -> Change:
    """Return a damage that changes the innermost dictionary around a random array, given its key there."""

    def changed(random: Random, content: bytes) -> bytes:
        tree = branch = msgpack.unpackb(content, ext_hook=msgpack.ExtType, strict_map_key=False)
        while isinstance(branch[key := random.choice([*branch])], dict):
            branch = branch[key]
        change(random, branch, key)
        return msgpack.packb(tree)

    return changed


def _leaf(change: Callable[[Random, list[Any]], Any]) -> Change:
    """Return a damage that changes shape, dtype or bytes of a random array."""

    def changed(random: Random, branch: dict[Any, Any], key: Any) -> None:
        fields = msgpack.unpackb(branch[key].data)
        before = msgpack.packb(fields)
        change(random, fields)
        if (after := msgpack.packb(fields)) == before:
            raise Unfit
        branch[key] = msgpack.ExtType(ARRAY, after)

    return _tree(changed)


def _put(place: int, values: Callable[[Any], list[Any]]) -> Callable[[Random, list[Any]], None]:
    def put(random: Random, fields: list[Any]) -> None:
        fields[place] = random.choice(values(fields[place]))

    return put


def _renamed(*names: Any) -> Callable[[Random, dict[Any, Any], Any], None]:
    def renamed(random: Random, branch: dict[Any, Any], key: Any) -> None:
        branch[random.choice(names)] = branch.pop(key)

    return renamed


def _odd_shapes(shape: list[int]) -> list[Any]:
    return [shape[::-1], [-1], [-1, *shape[1:]], [*shape, 1], [0], [2**40], [2**63], ["4"], None, [4.0], [shape]]


def _no_array(random: Random, branch: dict[Any, Any], key: Any) -> None:
    """Replace an array by something else."""
    array, deep = branch[key], []
    for _ in range(300):
        deep = [deep]
    branch[key] = random.choice(
        [None, 1, 1.5, "text", b"bytes", [], {}, [array], {"x": array}, msgpack.ExtType(ARRAY, b""), deep, [1] * 1000,
         msgpack.ExtType(2, b"\x92\xcb\0"), msgpack.ExtType(3, b"\xc1"), msgpack.ExtType(99, array.data),
         msgpack.ExtType(ARRAY, msgpack.packb(array)), msgpack.ExtType(ARRAY, msgpack.packb([[], "float32"])),
         msgpack.Timestamp(1, 1), msgpack.ExtType(ARRAY, b"\x91" * 5000)]
    )  # fmt: skip


def _twice_in_msgpack(random: Random, content: bytes) -> bytes:
    """Add a second entry under the name of another in the outermost map."""
    tree = msgpack.unpackb(content, ext_hook=msgpack.ExtType, strict_map_key=False)
    key = random.choice([*tree])
    packed = [msgpack.packb(part) for pair in tree.items() for part in pair]
    again = _other_bits(tree[key])
    return (
        msgpack.Packer().pack_map_header(len(tree) + 1) + b"".join(packed) + msgpack.packb(key) + msgpack.packb(again)
    )


def _twice_by_dots(random: Random, content: bytes) -> bytes:
    """Add a second entry whose dotted key equals the path to another."""
    tree = branch = msgpack.unpackb(content, ext_hook=msgpack.ExtType, strict_map_key=False)
    path = []
    while isinstance(branch, dict):
        path.append(random.choice([*branch]))
        branch = branch[path[-1]]
    return msgpack.packb(tree | {".".join(path): _other_bits(branch)})


def _other_bits(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _other_bits(item) for key, item in value.items()}
    return msgpack.ExtType(value.code, value.data[:-1] + bytes([value.data[-1] ^ 1]))


MSGPACK_TEXTS = (
    b"\x81" * 5000, b"\x81\xa1a" * 5000, b"\x81\xa1a" * 900 + b"\xc0", b"\xdf\xff\xff\xff\xff",
    b"\x81\xa1a\xdd\xff\xff\xff\xff",
    b"\x81\xa1a\xc6\xff\xff\xff\xff", b"\x81\xa1a\xc9\xff\xff\xff\xff\x01", b"\x81\x80\x80", b"\x81\x90\x01",
    b"\x81\xc0\xc0",
    b"\x81\xa1a\xc1", b"\x81\xa1\xff\xc0", b"\x81\xa1a\xc7\x00\x01", b"\x81\xa1a" + b"\xdd\0\x0f\xff\xff" * 500,
    b"\x81\xa1a" + b"\x91" * 700 + b"\xc0", b"\x82\x01\x01\xa11\x02",
)  # fmt: skip
"""msgpack files that are not checkpoints."""


# HDF5


def _hdf5(change: Callable[[Random, h5py.File], object]) -> Change:
    def changed(random: Random, content: bytes) -> bytes:
        buffer = io.BytesIO(content)
        with h5py.File(buffer, "a") as file:
            change(random, file)
        return buffer.getvalue()

    return changed


def _as_double(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind != "f":
        raise Unfit
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return values.astype(np.float64)


def _any_array(random: Random, file: h5py.File) -> h5py.Dataset:
    datasets: list[h5py.Dataset] = []
    file.visititems(lambda _, item: datasets.append(item) if isinstance(item, h5py.Dataset) else None)
    return random.choice(datasets)


def _array(change: Callable[[Random, h5py.Group, str, np.ndarray], object]) -> Change:
    """Return a damage that replaces a random array, given its group, its name there and its values."""

    def changed(random: Random, file: h5py.File) -> None:
        array = _any_array(random, file)
        group, name, values = array.parent, array.name.rpartition("/")[2], array[()]
        del group[name]
        change(random, group, name, values)

    return _hdf5(changed)


def _instead(*items: Any) -> Change:
    return _array(lambda random, group, name, values: group.update({name: random.choice(items)}))


def _with_dtype(*dtypes: Any) -> Change:
    return _array(lambda random, group, name, values: group.create_dataset(name, values.shape, random.choice(dtypes)))


def _moved_to(*names: str) -> Callable[[Random, h5py.File], None]:
    def moved(random: Random, file: h5py.File) -> None:
        array = _any_array(random, file)
        array.parent.move(array.name.rpartition("/")[2], random.choice(names))

    return moved


def _otherwise_shaped(random: Random, group: h5py.Group, name: str, values: np.ndarray) -> None:
    group[name] = random.choice(
        [
            values[None],
            values.reshape(-1)[:-1],
            values[..., None],
            np.concatenate([values, values]),
            values.reshape(-1)[0],
        ]
    )


def _virtual(random: Random, group: h5py.Group, name: str, values: np.ndarray) -> None:
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[...] = h5py.VirtualSource(random.choice([".", "elsewhere.h5", "/etc/passwd"]), "x", values.shape)
    group.create_virtual_dataset(name, layout)


def _external(random: Random, group: h5py.Group, name: str, values: np.ndarray) -> None:
    group.create_dataset(name, values.shape, values.dtype, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def _compressed(random: Random, group: h5py.Group, name: str, values: np.ndarray) -> None:
    group.create_dataset(name, data=values, compression="gzip", shuffle=True, fletcher32=True)


def _bomb(random: Random, group: h5py.Group, name: str, values: np.ndarray) -> None:
    size = random.choice([2**24, 2**34, 2**50])
    array = group.create_dataset(name, (size,), "f4", chunks=(2**20,), compression="gzip")
    for chunk in range(random.choice([0, 1, 4])):
        array[chunk * 2**20 : (chunk + 1) * 2**20] = 0


def _big_endian(random: Random, group: h5py.Group, name: str, values: np.ndarray) -> None:
    if values.dtype.kind != "f":
        raise Unfit
    group[name] = values.astype(values.dtype.newbyteorder(">"))


def _odd_float(random: Random, group: h5py.Group, name: str, values: np.ndarray) -> None:
    """Store floats of the same size with other fields, which HDF5 would convert."""
    if values.dtype != np.float32:
        raise Unfit
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(31, 22, 9, 0, 22)
    space = h5py.h5s.create_simple(values.shape)
    h5py.h5d.create(group.id, name.encode(), kind, space).write(space, space, values)


def _one_more(random: Random, file: h5py.File) -> None:
    if "layer_names" in file.attrs:
        raise Unfit  # only the arrays listed there are read
    file["layers/conv2d_99/vars/0"] = np.zeros((1, 1, 2, 2), np.float32)


def _deep_groups(random: Random, file: h5py.File) -> None:
    group = file.create_group("deep")
    for _ in range(random.choice([100, 1000, 3000])):
        group = group.create_group("g")
    group["0"] = np.zeros(3, np.float32)


def _many_groups(random: Random, file: h5py.File) -> None:
    for number in range(300):
        file.create_group(f"many/{number}")


def _twice_by_number(random: Random, group: h5py.Group, name: str, values: np.ndarray) -> None:
    group[name] = values
    if not name.isdigit():
        raise Unfit
    group["0" + name] = values[::-1]


def _twice_in_a_list(random: Random, file: h5py.File) -> None:
    """Add an array whose name differs from another's only by the suffix that is removed in reading."""
    array = _any_array(random, file)
    layer = next((part for part in array.name.split("/") if part in file and "weight_names" in file[part].attrs), None)
    if layer is None:
        raise Unfit
    names = [*file[layer].attrs["weight_names"]]
    listed = random.choice(names)
    listed = listed.decode() if isinstance(listed, bytes) else listed
    file[layer][listed.removesuffix(":0")] = file[layer][listed][()][::-1]
    file[layer].attrs["weight_names"] = [*names, listed.removesuffix(":0")]


def _odd_attribute(random: Random, file: h5py.File) -> None:
    owners: list[Any] = [file]
    file.visititems(lambda _, item: owners.append(item) if len(item.attrs) else None)
    owner = random.choice(owners)
    key = random.choice([*owner.attrs, "name", "layer_names", "weight_names", "layer_names0", "dtype"])
    owner.attrs[key] = random.choice(
        [7, 1.5, "bfloat16", "../..", "/", ".", "", "ä" * 100, b"\xff\xfe", np.arange(5), np.zeros((2, 2)), [b"../x"],
        ["/"],
         h5py.Empty("f4"), np.void(b"abc"), np.array([b"a", b"b"]), file.ref, ["", "."], [1.5], np.bytes_(b"\xff")]
    )  # fmt: skip


def _lying_attribute(random: Random, file: h5py.File) -> None:
    metadata = file.attrs.get(PACKED, "{}")
    file.attrs[PACKED] = json.dumps(random.choice(METADATA_LIES)(random, json.loads(metadata)))[:60_000]


def _odd_text_in_attribute(random: Random, file: h5py.File) -> None:
    text = random.choice(ODD_TEXTS)[:60_000]
    file.attrs[PACKED] = np.bytes_(text) if text else ""


def _newest_format(random: Random, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(io.BytesIO(content)) as old, h5py.File(buffer, "w", libver="latest") as new:
        for name in old:
            old.copy(name, new)
        for name, value in old.attrs.items():
            new.attrs[name] = value
    return buffer.getvalue()


def _misnumbered_structure(random: Random, content: bytes) -> bytes:
    """Write wrong numbers into the structures that HDF5 marks by a signature: superblock, trees, heaps, tables."""
    marks = [match.start() for match in re.finditer(rb"\x89HDF|TREE|HEAP|SNOD|GCOL|OHDR|FRHP|BTHD", content)]
    at = random.choice(marks) + random.randrange(4, 96)
    code = random.choice(["<B", "<H", "<I", "<Q"])
    number = random.choice(ODD_NUMBERS) & (1 << 8 * struct.calcsize(code)) - 1
    return _replaced(content, at, struct.pack(code, number))


# Zip archives

LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
FIELDS: dict[bytes, tuple[tuple[int, str], ...]] = {
    LOCAL: ((4, "<H"), (6, "<H"), (8, "<H"), (14, "<I"), (18, "<I"), (22, "<I"), (26, "<H"), (28, "<H")),
    CENTRAL: (
        (6, "<H"), (8, "<H"), (10, "<H"), (16, "<I"), (20, "<I"), (24, "<I"), (28, "<H"), (30, "<H"), (32, "<H"), (34,
        "<H"),
        (38, "<I"), (42, "<I"),
    ),
    END: ((4, "<H"), (6, "<H"), (8, "<H"), (10, "<H"), (12, "<I"), (16, "<I"), (20, "<H")),
}  # fmt: skip
"""The positions of numbers behind each signature: versions, flags, method, checksum, sizes, lengths, offsets."""


def _lying_directory(random: Random, content: bytes) -> bytes:
    mark = random.choice([*FIELDS])
    at = random.choice([match.start() for match in re.finditer(re.escape(mark), content)])
    place, code = random.choice(FIELDS[mark])
    (old,) = struct.unpack_from(code, content, at + place)
    number = random.choice([*ODD_NUMBERS, old + 1, old - 1, old ^ 1, old * 2]) & (1 << 8 * struct.calcsize(code)) - 1
    return _replaced(content, at + place, struct.pack(code, number))


Entries = list[tuple[str, bytes]]


def _archive(change: Callable[[Random, Entries], Entries], method: int = zipfile.ZIP_STORED) -> Change:
    """Return a damage that writes an archive with other entries."""

    def changed(random: Random, content: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = [(name, archive.read(name)) for name in archive.namelist()]
        buffer = io.BytesIO()
        with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as archive:
            warnings.simplefilter("ignore", UserWarning)  # that a name occurs twice
            for name, entry in change(random, entries):
                archive.writestr(name, entry)
        return buffer.getvalue()

    return changed


CLIMBING = tuple((name, b"") for name in ("../a", "/a", "..\\a", "C:\\a", "a/../../b"))


def _with_entry(*entries: tuple[str, bytes]) -> Callable[[Random, Entries], Entries]:
    return lambda random, existing: [*existing, random.choice(entries)]


def _without_entry(random: Random, entries: Entries) -> Entries:
    entries.pop(random.randrange(len(entries)))
    return entries


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array)
    return buffer.getvalue()


def _renewed(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Random, Entries], Entries]:
    """Return a change of a random array of a NumPy archive."""

    def changed(random: Random, entries: Entries) -> Entries:
        at = random.randrange(len(entries))
        name, content = entries[at]
        array = np.lib.format.read_array(io.BytesIO(content))
        return [*entries[:at], (name, _npy(change(array))), *entries[at + 1 :]]

    return changed


# PyTorch's pickles


def _state(change: Callable[[Random, dict[Any, Any], Any, Any], Any]) -> Change:
    """Return a damage that changes a saved state_dict, given the name of a random tensor in it, and the tensor."""

    def changed(random: Random, content: bytes) -> bytes:
        import torch

        state = torch.load(io.BytesIO(content), weights_only=True)
        name, buffer = random.choice([*state]), io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # quantized tensors are deprecated
            after = change(random, state, name, state[name])
            zipped = content.startswith(b"PK")
            torch.save(state if after is None else after, buffer, _use_new_zipfile_serialization=zipped)
        return buffer.getvalue()

    return changed


def _other_tensor(random: Random, state: dict[Any, Any], name: Any, tensor: Any) -> None:
    import torch

    state[name] = random.choice(
        [tensor.flatten()[:-1], tensor[None], tensor.to(torch.int32), tensor.bool(), tensor.to(torch.complex64), 7,
        "text",
         None, [tensor], {"a": tensor}, torch.zeros(1).expand(10**5, 10**6), torch.zeros(tensor.shape).to_sparse(),
         torch.zeros(tensor.shape, dtype=torch.float8_e4m3fn), torch.zeros(3, dtype=torch.complex64).conj().imag,
         torch.Size([1]),
         torch.quantize_per_tensor(torch.zeros(3), 1, 0, torch.qint8), torch.float32, torch.zeros(0)]
    )  # fmt: skip


def _odd_state(random: Random, state: dict[Any, Any], name: Any, tensor: Any) -> Any:
    around: list[Any] = [state]
    for _ in range(200):
        around = [around]
    circle: dict[Any, Any] = {}
    circle["state_dict"] = circle
    return random.choice(
        [[state], around, circle, {7: tensor}, {("a",): tensor}, tensor, {"model": {"model": 7}}, {"a": state}]
    )


def _without(state: dict[Any, Any], name: Any) -> dict[Any, Any]:
    return {other: tensor for other, tensor in state.items() if other != name}


def _wrapped(random: Random, state: dict[Any, Any], name: Any, tensor: Any) -> dict[str, Any]:
    return {random.choice(["state_dict", "model"]): {f"module.{name}": tensor for name, tensor in state.items()}}


def _behind(prefix: str, state: dict[Any, Any]) -> dict[str, Any]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def _with_things_beside(random: Random, state: dict[Any, Any], name: Any, tensor: Any) -> dict[str, Any]:
    things: list[Any] = [3, "text", None, [1, 2], {"a": 1}, {"state": {0: tensor}}, Path("a"), np.float64(1), Random]
    entries = ("epoch", "optimizer", "lr_scheduler", "args", "hyper_parameters", "callbacks", "rng", "note")
    return {"state_dict": _behind("module.", state)} | {entry: random.choice(things) for entry in entries}


def _view(tensor: Any) -> Any:
    return tensor.clone().expand(2, *tensor.shape)[1]


PICKLES = (
    b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.", b"\x80\x02" + b"]" * 100_000 + b".",
    b"\x80\x02" + b"(" * 100_000 + b".",
    b"\x80\x02" + b"}" + b"K\x01" * 1000 + b".", b"\x80\x02X\xff\xff\xff\x7fa.", b"\x80\x02\x8b\xff\xff\xff\x7f\x01.",
    b"\x80\x02.", b"\x80\x02N.", b"\x80\x02}.", b"\x80\xff}.", b"\x80\x02h\xff.",
    b"\x80\x02" + b"]q\0" + b"h\0a" * 1000 + b".",
    b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NNNNNNtR.", b"\x80\x02ctorch\nfoo\n.",
    b"\x80\x02" + b"\x85" * 1000 + b".",
    b"\x80\x02" + b"N" + b"\x85" * 100_000 + b".", b"\x80\x02X\x01\0\0\0aQ.",
    b"\x80\x02(X\x07\0\0\0storagectorch\nFloatStorage\ntQ.",
    b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.", b"\x80\x02\x8c\xffa.",
)  # fmt: skip
"""Pickles that call functions, nest deeply, claim wrong lengths, or end early."""


def _any_of(*texts: bytes) -> Change:
    return lambda random, content: random.choice(texts)


def _odd_json(random: Random, content: bytes) -> bytes:
    """Replace a random value by an unusual one of another type: one of its own type may state another network."""
    tree = place = json.loads(content)
    while isinstance(place, dict) and place:
        key = random.choice([*place])
        if not (isinstance(place[key], dict) and place[key]) or random.random() < 0.2:
            place[key] = random.choice([value for value in ODD_VALUES if type(value) is not type(place[key])])
            break
        place = place[key]
    return json.dumps(tree).encode()


def _odd_dtypes(dtype: bytes | str) -> list[Any]:
    return [
        "int32",
        "uint8",
        "O",
        "object",
        "V4",
        "S4",
        "U1",
        "M8[ns]",
        "f4,f4",
        "(2,)f4",
        "bool",
        "c8",
        "",
        "x",
        b"\xff",
        7,
        None,
    ]


DAMAGES = (
    Damage("nothing", lambda random, content: content, KEPT),
    Damage("cut off", lambda random, content: content[: _at(random, content)], REFUSED),
    Damage("a bit flipped", _flipped),
    Damage("bytes overwritten", _overwritten),
    Damage("an odd number", _misnumbered),
    Damage("many bits flipped", _many_flipped),
    Damage("bytes inserted", _inserted),
    Damage("bytes deleted", _deleted),
    Damage("pieces exchanged", _shuffled),
    Damage("NaNs", _nans),
    *(
        Damage(f"safetensors: {name}", change, allowed, ("safetensors",))
        for name, change, allowed in (
            ("length of the header", _lying_length, REFUSED),
            ("offsets", _entry(_moved), REFUSED),
            ("shape", _entry(_reshaped), REFUSED),
            ("dtype", _entry(_retyped), REFUSED),
            ("an array missing", _header(lambda random, pairs: pairs[:-1]), REFUSED),
            ("another name", _header(_respelled), REFUSED),
            ("an array more", _header(lambda random, pairs: [*pairs, ("more", pairs[-1][1])]), REFUSED),
            ("an empty array more", _header(lambda random, pairs: [*pairs, _empty_at_end(pairs)]), REFUSED),
            ("an array twice", _header(lambda random, pairs: [*pairs, random.choice(pairs[1:])]), REFUSED),
            ("names exchanged", _header(_swapped), FREE),
            ("metadata", _lying_header, SAME),
            ("odd JSON", lambda random, content: _framed(random.choice(ODD_TEXTS), _parsed(content)[1]), REFUSED),
        )
    ),
    *(
        Damage(f"msgpack: {name}", change, allowed, ("msgpack",))
        for name, change, allowed in (
            ("an array missing", _tree(lambda random, branch, key: branch.pop(key)), REFUSED),
            ("another name", _tree(_renamed("more", "kernelx", "a.b", "")), REFUSED),
            ("an odd name", _tree(_renamed(7, -1, None, b"a", 1.5, True)), REFUSED),
            ("an array more", _tree(lambda random, branch, key: branch.update({"more": branch[key]})), REFUSED),
            ("no array", _tree(_no_array), REFUSED),
            ("an array in a list", _tree(lambda random, branch, key: branch.update({key: [branch[key]]})), REFUSED),
            ("an array of NNX", _tree(lambda random, branch, key: branch.update({key: {"value": branch[key]}})), SAME),
            ("shape", _leaf(_put(0, _odd_shapes)), FREE),
            ("unknown length", _leaf(_put(0, lambda shape: [[-1, *shape[1:]]])), REFUSED),
            ("dtype", _leaf(_put(1, _odd_dtypes)), REFUSED),
            ("content", _leaf(_put(2, lambda data: [data[:-1], data + b"\0", b"", "text", None, 7, [data]])), REFUSED),
            ("a map more than it holds", lambda random, content: bytes([content[0] + 1]) + content[1:], REFUSED),
            ("a name twice", _twice_in_msgpack, REFUSED),
            ("a name twice, by dots", _twice_by_dots, REFUSED),
            ("no checkpoint", _any_of(*MSGPACK_TEXTS), REFUSED),
        )
    ),
    *(
        Damage(f"HDF5: {name}", change, allowed, ("hdf5",))
        for name, change, allowed in (
            ("an array missing", _array(lambda random, group, name, values: None), REFUSED),
            ("another name", _hdf5(_moved_to("more", "x/y", "²", "-0", "٣", "1_0", "9")), REFUSED),
            ("shape", _array(_otherwise_shaped), REFUSED),
            ("an array more", _hdf5(_one_more), REFUSED),
            ("dtype", _with_dtype("i4", "u1", "?", "c8", "S3", "V5", "i8", h5py.enum_dtype({"a": 1})), REFUSED),
            ("objects", _with_dtype(h5py.string_dtype(), h5py.ref_dtype, h5py.vlen_dtype("f4")), REFUSED),
            ("compound", _with_dtype([("a", "f4"), ("b", "f8")], ("f4", (2,)), ("f4", (1000, 1000))), REFUSED),
            ("nothing", _instead(h5py.Empty("f4")), REFUSED),
            ("a group", _array(lambda random, group, name, values: group.create_group(name)), REFUSED),
            ("a soft link", _instead(*map(h5py.SoftLink, ("/", ".", "0", "/none", "/vars"))), REFUSED),
            (
                "an external link",
                _instead(*(h5py.ExternalLink(f, "/a") for f in ("/etc/passwd", "none", "."))),
                REFUSED,
            ),
            (
                "a second name",
                _array(lambda random, group, name, values: group.update({name: _any_array(random, group.file)})),
                REFUSED,
            ),
            (
                "a circle",
                _array(lambda random, group, name, values: group.update({name: random.choice([group.parent, group])})),
                REFUSED,
            ),
            ("virtual", _array(_virtual), REFUSED),
            ("external", _array(_external), REFUSED),
            ("compressed", _array(_compressed), BITS),
            ("a bomb", _array(_bomb), REFUSED),
            (
                "a huge scalar",
                _array(lambda random, group, name, values: group.create_dataset(name, (), ("f4", (10**6,)))),
                REFUSED,
            ),
            ("big-endian", _array(_big_endian), BITS),
            ("odd floats", _array(_odd_float), REFUSED),
            (
                "another precision",
                _array(lambda random, group, name, values: group.update({name: _as_double(values)})),
                FREE,
            ),
            ("other numbers", _array(lambda random, group, name, values: group.update({name: values[::-1]})), FREE),
            ("a name twice", _array(_twice_by_number), REFUSED),
            ("a name twice, in a list", _hdf5(_twice_in_a_list), REFUSED),
            ("an attribute", _hdf5(_odd_attribute), FREE),
            ("metadata", _hdf5(_lying_attribute), SAME),
            ("no metadata", _hdf5(_odd_text_in_attribute), SAME),
            ("deep groups", _hdf5(_deep_groups), SAME),
            ("many groups", _hdf5(_many_groups), SAME),
            ("the newest format", _newest_format, SAME),
            ("the newest format, damaged", _in_sequence(_newest_format, _flipped), FREE),
            ("odd numbers in the structure", _misnumbered_structure, FREE),
            ("many odd numbers in the structure", _in_sequence(*[_misnumbered_structure] * 4), FREE),
        )
    ),
    *(
        Damage(f"zip: {name}", change, allowed, ("torch", "wrapped torch", "npz", "keras"))
        for name, change, allowed in (
            ("the directory", _lying_directory, FREE),
            ("more of the directory", _in_sequence(_lying_directory, _lying_directory), FREE),
            ("a name that climbs", _archive(_with_entry(*CLIMBING)), REFUSED),
            ("an entry twice", _archive(lambda random, entries: [*entries, random.choice(entries)]), REFUSED),
            ("an entry more", _archive(_with_entry(("more", b"more"))), SAME),
            ("an entry missing", _archive(_without_entry), SAME),
            ("compressed", _archive(lambda random, entries: entries, zipfile.ZIP_DEFLATED), SAME),
            ("compressed by LZMA", _archive(lambda random, entries: entries, zipfile.ZIP_LZMA), SAME),
            ("a bomb", _archive(_with_entry(("bomb", b"\0" * 2**25)), zipfile.ZIP_DEFLATED), REFUSED),
            (
                "something before it",
                lambda random, content: LOCAL + bytes(random.choice([0, 60, 4096])) + content,
                SAME,
            ),
            ("something behind it", lambda random, content: content + random.randbytes(random.choice([1, 4096])), SAME),
            ("two archives", lambda random, content: content + content, SAME),
        )
    ),
    Damage(
        "PyTorch: a program",
        _archive(_with_entry(("a/constants.pkl", b"\x80\x02."), ("a/code/x.py", b"x"))),
        SAME,
        ("torch", "wrapped torch"),
    ),
    *(
        Damage(f"PyTorch: {name}", change, allowed, ("torch", "old pickle"))
        for name, change, allowed in (
            ("a tensor missing", _state(lambda random, state, name, tensor: _without(state, name)), REFUSED),
            (
                "another name",
                _state(lambda random, state, name, tensor: _without(state, name) | {"x": tensor}),
                REFUSED,
            ),
            ("a tensor more", _state(lambda random, state, name, tensor: state.update(more=tensor)), REFUSED),
            ("another tensor", _state(_other_tensor), REFUSED),
            ("an odd state", _state(_odd_state), BITS),
            ("in a wrapping", _state(_wrapped), BITS),
            ("behind a prefix", _state(lambda random, state, name, tensor: _behind("net.", state)), BITS),
            (
                "two networks",
                _state(lambda random, state, name, tensor: {"teacher": state, "student": state}),
                REFUSED,
            ),
            (
                "a damaged network beside a whole one",
                _state(lambda random, state, name, tensor: {"model": _without(state, name), "teacher": state}),
                REFUSED,
            ),
            (
                "a queue beside it",
                _state(lambda random, state, name, tensor: {"model": state, "queue": tensor}),
                REFUSED,
            ),
            ("other things beside it", _state(_with_things_beside), BITS),
            ("a view", _state(lambda random, state, name, tensor: state.update({name: _view(tensor)})), BITS),
        )
    ),
    Damage("pickle: an odd one", _any_of(*PICKLES), REFUSED, ("pickle", "old pickle")),
    *(
        Damage(f"NumPy: {name}", change, REFUSED, ("npz",))
        for name, change in (
            ("an array missing", _archive(_without_entry)),
            ("an array more", _archive(_with_entry(("more.npy", _npy(np.zeros(3, np.float32)))))),
            ("another shape", _archive(_renewed(lambda array: array[None]))),
            ("integers", _archive(_renewed(lambda array: array.view(np.uint8)))),
            ("objects", _archive(_renewed(lambda array: np.array([{}], dtype=object)))),
            ("a name twice", _archive(lambda random, entries: [*entries, (f"/{entries[0][0]}", entries[0][1])])),
            ("no array", _archive(_with_entry(("more.npy", b""), ("more.npy", b"\x93NUMPY"), ("more.npy", b"text")))),
        )
    ),
    Damage("JSON: an odd value", _odd_json, SAME, ("json",)),
    Damage("JSON: an odd text", _any_of(*ODD_TEXTS), BITS, ("json",)),
)
