"""Orbax checkpoints: folders of nested dictionaries of arrays, through orbax-checkpoint, which imports JAX."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from weights_convert.containers.contents import Arrays, Contents, Metadata
from weights_convert.containers.trees import flatten, nest, unique_dict
from weights_convert.errors import ConversionError
from weights_convert.metadata import pack, unpack
from weights_convert.packages import import_optional

SIGNS = ("_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt")
"""Files that only an Orbax folder has."""


def is_folder(folder: Path) -> bool:
    """Return whether a folder is a checkpoint, or a step of a checkpoint manager, which holds one as `default`."""
    return any((place / sign).is_file() for place in (folder, folder / "default") for sign in SIGNS)


def read(path: Path) -> Contents:
    """Read arrays by dotted name, and our metadata if we wrote the checkpoint.

    Raises:
        ConversionError: If Orbax is not installed, or the list of arrays is damaged.
    """
    ocp = import_optional("orbax.checkpoint", "flax", str(path))
    folder = (path / "default" if (path / "default").is_dir() else path).resolve()
    with _patient_event_loops(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no sharding is given, since there is one host
        warnings.simplefilter("ignore", RuntimeWarning)  # Orbax drops coroutines if _METADATA is damaged
        checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
        description = checkpointer.metadata(folder)
        if description.item_metadata is None:
            raise ConversionError(str(path), ["it is not a complete Orbax folder: its _METADATA cannot be read"])
        as_numpy = _map_leaves(description.item_metadata.tree, lambda _: ocp.RestoreArgs(restore_type=np.ndarray))
        tree = checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    return unique_dict(flatten(tree)), unpack(description.custom_metadata or {})


def write(path: Path, arrays: Arrays, metadata: Metadata) -> None:
    """Write a checkpoint as `StandardCheckpointer` does, with our metadata beside its own.

    Raises:
        ConversionError: If Orbax is not installed.
    """
    ocp = import_optional("orbax.checkpoint", "flax", str(path))
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.resolve(), nest(contiguous), custom_metadata=pack(metadata))


class _PatientLoop(asyncio.SelectorEventLoop):
    """An event loop that waits for all of its tasks before it closes.

    If one array cannot be read, Orbax closes its loop while TensorStore still reads the others, and each of those then
    prints a traceback of its own: "Exception ignored in: None ... Event loop is closed".
    """

    def close(self) -> None:
        if not self.is_closed() and (tasks := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        super().close()


class _PatientPolicy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _PatientLoop()


@contextmanager
def _patient_event_loops() -> Iterator[None]:
    """Make new event loops patient within a context, since Orbax makes its own loop and accepts none."""
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(_PatientPolicy())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(before)


def _map_leaves(tree: Any, function: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _map_leaves(value, function) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_map_leaves(value, function) for value in tree]
    return function(tree)
