"""Undamaged files of a tiny network, for each container and dialect, as we and as other programs write them.

`tests.weights_convert.fuzz` damages them. The arrays that a file was made of tell what `load` must return for it.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from impls.config import VARIANTS, ResNetConfig
from tests.weights_convert.conftest import DTYPES, TINY, make_random_bits
from weights_convert import Checkpoint
from weights_convert.comparison import NOT_WEIGHTS
from weights_convert.containers import CONTAINERS, msgpack_file, safetensors_file
from weights_convert.dialects import WRITTEN, find_dialect
from weights_convert.metadata import PACKED
from weights_convert.shapes import expected_shapes

Files = Mapping[str, bytes]
"""The content of a file or folder: bytes by relative path; the path of a single file is ""."""

VARIANT = "v1.5"
"""The variant of all originals."""

Options = Mapping[str, Any]
"""The further arguments of `load`, as JSON can hold them."""

INNER = "model.weights.h5"
SHORTEST = 8
"""Bytes of the shortest array that is searched for in a file; random bits of that length occur nowhere by chance."""


@dataclass(frozen=True)
class Part:
    """A part of an original that is damaged on its own.

    Attributes:
        name: The name in messages.
        kind: The kind that selects the damages.
        content: The bytes.
        wrap: Returns the original with other bytes in place of the part, and with correct checksums around it.
        sealed: Whether a hash or checksum that `wrap` does not correct covers all bits of the weights.
    """

    name: str
    kind: str
    content: bytes
    wrap: Callable[[bytes], Files]
    sealed: bool


@dataclass(frozen=True, eq=False)
class Original:
    """An undamaged file or folder.

    Attributes:
        name: Container, dialect and dtype, for messages.
        row: The container under which it is counted.
        target: The name of the file or folder.
        files: The content.
        checkpoint: The checkpoint that it was made of.
        kind: The kind that selects the damages; empty for a folder.
        sealed: Whether a hash or checksum in it covers all bits of the weights.
        options: The further arguments of `load`.
        opened: The path in a folder that is given to `load`.
        is_refused: Whether `load` refuses it even undamaged.
    """

    name: str
    row: str
    target: str
    files: Files
    checkpoint: Checkpoint
    kind: str
    sealed: bool
    options: Options = field(default_factory=dict)
    opened: str = ""
    is_refused: bool = False

    @cached_property
    def parts(self) -> list[Part]:
        """Each of its files, and each entry of its archives."""
        return [part for path, content in self.files.items() for part in self._parts(path, content)]

    def _parts(self, path: str, content: bytes) -> Iterator[Part]:
        kind = self.kind or KIND_IN_FOLDER.get(Path(path).suffix, LOOSE)
        yield Part(path, kind, content, lambda new: {**self.files, path: new}, self.sealed)
        if self.kind not in INSIDE:
            return
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        hashed = not self.options and self.row not in ("PyTorch", "NumPy archive")
        for name, entry in entries.items():
            wrap = lambda new, name=name: {path: rezipped({**entries, name: new})}  # noqa: E731 (one for each entry)
            yield Part(name, INSIDE[self.kind](name), entry, wrap, hashed and self.name.startswith("ours"))

    @cached_property
    def facts(self) -> dict[str, str]:
        """The description of the checkpoint that `load` must return."""
        return description(self.checkpoint)

    def spans(self, content: bytes) -> dict[str, int]:
        """Return the positions of the arrays in some bytes."""
        positions = {
            name: content.find(array.tobytes())
            for name, array in self.checkpoint.arrays.items()
            if array.nbytes >= SHORTEST
        }
        return {name: start for name, start in positions.items() if start >= 0}

    def patched(self, old: bytes, new: bytes) -> dict[str, str] | None:
        """Return the facts after bytes of arrays were replaced; None if other bytes were."""
        if len(old) != len(new):
            return None
        changed = np.flatnonzero(np.frombuffer(old, np.uint8) != np.frombuffer(new, np.uint8))
        arrays = dict(self.checkpoint.arrays)
        covered = 0
        for name, start in self.spans(old).items():
            array = arrays[name]
            inside = np.count_nonzero((changed >= start) & (changed < start + array.nbytes))
            if inside:
                covered += inside
                arrays[name] = np.frombuffer(new[start : start + array.nbytes], array.dtype).reshape(array.shape)
        checkpoint = Checkpoint(arrays, self.checkpoint.dialect, self.checkpoint.config)
        return description(checkpoint) if covered == len(changed) else None


LOOSE = "loose"
"""The kind of a file or entry that can be damaged without consequences."""

KIND_IN_FOLDER = {".safetensors": "safetensors", ".json": "json", ".h5": "hdf5"}
INSIDE: dict[str, Callable[[str], str]] = {
    "keras": lambda name: {INNER: "hdf5", "config.json": "json"}.get(name, LOOSE),
    "torch": lambda name: "pickle" if name.endswith(".pkl") else "plain" if "/data/" in name else LOOSE,
    "wrapped torch": lambda name: "pickle" if name.endswith(".pkl") else "plain" if "/data/" in name else LOOSE,
    "npz": lambda name: "npy",
}
"""For the kinds that are archives, the kind of an entry by its name."""


def rezipped(entries: Files) -> bytes:
    """Return an archive with correct checksums."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def description(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the network, a hash of names and shapes, and a hash of all bits, to compare checkpoints by."""
    arrays = checkpoint.to("canonical").arrays
    shapes, bits = hashlib.sha256(), hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        shapes.update(f"{name} {array.shape}\n".encode())
        bits.update(f"{name} {array.shape} {array.dtype.name} {array.dtype.isnative}\n".encode() + array.tobytes())
    config = {name: value for name, value in checkpoint.config.to_dict().items() if name not in NOT_WEIGHTS}
    return {"config": json.dumps(config), "shapes": shapes.hexdigest(), "bits": bits.hexdigest()}


