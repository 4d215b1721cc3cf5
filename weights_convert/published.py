"""The published checkpoints of this network: address, variant, hash, and the images that each expects.

The facts come from the sources of the libraries that publish them, and a test compares every row with the installed
libraries. The source of transformers names only ResNet-50; that the two deeper checkpoints are of the same variant is
stated by the model card of one of them, and assumed of the other. Facts that a library keeps beside the weights rather
than in its source, such as the preprocessing of transformers, are None here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from weights_convert.dialects import find_dialect

IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Preprocessing:
    """The steps from an image to the input: resize, crop, divide by `white`, subtract `mean`, divide by `std`.

    Attributes:
        crop: Side, in pixels, of the square that is cut from the middle and given to the network.
        resize: Length of the shorter side after resizing, in pixels; None if the library leaves that to its user.
        interpolation: The interpolation of resizing; None as above.
        white: The value of a pixel that becomes 1.
        mean: The mean of each channel, in the order of `channels`.
        std: The standard deviation of each channel, in the order of `channels`.
        channels: The order of the channels, "RGB" or "BGR".

    Example:
        >>> PUBLISHED[0].preprocessing.resize, PUBLISHED[0].preprocessing.crop
        (256, 224)
    """

    crop: int
    resize: int | None = None
    interpolation: str | None = None
    white: float = 255.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channels: str = "RGB"


@dataclass(frozen=True)
class Published:
    """A checkpoint that somebody published.

    Attributes:
        name: The name that a user types.
        origin: The library that it was published for or by.
        dialect: The dialect of its arrays.
        variant: The variant that the library computes with them.
        depth: The N of ResNet-N.
        classes: Length of the logits; 0 if there is no classifier.
        preprocessing: The default preprocessing of images; None if the library's source does not state it.
        address: An `https://` address, a repository of the hub, or a preset on Kaggle.
        digest: The hash of the file as "algorithm:digits", with as many digits as are published; None if none is.
    """

    name: str
    origin: str
    dialect: str
    variant: str
    depth: int
    classes: int
    preprocessing: Preprocessing | None
    address: str
    digest: str | None = None

    @property
    def recognised_by(self) -> str:
        """A phrase that says how the variant is known.

        Example:
            >>> PUBLISHED[0].recognised_by
            'published by torchvision as v1.5'
        """
        return f"published by {self.origin} as {self.variant}"


def _row(
    origin: str,
    name: str,
    address: str,
    preprocessing: Preprocessing | None = None,
    classes: int = IMAGENET_CLASSES,
    digest: str | None = None,
) -> Published:
    """Return a row; its dialect and variant are those of the library, and its depth stands in its name."""
    dialect, architecture = find_dialect(origin), re.search(r"resnet[_-]?(\d+)", name)
    assert dialect.published_variant is not None
    assert architecture is not None
    depth = int(architecture[1])
    return Published(
        name, origin, dialect.name, dialect.published_variant, depth, classes, preprocessing, address, digest
    )


def _torchvision(weights: str, file: str, resize: int) -> Published:
    """Return a row of torchvision; its file names hold the first eight digits of the SHA-256."""
    architecture, digits = file.removesuffix(".pth").split("-")
    name, address = f"torchvision://{architecture}.{weights}", f"https://download.pytorch.org/models/{file}"
    return _row("torchvision", name, address, Preprocessing(224, resize, "bilinear"), digest=f"sha256:{digits}")


def _timm(model: str, preprocessing: Preprocessing, classes: int = IMAGENET_CLASSES) -> Published:
    return _row("timm", f"hf://timm/{model}", f"hf://timm/{model}", preprocessing, classes)


def _transformers(model: str) -> Published:
    return _row("transformers", f"hf://microsoft/{model}", f"hf://microsoft/{model}")


def _keras(architecture: str, ending: str, classes: int, md5: str) -> Published:
    folder = "https://storage.googleapis.com/tensorflow/keras-applications/resnet"
    address = f"{folder}/{architecture}_weights_tf_dim_ordering_tf_kernels{ending}.h5"
    return _row("keras.applications", f"keras://{architecture}{ending}", address, CAFFE, classes, f"md5:{md5}")


def _keras_hub(preset: str) -> Published:
    return _row("keras-hub", f"keras-hub://{preset}", f"kaggle://keras/resnetv1/keras/{preset}/3")


CAFFE = Preprocessing(224, white=1.0, mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0), channels="BGR")
"""The mode "caffe" of keras.applications: the mean pixel is subtracted, and nothing is scaled."""

TIMM: dict[Preprocessing, dict[str, tuple[int, ...]]] = {
    Preprocessing(160, 168, "bicubic"): {"a3": (50, 101, 152)},
    Preprocessing(176, 195, "bicubic"): {"a1h": (50,)},
    Preprocessing(176, 201, "bilinear"): {"tv2": (50, 101, 152)},
    Preprocessing(224, 235, "bicubic"): {
        "a1": (50, 101, 152),
        "a1h": (101, 152),
        "a2": (50, 101, 152),
        "b1k": (50,),
        "b2k": (50,),
        "c1": (50,),
        "c2": (50,),
        "d": (50,),
    },
    Preprocessing(224, 256, "bicubic"): {"am": (50,), "bt": (50,), "gluon": (50, 101, 152), "ra": (50,), "ram": (50,)},
    Preprocessing(224, 256, "bilinear"): {"fb_ssl_yfcc100m_ft": (50,), "fb_swsl_ig1b_ft": (50,), "tv": (50, 101, 152)},
}
"""timm's models trained on ImageNet, resnet<depth>.<tag>_in1k: the depths of each tag, by the default preprocessing.

