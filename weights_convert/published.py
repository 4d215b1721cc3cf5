"""The published checkpoints of this network: whose they are, which function they belong to, what images they expect.

The facts are those that the publishing library's own source states, and a test compares the rows with the libraries
installed. Of the three for transformers its source names the first alone; that the two deeper ones are of the same
function is said by the model card of one of them, and taken for granted of the other. What a
library keeps beside the weights and not in its source, such as the preprocessing of those three, is None here.
"""

from __future__ import annotations

from dataclasses import dataclass

IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image before the network: resize, crop, divide by `white`, subtract `mean`, divide by `std`.

    Attributes:
        crop: Side of the square cut from the middle; what the network is given.
        resize: Length of the shorter side before that; None where the library leaves it to its user.
        interpolation: By which pixels are resized; None as above.
        white: What stands for 1: pixels of 0 to 255 are divided by it.
        mean: Of each channel, in the order of `channels`.
        std: Of each channel, likewise.
        channels: Their order, "RGB" or "BGR".

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
        name: What a user types.
        origin: The library that it was published for, or by.
        dialect: How its arrays are named.
        variant: The function that the library computes with them.
        depth: The N of ResNet-N.
        classes: Length of the logits; 0 where there is no classifier.
        preprocessing: Of images, by default; None where the library's source does not say.
        address: Where it is: https, a repository of a hub, or a preset of Kaggle.
        digest: "algorithm:hexadecimal", of the file; as many digits as are published. None where none is.
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
        """How the variant is known.

        Example:
            >>> PUBLISHED[0].recognised_by
            'published by torchvision as v1.5'
        """
        return f"published by {self.origin} as {self.variant}"


def _torchvision(weights: str, file: str, resize: int) -> Published:
    """A row of torchvision, whose files have the first eight digits of their SHA-256 in their names."""
    architecture, digits = file.removesuffix(".pth").split("-")
    return Published(
        name=f"torchvision://{architecture}.{weights}",
        origin="torchvision",
        dialect="torchvision",
        variant="v1.5",
        depth=_depth(architecture),
        classes=IMAGENET_CLASSES,
        preprocessing=Preprocessing(224, resize, "bilinear"),
        address=f"https://download.pytorch.org/models/{file}",
        digest=f"sha256:{digits}",
    )


def _timm(model: str, preprocessing: Preprocessing, classes: int = IMAGENET_CLASSES) -> Published:
    address = f"hf://timm/{model}"
    depth = _depth(model.partition(".")[0])
    return Published(address, "timm", "torchvision", "v1.5", depth, classes, preprocessing, address)


def _transformers(model: str) -> Published:
    address = f"hf://microsoft/{model}"
    depth = _depth(model)
    return Published(address, "transformers", "transformers", "v1.5", depth, IMAGENET_CLASSES, None, address)


def _keras(architecture: str, md5: str, md5_notop: str) -> tuple[Published, Published]:
    """The two rows of an architecture: with its classifier, and without."""
    folder = "https://storage.googleapis.com/tensorflow/keras-applications/resnet"
    file = f"{folder}/{architecture}_weights_tf_dim_ordering_tf_kernels"
    with_top, without_top = (
        Published(
            name=f"keras://{architecture}{ending}",
            origin="keras.applications",
            dialect="keras.applications",
            variant="keras",
            depth=_depth(architecture),
            classes=classes,
            preprocessing=CAFFE,
            address=f"{file}{ending}.h5",
            digest=f"md5:{digits}",
        )
        for ending, classes, digits in (("", IMAGENET_CLASSES, md5), ("_notop", 0, md5_notop))
    )
    return with_top, without_top


def _keras_hub(preset: str) -> Published:
    return Published(
        name=f"keras-hub://{preset}",
        origin="keras-hub",
        dialect="keras-hub",
        variant="v1.5",
        depth=_depth(preset),
        classes=IMAGENET_CLASSES,
        preprocessing=None,
        address=f"kaggle://keras/resnetv1/keras/{preset}/3",
    )