def make_originals(folder: Path, rows: Collection[str] | None = None) -> list[Original]:
    """Write every original into a folder, read its bytes, and remove it.

    Args:
        folder: An empty folder.
        rows: The containers; None for all.
    """
    seeds = iter(range(1_000_000))
    dtypes = cycle(DTYPES)
    originals = []
    for container in CONTAINERS:
        for ending in container.endings[:1]:
            for dialect in [name for name in container.dialects or WRITTEN if name not in container.library_only]:
                checkpoint = make_checkpoint(dialect, next(dtypes), next(seeds))
                for form in FORMS:
                    if form.container == container.name and (rows is None or form.container in rows):
                        originals.append(_made(form, checkpoint, folder / f"{len(originals)}{ending}"))
    for form in [form for form in FOLDERS if rows is None or form.container in rows]:
        originals.append(_made(form, make_checkpoint(form.dialect, next(dtypes), next(seeds)), folder / form.target))
    return originals


def make_checkpoint(dialect: str, dtype: str, seed: int) -> Checkpoint:
    """Return a checkpoint of the tiny network with random bits."""
    arrays = {
        name: make_random_bits(shape, dtype, 1000 * seed + index)
        for index, (name, shape) in enumerate(expected_shapes(TINY).items())
    }
    converted = Checkpoint(arrays, find_dialect("canonical"), TINY).to(dialect)
    plain = {name: np.ascontiguousarray(array) for name, array in converted.arrays.items()}
    return Checkpoint(plain, converted.dialect, TINY)


def _made(form: Form, checkpoint: Checkpoint, path: Path) -> Original:
    form.write(path, checkpoint)
    files = {
        "" if file == path else str(file.relative_to(path)): file.read_bytes()
        for file in ([path] if path.is_file() else sorted(path.rglob("*")))
        if file.is_file()
    }
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    name = f"{form.name}, {checkpoint.dialect.name}, {', '.join(checkpoint.dtypes())}"
    options = dict(form.options)
    if not (form.states_variant or form.function):
        options["variant"] = VARIANT
    if form.function:
        checkpoint = replace(checkpoint, config=_sized(form.function))
        options["config"] = checkpoint.config.to_dict()
    if options.get("drop_head") or form.headless:
        checkpoint = checkpoint.without_head()
    facts = (form.kind, form.sealed, options, form.opened, form.is_refused)
    return Original(name, form.container, path.name, files, checkpoint, *facts)


