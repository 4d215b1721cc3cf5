"""Hold the ResNet-50 of torchvision to the specification: the tests of a project that depends on it.

The fixture `check_conformance` comes with resnet-parity. A test that fails names the first wrong layer and its cause.
"""

from __future__ import annotations

import pytest
from torchvision.models import resnet50

pytestmark = pytest.mark.conformance(variant="v1.5", precisions=["float64"], inference=True)


def test_it_computes_resnet50_v15(check_conformance):
    """Check a live model in this process; synthetic weights are put in and taken out again."""
    check_conformance(resnet50(num_classes=10))


def test_a_model_that_was_changed_is_noticed(check_conformance):
    """Change one layer: the strided convolution of stage 3 becomes the first 1x1, as in the paper of 2015."""
    model = resnet50(num_classes=10)
    block = model.layer3[0]
    block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    with pytest.raises(pytest.fail.Exception, match=r"first at stage3\.0\.conv1"):
        check_conformance(model)


@pytest.mark.slow
@pytest.mark.conformance(precisions=[], inference=False)
def test_it_conforms_in_both_modes_and_precisions(check_conformance):
    """Check what a target names, in workers of its own: in train mode and in float32, too."""
    check_conformance("torchvision.models:resnet50")
