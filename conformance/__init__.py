"""The conformance suite: case -> run -> compare -> report.

Cases say what is run; workers, one process per implementation and precision, turn them into traces; comparing judges
traces by the table of limits; reporting shows the verdict. Importing `conformance` imports no framework.

Example:
    Check a model of your own, or one that a target names::

        report = conformance.check(model, variant="v1.5")
        assert report.conforms, report
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from conformance.checking import Report
    from conformance.tracing.comparison import TraceReport
    from conformance.tracing.modules import ModuleReport
    from conformance.tracing.recording import Recording


def check(
    *models: Any,
    variant: str | None = None,
    weights: str | Path | None = None,
    own_weights: bool = False,
    images: Sequence[str | Path] = (),
    precisions: Sequence[str] = (),
    tasks: Sequence[str] = ("forward",),
    inference: bool = False,
    names: str | Path | None = None,
    output: str = "",
    layout: Literal["NCHW", "NHWC", ""] = "",
    size: int | None = None,
    train_argument: str = "",
    device: str = "auto",
    timeout: float = 900.0,
    seed: int = 0,
) -> Report:
    """Check models as they are: the command `conformance check` as a function; `report.conforms` tells the verdict.

    Args:
        models: Live objects, which are run in this process and left as they were; texts are targets for workers.
        variant: The variant that they are held against; None where they tell their own.
        weights: A checkpoint that they are given; None for synthetic weights.
        own_weights: Whether the oracle takes their own weights.
        images: Pictures, in place of the photograph.
        precisions: "float64", "float32" or both; none means both, as far as a model can.
        tasks: "forward", "gradients", "steps".
        inference: Whether inference mode alone is compared.
        names: A TOML file of path patterns, where a model has names of its own.
        output: Key, index or attribute of the logits in what they return.
        layout: Axes of the images that they take; empty for those that their framework is used to.
        size: Height and width of the images, where they take no other, as behind a pool of 7x7; None where they do.
        train_argument: The argument of a Flax module's call that asks for train mode, where it has no usual name.
        device: "cpu", "gpu" or "auto".
        timeout: Seconds that one worker may take; a live object has no limit.
        seed: Seed of synthetic weights and noise.

    Raises:
        ValueError: If a target, the arrays or variant of a model, weights or pictures cannot be told or read.
    """
    options = locals().copy()  # each is a field of the request
    from conformance.checking import check_models
    from conformance.surveying import Request

    return check_models(options.pop("models"), Request(**options))


def record_trace(model: Any, path: str | Path, *, small: bool = False, **options: Any) -> Recording:
    """Run a model and write all that it computes to a file: the command `conformance record` as a function.

    Args:
        model: A live object; a target, as text; or the name of one of our implementations or builds, or "oracle".
        path: The file to write, completely or not at all.
        small: Whether large activations of blocks are kept as sketches; those of layers always are.
        **options: Those of `check`: variant, weights, precisions and so on.

    Returns:
        The recording, whose `not_recorded` lists what the model cannot do.

    Raises:
        ValueError: If the text names nothing, the variant cannot be told, or weights or pictures cannot be read or do
            not suit the model.
        NothingRecorded: If the model could not run in any precision.
    """
    from conformance.surveying import Request
    from conformance.tracing.runs import record_model

    recording = record_model(model, Request(**options), small)
    recording.save(Path(path))
    return recording


def recording(
    model: Any, path: str | Path, *, small: bool = False, layout: Literal["NCHW", "NHWC", ""] = ""
) -> AbstractContextManager[None]:
    """Record what every module of a network returns, whatever the network is, while it is run.

    Args:
        model: The network: a `torch.nn.Module`, a Keras model, a Linen module (its `apply` is recorded) or an NNX
            module. It is run eagerly: inside a compiled function its modules show no numbers.
        path: The file, which is written at the end of the `with` block, unless that raises an error.
        small: Whether large arrays are kept as sketches.
        layout: Axes of its arrays of four axes, empty for those that its framework is used to; NHWC is turned into
            NCHW, so that recordings of different frameworks can be compared.

    Raises:
        TypeError: If the model is of no such framework.
        ValueError: If the model was not called, or is being compiled while it is called.

    Example:
        Record a run in float64, which another network is held against::

            with conformance.recording(model.double(), "reference.trace"):
                model(images.double())
    """
    from conformance.tracing.modules import record_modules

    return record_modules(model, Path(path), small, layout)


def compare_traces(
    first: str | Path,
    second: str | Path,
    weights: str | Path | None = None,
    names: str | Path | None = None,
    noise: str | Path | None = None,
) -> TraceReport | ModuleReport:
    """Compare two files of `record_trace`, or two of `recording`: the command `conformance compare` as a function.

    No framework is needed. In float64 the limits are those of the suite. In float32 the distance of the two is held
    against that of the reference builds, which are run here; that of two files of `recording` against `noise`.

    Args:
        first: The file that the other is held against.
        second: The other.
        weights: For files of `record_trace`: the checkpoint that both were given; None where weights are synthetic.
        names: For files of `recording`: a TOML file with the names of the second for those of the first.
        noise: For files of `recording`: a run in float32 of the network that ran in float64 in the first.

    Returns:
        A report: `report.conforms` tells the verdict, and `str(report)` is what the command prints.

    Raises:
        ValueError: If a file is damaged or of another version, or if networks, weights or inputs differ.
    """
    from conformance.tracing.comparison import compare_files

    one, two, three = (None if path is None else Path(path) for path in (weights, names, noise))
    return compare_files(Path(first), Path(second), one, two, three)