def _sized(function: ResNetConfig) -> ResNetConfig:
    """Return a network of the tiny sizes that computes a function."""
    return replace(function, depths=TINY.depths, width=TINY.width, num_classes=TINY.num_classes)


@dataclass(frozen=True)
class Form:
    """A way of writing a container.

    Attributes:
        name: The program that writes it so.
        container: The name of the container in `CONTAINERS`.
        kind: The kind that selects the damages.
        write: Writes a checkpoint to a path.
        sealed: See `Original`.
        states_variant: Whether the file states its variant.
        target: The name of a folder, or of a file in one dialect.
        dialect: The dialect of such a folder or file.
        options: Further arguments of `load`.
        headless: Whether the network that `load` returns has no classifier.
        function: A function that no variant has, which `load` is given as a configuration.
        opened: See `Original`.
        is_refused: See `Original`.
    """

    name: str
    container: str
    kind: str
    write: Callable[[Path, Checkpoint], None]
    sealed: bool = False
    states_variant: bool = False
    target: str = ""
    dialect: str = ""
    options: Options = field(default_factory=dict)
    headless: bool = False
    function: ResNetConfig | None = None
    opened: str = ""
    is_refused: bool = False


def _ours(path: Path, checkpoint: Checkpoint) -> None:
    checkpoint.save(path)


def _bare_safetensors(path: Path, checkpoint: Checkpoint) -> None:
    safetensors_file.write(path, checkpoint.arrays, {"format": "pt"})


def _old_pickle(path: Path, checkpoint: Checkpoint) -> None:
    import torch

    checkpoint.save(path)
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)


def _training_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write what PyTorch's training loops keep: a network behind a prefix, and other things beside it."""
    import torch

    checkpoint.save(path)
    state = {f"module.net.{name}": tensor for name, tensor in torch.load(path, weights_only=True).items()}
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    settings = argparse.Namespace(lr=0.1)
    torch.save({"epoch": 3, "args": settings, "state_dict": state, "optimizer": optimizer}, path)


def _students(path: Path, checkpoint: Checkpoint) -> None:
    """Write a teacher and a student, and what self-distillation keeps beside them."""
    import torch

    state = _state(path, checkpoint)
    other = {f"module.backbone.{name}": -tensor for name, tensor in state.items()}
    teacher = {f"backbone.{name}": tensor for name, tensor in state.items()}
    heads = {f"head.mlp.{layer}.weight": torch.zeros(4, 4) for layer in (0, 2)}
    torch.save({"student": other | heads, "teacher": teacher | heads, "epoch": 3, "loss": {"center": heads}}, path)


def _contrastive(path: Path, checkpoint: Checkpoint) -> None:
    """Write a network with a projection head, a queue and prototypes beside it."""
    import torch

    state = {f"module.{name}": tensor for name, tensor in _state(path, checkpoint).items()}
    beside = {"module.projection_head.0.weight": torch.zeros(4, 4), "module.prototypes.weight": torch.zeros(4, 4)}
    torch.save({"state_dict": state | beside, "queue": torch.zeros(4, 8), "epoch": 3}, path)


def _beside_head(path: Path, checkpoint: Checkpoint) -> None:
    """Write a network whose classifier lies beside it, as in Lightning's guide to transfer learning."""
    import torch

    head = [name for name, (canonical, _) in _readings(checkpoint).items() if canonical.startswith("fc.")]
    state = _state(path, checkpoint)
    own = {f"own_classes.{name.rpartition('.')[2]}": state.pop(name) for name in head}
    torch.save({"state_dict": {f"feature_extractor.{name}": t for name, t in state.items()} | own}, path)


def _scripted(path: Path, checkpoint: Checkpoint) -> None:
    """Write a TorchScript archive whose parameters have the names of the network."""
    import torch

    root = torch.nn.Module()
    for name, tensor in _state(path, checkpoint).items():
        *steps, leaf = name.split(".")
        module = root
        for step in steps:
            if not hasattr(module, step):
                module.add_module(step, torch.nn.Module())
            module = getattr(module, step)
        module.register_buffer(leaf, tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(root), path)


