"""The head: what it pools, the classifier's matrix and bias, what it returns."""

from __future__ import annotations

from functools import partial

import numpy as np

from conformance.faults.array_changes import changed, left_at, scaled
from conformance.faults.fault import Parameter, model_fault
from conformance.faults.model_lines import HEAD_POOL, LOGITS
from conformance.faults.place import WITH_CLASSES, at
from conformance.faults.remedies import BIAS, DTYPE, Remedies

POOLED = Remedies(
    torch="Average over the whole map: x.mean((2, 3)), or AdaptiveAvgPool2d(1).",
    flax="Average over the whole map: x.mean((1, 2)).",
    keras="Average over the whole map: GlobalAveragePooling2D, pooling='avg'.",
)
MATRIX = Remedies(
    torch="fc.weight is (classes, features): transpose a dense kernel of (features, classes), and keep all rows.",
    flax="fc.kernel is (features, classes): transpose a Linear weight of (classes, features), and keep all columns.",
    keras="fc.kernel is (features, classes): transpose a Linear weight of (classes, features), and keep all columns.",
)
BACKGROUND = Remedies(
    torch="Drop the background class, row 0 of 1001, from fc.weight and fc.bias.",
    flax="Drop the background class, column 0 of 1001, from fc.kernel and entry 0 of fc.bias.",
    keras="Drop the background class, column 0 of 1001, from fc.kernel and entry 0 of fc.bias.",
)
OUTPUT = Remedies(
    torch="Return logits: softmax belongs to the loss (cross_entropy) or to the caller.",
    flax="Return logits: softmax belongs to the loss (optax's with logits) or to the caller.",
    keras="Return logits: classifier_activation=None, and from_logits=True in the loss.",
)
CLASSIFIER = at("head") & WITH_CLASSES

classifier_fault = partial(model_fault, where=CLASSIFIER)

ROWS = {
    "head-max": model_fault(
        what="the head takes the largest value of the map, not its mean",
        where=at("head"),
        line=HEAD_POOL,
        numpy='x = tap("pool", x.max((2, 3)))',
        torch='x = tap("pool", x.amax((2, 3)))',
        flax='x = tap("pool", x.max((1, 2)))',
        keras='x = tap("pool", ops.max(x, (1, 2)))',
        source="keras.applications",
        remedies=POOLED,
    ),
    "fc-bias-dropped": classifier_fault(
        what="the classifier's bias was left out",
        weights=left_at(bias=0.0),
        remedies=BIAS,
    ),
    "classes-1001": classifier_fault(
        what="the classifier has a background class first: logits are shifted by one",
        weights=changed("weight", "bias", by=lambda array: np.roll(array, 1, axis=0)),
        source="mlcommons/inference",
        remedies=BACKGROUND,
    ),
    "fc-reshaped": classifier_fault(
        what="the classifier's matrix was reshaped, not transposed",
        weights=changed("weight", by=lambda matrix: matrix.T.reshape(matrix.shape)),
        remedies=MATRIX,
    ),
    "fc-half": classifier_fault(
        what="the classifier's weights were rounded to float16",
        weights=changed("weight", by=lambda matrix: matrix.astype(np.float16)),
        remedies=DTYPE,
    ),
    "softmax-included": classifier_fault(
        what="the network returns probabilities, not logits",
        line=LOGITS,
        numpy='x = np.exp(self.fc(x))\n        return tap("logits", x / x.sum(1, keepdims=True))',
        torch='return tap("logits", self.fc(x).softmax(1))',
        flax='return tap("logits", jax.nn.softmax(self.fc(x)))',
        keras='return tap("logits", ops.softmax(self.fc(x)))',
        source="keras.applications",
        remedies=OUTPUT,
    ),
    "flatten-order": classifier_fault(
        what="the features before the classifier are in the order of NHWC, where the weights were trained with NCHW",
        # Both kinds of head pool leave a map of one pixel.
        weights=changed("weight", by=lambda w: w.reshape(len(w), -1, 1, 1).transpose(0, 2, 3, 1).reshape(w.shape)),
        source="keras#9696, MMdnn#595",
        remedies=MATRIX,
        harmless="the pooled map is one pixel, for which both orders are the same; a larger map would be out of order",
    ),
    "logits-scaled": classifier_fault(
        what="logits are multiplied by some factor, as by a temperature",
        weights=scaled("weight", "bias"),
        unknown=Parameter("factor", injected=1.5, starts=(0.5, 1.1, 2.0)),
        remedies=OUTPUT,
    ),
}
