"""Variants: the function that a model is held against, where the target or the model itself tells it.

Nothing is guessed: weights of equal shapes belong to several functions. Two factories are known, with arguments that
leave the function as it is; the configuration of a library's own model is read by the rules for files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from conformance.run.candidates.survey import Survey
from conformance.run.candidates.targets import Target
from impls.config import VARIANTS, ResNetConfig
from weights_convert.configurations import Judgement, found, judge
from weights_convert.table import Framework


class VariantError(ValueError):
    """Nothing tells which variant a model is held against."""


@dataclass(frozen=True)
class Factory:
    """A factory that is known to make variant v1.5.

    Attributes:
        modules: Modules that have it.
        name: Its name there.
        harmless: Keyword arguments that leave the function as it is, whatever their value.
        model: What the first positional argument must be, up to a dot; empty where there is none.
    """

    modules: tuple[str, ...]
    name: str
    harmless: frozenset[str]
    model: str = ""

    def makes(self, target: Target) -> bool:
        """Tell whether a target names this factory, with no argument that changes the function."""
        arguments = [str(argument).partition(".")[0] for argument in target.arguments]
        return (
            target.module in self.modules
            and target.factory == self.name
            and arguments == ([self.model] if self.model else [])
            and target.keywords.keys() <= self.harmless
        )


TIMM_HARMLESS = frozenset({"pretrained", "num_classes", "in_chans"})

V15_FACTORIES = (
    Factory(
        ("torchvision.models", "torchvision.models.resnet"),
        "resnet50",
        frozenset({"weights", "progress", "num_classes", "zero_init_residual"}),
    ),
    Factory(("timm.models", "timm.models.resnet"), "resnet50", TIMM_HARMLESS),
    Factory(("timm", "timm.models"), "create_model", TIMM_HARMLESS, "resnet50"),
)
"""Factories of variant v1.5. Sources: torchvision/models/resnet.py, timm/models/resnet.py."""


@dataclass(frozen=True)
class Convention:
    """The convention of a library's own norms in train mode: a fact about it, not a bug.

    Attributes:
        variance: The batch variance that enters the running variance.
        decays: Shares of the running statistic that its models keep; the first is assumed where a model does not tell.
        words: The convention in words; empty where it is that of the oracle.
    """

    variance: Literal["unbiased", "biased"]
    decays: tuple[float, ...]
    words: str = ""


CONVENTIONS: dict[Framework, Convention] = {
    "torch": Convention("unbiased", (0.9,)),
    "keras": Convention("biased", (0.99, 0.9), "Keras's own running statistics"),
    "flax": Convention("biased", (0.9, 0.99), "Flax's own running statistics"),
}
"""The convention of each framework. Sources: `torch.nn.BatchNorm2d`, `keras.layers.BatchNormalization`,
`flax.linen.BatchNorm` and `flax.nnx.BatchNorm`."""


def find_variant(given: str | None, target: Target | None, survey: Survey) -> tuple[ResNetConfig, str]:
    """Find the variant that a model is held against.

    Args:
        given: The variant that the user gives, if any.
        target: What names the model; None for a live object.
        survey: What the model says of itself.

    Returns:
        A configuration of the variant, and how it is known.

    Raises:
        VariantError: If nothing tells.
        ValueError: If there is no variant of the name that was given.
    """
    if given is not None:
        if given not in VARIANTS:
            raise ValueError(f"there is no variant {given}; the variants are {', '.join(VARIANTS)}")
        return VARIANTS[given], "as given"
    if ours := own_config(survey.facts):
        return ours, "by its own configuration"
    stated = judgement_of_facts(survey.facts)
    if stated.problems:
        raise VariantError(f"{'; '.join(stated.problems)}; --variant (variant=...) holds it against one anyway")
    if len(stated.variants) == 1:
        return VARIANTS[stated.variants[0]], f"by {stated.known_by}"
    if target is not None and any(factory.makes(target) for factory in V15_FACTORIES):
        return VARIANTS["v1.5"], f"assumed: {target.module}:{target.factory} with these arguments is v1.5"
    raise VariantError(
        "nothing tells which variant it is held against; give --variant (in Python variant=...), one of "
        f"{', '.join(VARIANTS)}: the ResNet-50 of torchvision, timm and transformers is v1.5"
    )


def own_config(facts: Mapping[str, Any]) -> ResNetConfig | None:
    """Read the configuration of one of this project's own models; None if it is another's."""
    try:
        config = ResNetConfig.from_dict(dict(facts))
    except ValueError:
        return None
    return config if config.variant in VARIANTS else None


def judgement_of_facts(facts: Mapping[str, Any]) -> Judgement:
    """Judge a library's own configuration, read as the file that it would be in."""
    return judge(found("configuration", json.loads(json.dumps(facts, default=str))))


def follow_convention(config: ResNetConfig, survey: Survey) -> tuple[ResNetConfig, str]:
    """Let a network follow the convention of a model's library in train mode.

    Returns:
        The configuration, and the convention in words, empty where it is that of the oracle.
    """
    if own_config(survey.facts) or "train" in survey.cannot:
        return config, ""
    convention = CONVENTIONS[survey.framework]
    decay = survey.decay if survey.decay in convention.decays else convention.decays[0]
    words = convention.words and f"{convention.words}: decay {decay:g}, {convention.variance} variance"
    return replace(config, norm_decay=decay, norm_variance=convention.variance), words