The preprocessing is that of timm's `create_transform`, whose size is the size of training; many of the models are
evaluated on larger images. Each model is a repository on the hub.
"""

PUBLISHED: tuple[Published, ...] = (
    _torchvision("IMAGENET1K_V1", "resnet50-0676ba61.pth", 256),
    _torchvision("IMAGENET1K_V2", "resnet50-11ad3fa6.pth", 232),
    _torchvision("IMAGENET1K_V1", "resnet101-63fe2227.pth", 256),
    _torchvision("IMAGENET1K_V2", "resnet101-cd907fc2.pth", 232),
    _torchvision("IMAGENET1K_V1", "resnet152-394f9c45.pth", 256),
    _torchvision("IMAGENET1K_V2", "resnet152-f82ba261.pth", 232),
    *(
        _timm(f"resnet{depth}.{tag}_in1k", preprocessing)
        for preprocessing, tags in TIMM.items()
        for tag, depths in tags.items()
        for depth in depths
    ),
    _timm("resnet50.bamboo", Preprocessing(224, 224, "bicubic"), classes=0),
    _transformers("resnet-50"),
    _transformers("resnet-101"),
    _transformers("resnet-152"),
    _keras("resnet50", "", IMAGENET_CLASSES, "2cb95161c43110f7111970584f804107"),
    _keras("resnet50", "_notop", 0, "4d473c1dd8becc155b73f8504c6f6626"),
    _keras("resnet101", "", IMAGENET_CLASSES, "f1aeb4b969a6efcfb50fad2f0c20cfc5"),
    _keras("resnet101", "_notop", 0, "88cf7a10940856eca736dc7b7e228a21"),
    _keras("resnet152", "", IMAGENET_CLASSES, "100835be76be38e30d865e96f2aaae62"),
    _keras("resnet152", "_notop", 0, "ee4c566cf9a93f14d82f913c2dc6dd0c"),
    _keras_hub("resnet_50_imagenet"),
    _keras_hub("resnet_101_imagenet"),
    _keras_hub("resnet_152_imagenet"),
)
"""Every published checkpoint that is known."""

BY_NAME: dict[str, Published] = {row.name: row for row in PUBLISHED}
"""Every published checkpoint, by the name that a user types."""
