"""Questions: the probes by which a layer of each kind is asked what it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from zlib import crc32

import numpy as np

from conformance.cases.case import MODES, Mode
from conformance.cases.inputs import noise, noise_sides
from conformance.cases.probe import Probe
from conformance.identify import convolution_questions, norm, pool, total
from conformance.identify.geometry import Geometry
from conformance.identify.link import IMAGES, Array, Kind, Link
from impls.config import TOTAL_STRIDE, ResNetConfig, feature_size

Asked = Mapping[str, Mapping[str, Array]]
"""Part of a measurement to the inputs of a link by name."""

REPEATED = "held-out-again"
"""Part of every measurement that repeats the held-out probe."""


def random_for(link: Link) -> np.random.Generator:
    """Make the source of a link's probes: the same numbers in every run."""
    return np.random.default_rng(crc32(link.name.encode()))


def ask_layer(link: Link, config: ResNetConfig, geometry: Geometry | None = None) -> Asked:
    """Make the inputs of a link's probes, by part of the measurement; for a geometry, where that is known."""
    asked = _ask_convolution(link, config, geometry) if geometry else QUESTIONS[link.kind](link, config)
    return {**asked, REPEATED: asked["held-out"]}


def _one_input(parts: Mapping[str, Array], link: Link) -> Asked:
    (name,) = link.inputs
    single = name == IMAGES  # images are handed to a network in float32
    return {
        part: {name: array.astype(np.float32).astype(np.float64) if single else array} for part, array in parts.items()
    }


def _ask_convolution(link: Link, config: ResNetConfig, geometry: Geometry | None = None) -> Asked:
    odd, even = noise_sides(config.head_pool)
    return _one_input(convolution_questions.questions(link, random_for(link), (even[:2], odd[:2]), geometry), link)


def _ask_sum(link: Link, config: ResNetConfig) -> Asked:
    block = next(block for block in config.blocks() if block.name == link.name)
    _, shortcut = link.inputs
    before = shortcut if not block.projects else _before(link.name, config)
    sources = {
        each.name: (each.out_channels, 1) for each in config.blocks() if _same_stage_before(each.name, link.name)
    }
    sources |= {before: (block.in_channels, block.stride)}
    sources |= {f"{link.name}.{name}": (block.out_channels, 1) for name in ("conv3", "bn3")}
    if block.projects:
        sources |= {f"{link.name}.{name}": (block.out_channels, 1) for name in ("downsample_conv", "downsample_bn")}
    return total.questions(link, random_for(link), sources)


def usual_map(config: ResNetConfig) -> tuple[int, int]:
    """Return height and width of the last feature map of the images that layers are screened with."""
    height, width, _ = noise_sides(config.head_pool)[1]
    return feature_size(height), feature_size(width)


def _same_stage_before(name: str, block: str) -> bool:
    """Tell whether a block is in the same stage as another and runs before it."""
    (stage, _, index), (own, _, number) = name.partition("."), block.partition(".")
    return stage == own and int(index) < int(number)


def _before(block: str, config: ResNetConfig) -> str:
    names = ["stem", *(each.name for each in config.blocks())]
    return names[names.index(block) - 1]


QUESTIONS: dict[Kind, Callable[[Link, ResNetConfig], Asked]] = {
    "convolution": _ask_convolution,
    "classifier": _ask_convolution,
    "norm": lambda link, config: _one_input(norm.questions(link, random_for(link)), link),
    "sum": _ask_sum,
    "stem pool": lambda link, config: _one_input(pool.stem_questions(link, random_for(link)), link),
    "head pool": lambda link, config: _one_input(pool.head_questions(link, random_for(link), usual_map(config)), link),
}
"""The function that makes the inputs of a link's probes, by kind."""


def layer_probes(link: Link, asked: Asked, modes: Sequence[Mode], config: ResNetConfig) -> Iterator[Probe]:
    """Yield the probes of a link: of norms in both modes, of others in the first one in which they are wrong."""
    images = small_images(config)
    for mode in MODES if link.kind == "norm" else modes[:1]:
        for part, inputs in asked.items():
            feeds = {name: array for name, array in inputs.items() if name != IMAGES}
            if link.role == "downsample_conv":  # so that the branch, which may be run first, is small
                block = link.name.rpartition(".")[0]
                channels = next(each.channels for each in config.blocks() if each.name == block)
                feeds |= {f"{block}.conv1": np.zeros((2, channels, 4, 4))}
            probed = inputs[IMAGES].astype(np.float32) if IMAGES in inputs else images
            yield Probe(f"{link.name}--{part}--{mode}", probed, feeds, link.name, mode == "train")


def small_images(config: ResNetConfig) -> Array:
    """Make the images that a network runs on up to a probe: as small as it takes in train mode."""
    side = (config.head_pool or 2) * TOTAL_STRIDE
    return noise(side, side, 2, 0, config.in_channels).images
