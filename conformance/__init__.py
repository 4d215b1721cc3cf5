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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from conformance.checking import Report


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
    device: str = "auto",
    timeout: float = 900.0,
    seed: int = 0,
) -> Report:
    """Check models as they are: the command `conformance check` as a function.

    Args:
        models: Live objects, which are run in this process and left as they were, and targets as text
            ("torchvision.models:resnet50"), which are run in workers.
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
        device: "cpu", "gpu" or "auto".
        timeout: Seconds that one worker may take; a live object has no limit.
        seed: Seed of synthetic weights and noise.

    Returns:
        A report: `report.conforms` tells the verdict, and `str(report)` is what the command prints.

    Raises:
        ValueError: If a target names nothing, a model's arrays or its variant cannot be told, or weights or pictures
            cannot be read or do not suit it.
    """
    from conformance.cases.case import MODES
    from conformance.checking import Request, check_models
    from conformance.run.candidates.options import Options

    request = Request(
        variant=variant,
        weights=None if weights is None else Path(weights),
        own_weights=own_weights,
        images=[Path(image) for image in images],
        precisions=precisions,
        tasks=tasks,
        modes=MODES[:1] if inference else MODES,
        device=device,
        timeout=timeout,
        seed=seed,
        options=Options(output, layout, str(names or "")),
    )
    return check_models(models, request)