def _readings(checkpoint: Checkpoint) -> Mapping[str, Any]:
    return checkpoint.dialect.read_names(checkpoint.arrays)


def _state(path: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the tensors of a checkpoint by name, through a file."""
    import torch

    saved = path.with_suffix(".pth")
    checkpoint.save(saved)
    state = dict(torch.load(saved, weights_only=True))
    saved.unlink()
    return state


def _prefixed_npz(path: Path, checkpoint: Checkpoint) -> None:
    np.savez(path, **{f"net/{name.replace('.', '/')}": array for name, array in _plain(checkpoint).items()})


def _slim_names(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    named = {f"resnet_v1_50/{name.replace('.', '/')}": array for name, array in _plain(checkpoint).items()}
    return named | {"global_step": np.array(7), "resnet_v1_50/conv1/weights/Momentum": np.zeros((7, 7, 3, 4), "f4")}


def _plain(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(array) for name, array in checkpoint.arrays.items()}


def _slim_npz(path: Path, checkpoint: Checkpoint) -> None:
    np.savez(path, **_slim_names(checkpoint))


def _bundle(path: Path, checkpoint: Checkpoint) -> None:
    """Write what `tf.train.Saver` does: an index and a data file."""
    import tensorflow as tf

    path.mkdir()
    names, tensors = list(_slim_names(checkpoint)), [tf.constant(a) for a in _slim_names(checkpoint).values()]
    part = str(path / "part")
    tf.raw_ops.SaveV2(prefix=part, tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[part], destination_prefix=str(path / "model.ckpt"))


def _old_keras(path: Path, checkpoint: Checkpoint) -> None:
    """Write weights as Keras 2 did, a group for each layer."""
    with h5py.File(path, "w") as file:
        layers: dict[str, list[str]] = {}
        for name, array in _plain(checkpoint).items():
            layer, _, leaf = name.rpartition(".")
            layers.setdefault(layer, []).append(f"{layer}/{leaf}:0")
            file[f"{layer}/{layer}/{leaf}:0"] = array
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, names in layers.items():
            file[layer].attrs["weight_names"] = [name.encode() for name in names]


def _own_head(path: Path, checkpoint: Checkpoint) -> None:
    """Write a network whose classifier is `head.fc`, and for a dialect of another framework, its own."""
    import torch

    checkpoint.save(path)
    state = torch.load(path, weights_only=True)
    torch.save({re.sub(r"^fc\.", "head.fc.", name): tensor for name, tensor in state.items()}, path)


def _replicated(path: Path, checkpoint: Checkpoint) -> None:
    """Write a tree of Flax with two copies of every array, in a tree of its own."""
    copies = {f"model.{name}": np.stack([array, array]) for name, array in checkpoint.arrays.items()}
    msgpack_file.write(path, copies, {})


def _bare_hdf5(path: Path, checkpoint: Checkpoint) -> None:
    checkpoint.save(path)
    with h5py.File(path, "a") as file:
        del file.attrs[PACKED]


def _bare_keras(path: Path, checkpoint: Checkpoint) -> None:
    checkpoint.save(path)
    inner = path.with_name(INNER)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    inner.write_bytes(entries[INNER])
    with h5py.File(inner, "a") as file:
        del file.attrs[PACKED]
    path.write_bytes(rezipped({**entries, INNER: inner.read_bytes()}))
    inner.unlink()


def _transformers_folder(path: Path, checkpoint: Checkpoint) -> None:
    path.mkdir()
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    names = list(checkpoint.arrays)
    places = {name: shards[index >= len(names) // 2] for index, name in enumerate(names)}
    for shard in shards:
        arrays = {name: array for name, array in checkpoint.arrays.items() if places[name] == shard}
        safetensors_file.write(path / shard, arrays, {})
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (path / "config.json").write_text(json.dumps({"model_type": "resnet", "downsample_in_bottleneck": False}))


def _preset(path: Path, checkpoint: Checkpoint) -> None:
    path.mkdir()
    _bare_hdf5(path / INNER, checkpoint)
    config = {
        "name": "res_net_backbone", "trainable": True, "dtype": "float32", "data_format": "channels_last",
        "block_type": "bottleneck_block", "use_pre_activation": False, "input_conv_kernel_sizes": [7],
        "input_conv_filters": [TINY.width], "stackwise_num_filters": [TINY.width * 2**stage for stage in range(4)],
        "stackwise_num_blocks": list(TINY.depths), "stackwise_num_strides": [1, 2, 2, 2],
        "image_shape": [None, None, 3],
    }  # fmt: skip
    model = {"module": "keras_hub.src.models.resnet.resnet_backbone", "class_name": "ResNetBackbone"}
    model |= {"registered_name": "keras_hub>ResNetBackbone", "config": config}
    (path / "config.json").write_text(json.dumps(model))


FORMS = (
    Form("ours", "safetensors", "safetensors", _ours, sealed=True, states_variant=True),
    Form("bare", "safetensors", "safetensors", _bare_safetensors),
    Form("ours", "Keras archive", "keras", _ours, sealed=True, states_variant=True),
    Form("Keras's", "Keras archive", "keras", _bare_keras, sealed=True, states_variant=True),
    Form("ours", "PyTorch", "torch", _ours, sealed=True),  # by the checksums of zip
    Form("until 1.6", "PyTorch", "old pickle", _old_pickle),
    Form("a training checkpoint", "PyTorch", "wrapped torch", _training_checkpoint, sealed=True),
    Form("with a head of its own", "PyTorch", "wrapped torch", _own_head, sealed=True),
    Form("a teacher", "PyTorch", "wrapped torch", _students, sealed=True, options={"entry": "teacher.backbone"}),
    Form(
        "a network with things to drop",
        "PyTorch",
        "wrapped torch",
        _contrastive,
        sealed=True,
        options={"drop": ["projection_head", "prototypes", "queue"]},
    ),
    Form("without its head", "PyTorch", "wrapped torch", _own_head, sealed=True, options={"drop_head": True}),
    Form("TorchScript", "PyTorch", "wrapped torch", _scripted, is_refused=True),
    Form("ours", "NumPy archive", "npz", _ours, sealed=True),  # by the checksums of zip
    Form("behind a prefix", "NumPy archive", "npz", _prefixed_npz, sealed=True),
    Form("ours", "Keras HDF5", "hdf5", _ours, sealed=True, states_variant=True),
    Form("bare", "Keras HDF5", "hdf5", _bare_hdf5),
    Form("ours", "legacy Keras HDF5", "hdf5", _ours, sealed=True, states_variant=True),
    Form("bare", "legacy Keras HDF5", "hdf5", _bare_hdf5),
    Form("ours", "msgpack", "msgpack", _ours),
    Form("replicated", "msgpack", "replicated", _replicated),
    Form("ours", "Orbax", "", _ours, sealed=True, states_variant=True),
)
"""The containers that we write, as we and as other programs write them."""

FOLDERS = (
    Form(
        "shards", "transformers folder", "", _transformers_folder, states_variant=True,
        target="transformers", dialect="transformers",
    ),
    Form(
        "TF-Slim's", "TensorFlow checkpoint", "", _bundle, sealed=True, target="checkpoint", dialect="tf-slim",
        function=replace(VARIANTS["v1"], same_padding=True), opened="model.ckpt",
    ),
    Form(
        "TF-Slim's", "NumPy archive", "npz", _slim_npz, sealed=True, target="slim.npz", dialect="tf-slim",
        function=replace(VARIANTS["v1"], same_padding=True),
    ),
    Form(
        "a head beside it", "PyTorch", "wrapped torch", _beside_head, sealed=True, target="lightning.ckpt",
        dialect="torchvision", options={"head": "own_classes"},
    ),
    Form(
        "keras-resnet's", "legacy Keras HDF5", "hdf5", _old_keras, target="old.h5", dialect="keras-2",
        function=replace(VARIANTS["v1"], same_padding=True),
    ),
    Form(
        "preset", "Keras Hub preset", "", _preset, states_variant=True,
        target="preset", dialect="keras-hub",
    ),
)  # fmt: skip
"""The folders, and the files of one dialect, that the campaign only reads."""
