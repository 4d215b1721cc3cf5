"""Orbax checkpoints: folders of nested dictionaries of arrays, through orbax-checkpoint (which imports JAX)."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from weights_convert.containers.trees import flattened, nested, unique
from weights_convert.errors import ConversionError
from weights_convert.metadata import PACKED, packed, unpacked
from weights_convert.packages import needed

SIGNS = ("_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt")
"""Files that only an Orbax folder has."""


def matches(folder: Path) -> bool:
    """Whether a folder is a checkpoint, or one step of a checkpoint manager's, which holds it as `default`."""
    return any((place / sign).is_file() for place in (folder, folder / "default") for sign in SIGNS)


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays by dotted name, and our metadata where we wrote the checkpoint.

    Raises:
        ConversionError: If Orbax is not installed, or the list of arrays is damaged.
    """
    ocp = needed("orbax.checkpoint", "flax", str(path))
    place = path / "default" if (path / "default").is_dir() else path
    with _patient_loops(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that no sharding is given: there is one host
        warnings.simplefilter("ignore", RuntimeWarning)  # that Orbax drops what it began, where _METADATA is damaged
        handler = ocp.PyTreeCheckpointHandler()
        checkpointer = ocp.Checkpointer(handler)
        told = checkpointer.metadata(place.resolve())
        if told.item_metadata is None:
            raise ConversionError(str(path), ["it is no whole Orbax folder: its _METADATA cannot be read"])
        as_arrays = _map(told.item_metadata.tree, lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray))
        held = checkpointer.restore(place.resolve(), args=ocp.args.PyTreeRestore(restore_args=as_arrays))
    own = {PACKED: str(told.custom_metadata[PACKED])} if PACKED in (told.custom_metadata or {}) else {}
    return unique(flattened(held)), unpacked(own)


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a checkpoint as `StandardCheckpointer` does, with our metadata beside its own.

    Raises:
        ConversionError: If Orbax is not installed.
    """
    ocp = needed("orbax.checkpoint", "flax", str(path))
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.resolve(), nested(contiguous), custom_metadata=packed(metadata))


class _PatientLoop(asyncio.SelectorEventLoop):
    """An event loop that closes when all it began has ended.

    Where one array cannot be read, Orbax closes its loop while TensorStore still reads the others, and each of those
    then prints a traceback of its own: "Exception ignored in: None ... Event loop is closed".
    """

    def close(self) -> None:
        if not self.is_closed() and (begun := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.gather(*begun, return_exceptions=True))
        super().close()


class _PatientLoops(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return _PatientLoop()


@contextmanager
def _patient_loops() -> Iterator[None]:
    """While it lasts, new event loops are patient: Orbax makes its own, and lets nobody pass one."""
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(_PatientLoops())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(before)


def _map(tree: Any, function: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _map(value, function) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_map(value, function) for value in tree]
    return function(tree)