def _depth(architecture: str) -> int:
    """The number in a name.

    Example:
        >>> _depth("resnet_50_imagenet")
        50
    """
    return int("".join(filter(str.isdigit, architecture)))


CAFFE = Preprocessing(224, white=1.0, mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0), channels="BGR")
"""The mode of that name in keras.applications: the mean pixel is subtracted, nothing is scaled."""

TIMM = {
    Preprocessing(160, 168, "bicubic"): ("resnet50.a3_in1k", "resnet101.a3_in1k", "resnet152.a3_in1k"),
    Preprocessing(176, 195, "bicubic"): ("resnet50.a1h_in1k",),
    Preprocessing(176, 201, "bilinear"): ("resnet50.tv2_in1k", "resnet101.tv2_in1k", "resnet152.tv2_in1k"),
    Preprocessing(224, 235, "bicubic"): (
        "resnet50.a1_in1k",
        "resnet50.a2_in1k",
        "resnet50.b1k_in1k",
        "resnet50.b2k_in1k",
        "resnet50.c1_in1k",
        "resnet50.c2_in1k",
        "resnet50.d_in1k",
        "resnet101.a1h_in1k",
        "resnet101.a1_in1k",
        "resnet101.a2_in1k",
        "resnet152.a1h_in1k",
        "resnet152.a1_in1k",
        "resnet152.a2_in1k",
    ),
    Preprocessing(224, 256, "bicubic"): (
        "resnet50.ram_in1k",
        "resnet50.am_in1k",
        "resnet50.ra_in1k",
        "resnet50.bt_in1k",
        "resnet50.gluon_in1k",
        "resnet101.gluon_in1k",
        "resnet152.gluon_in1k",
    ),
    Preprocessing(224, 256, "bilinear"): (
        "resnet50.tv_in1k",
        "resnet101.tv_in1k",
        "resnet152.tv_in1k",
        "resnet50.fb_ssl_yfcc100m_ft_in1k",
        "resnet50.fb_swsl_ig1b_ft_in1k",
    ),
}
"""The models of timm, by the preprocessing of its `create_transform`, whose size is that of training; many are tested
larger. A model is an architecture and a tag, and a repository of that name on the hub."""

PUBLISHED: tuple[Published, ...] = (
    _torchvision("IMAGENET1K_V1", "resnet50-0676ba61.pth", 256),
    _torchvision("IMAGENET1K_V2", "resnet50-11ad3fa6.pth", 232),
    _torchvision("IMAGENET1K_V1", "resnet101-63fe2227.pth", 256),
    _torchvision("IMAGENET1K_V2", "resnet101-cd907fc2.pth", 232),
    _torchvision("IMAGENET1K_V1", "resnet152-394f9c45.pth", 256),
    _torchvision("IMAGENET1K_V2", "resnet152-f82ba261.pth", 232),
    *(_timm(model, preprocessing) for preprocessing, models in TIMM.items() for model in models),
    _timm("resnet50.bamboo", Preprocessing(224, 224, "bicubic"), classes=0),
    _transformers("resnet-50"),
    _transformers("resnet-101"),
    _transformers("resnet-152"),
    *_keras("resnet50", "2cb95161c43110f7111970584f804107", "4d473c1dd8becc155b73f8504c6f6626"),
    *_keras("resnet101", "f1aeb4b969a6efcfb50fad2f0c20cfc5", "88cf7a10940856eca736dc7b7e228a21"),
    *_keras("resnet152", "100835be76be38e30d865e96f2aaae62", "ee4c566cf9a93f14d82f913c2dc6dd0c"),
    _keras_hub("resnet_50_imagenet"),
    _keras_hub("resnet_101_imagenet"),
    _keras_hub("resnet_152_imagenet"),
)
"""Every row."""

BY_NAME: dict[str, Published] = {row.name: row for row in PUBLISHED}
"""Every row by what a user types."""
