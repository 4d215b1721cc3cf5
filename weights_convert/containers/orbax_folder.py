"""Orbax checkpoints: folders of nested dictionaries of arrays, through orbax-checkpoint, which imports JAX."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from weights_convert.containers.contents import Arrays, Contents, Metadata
from weights_convert.containers.trees import flatten, nest, unique_dict
from weights_convert.errors import ConversionError, listed
from weights_convert.metadata import pack, unpack
from weights_convert.packages import import_optional

SIGNS = ("_METADATA", "manifest.ocdbt")
"""Files that only the folder of a checkpoint has."""

STEP_SIGN = "_CHECKPOINT_METADATA"
"""The file that a checkpoint has as well, and a step of a checkpoint manager, which holds checkpoints by name."""

DEEPEST = 2
"""The levels between a manager's root and a checkpoint: the step, and the item in it."""

LISTED = 8
"""The number of checkpoints that a message lists."""


def is_folder(folder: Path) -> bool:
    """Return whether a folder is a checkpoint, or a step or the root of a checkpoint manager, which hold some."""
    return (folder / STEP_SIGN).is_file() or bool(checkpoints(folder))


def checkpoints(folder: Path, depth: int = DEEPEST) -> list[Path]:
    """Return the checkpoints in a folder, or the folder itself if it is one, without links to other places."""
    if any((folder / sign).is_file() for sign in SIGNS):
        return [folder]
    inside = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink()) if depth else []
    return [found for entry in inside if not entry.name.startswith("ocdbt.") for found in checkpoints(entry, depth - 1)]


def read(path: Path) -> Contents:
    """Read arrays by dotted name, and our metadata if we wrote the checkpoint.

    Raises:
        ConversionError: If Orbax is not installed, the folder holds several checkpoints, or the list of arrays is
            damaged.
    """
    ocp = import_optional("orbax.checkpoint", "flax", str(path))
    folder = _only_checkpoint(path).resolve()
    with ExitStack() as put_back, warnings.catch_warnings():
        # Orbax makes its own event loop and accepts none, so that it is made patient by the policy.
        put_back.callback(asyncio.set_event_loop_policy, asyncio.get_event_loop_policy())
        asyncio.set_event_loop_policy(_PatientPolicy())
        warnings.simplefilter("ignore", UserWarning)  # no sharding is given, since there is one host
        warnings.simplefilter("ignore", RuntimeWarning)  # Orbax drops coroutines if _METADATA is damaged
        checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
        description = checkpointer.metadata(folder)
        if description.item_metadata is None:
            raise ConversionError(str(path), ["it is not a complete Orbax folder: its _METADATA cannot be read"])
        as_numpy = _map_leaves(description.item_metadata.tree, lambda _: ocp.RestoreArgs(restore_type=np.ndarray))
        tree = checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    return unique_dict(flatten(tree)), unpack(description.custom_metadata or {})


def _only_checkpoint(path: Path) -> Path:
    """Return the only checkpoint in a folder.

    Raises:
        ConversionError: If there are several steps or items.
    """
    found = checkpoints(path)
    if len(found) > 1:
        places = listed((place.relative_to(path) for place in found), LISTED)
        problem = f"it holds {len(found)} checkpoints, by step and item: {places}"
        raise ConversionError(str(path), [problem], f"Give the folder of one of them, such as {found[-1]}.")
    return found[0] if found else path


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


def _map_leaves(tree: Any, function: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _map_leaves(value, function) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_map_leaves(value, function) for value in tree]
    return function(tree)
