"""Batch norms: arrays exchanged or not loaded, another eps or decay of statistics, the wrong mode."""

from __future__ import annotations

from functools import partial

import numpy as np

from conformance.faults.array_changes import (
    changed,
    exchanged,
    exchanged_with_following,
    left_at,
    scaled,
    variance_changed,
)
from conformance.faults.edit import replaced
from conformance.faults.fault import Fault, Parameter, Seen, model_fault
from conformance.faults.model_lines import NORM_CALL, torch_norm
from conformance.faults.place import NETWORK, at
from conformance.faults.remedies import FOLDED, NAMES, Remedies

LOADED = Remedies(
    torch="Load with strict=True, so that a missing weight, bias, running_mean or running_var is an error.",
    flax="Restore nnx.BatchStat (mean, var) as well as nnx.Param (scale, bias), and compare the paths of both.",
    keras="Set gamma, beta, moving_mean and moving_variance of every norm, and use no skip_mismatch.",
)
LEAVES = Remedies(
    torch="weight is the scale, bias the offset, running_mean and running_var the statistics: map each by name.",
    flax="scale and bias are nnx.Param, mean and var nnx.BatchStat: map each by name.",
    keras="Keras orders gamma, beta, moving_mean, moving_variance: map each by name.",
)
EPS = Remedies(
    torch="Set eps of nn.BatchNorm2d to the eps that the weights were trained with (its default is 1e-5).",
    flax="Set epsilon of nnx.BatchNorm to the eps that the weights were trained with (its default is 1e-5).",
    keras="Set epsilon of BatchNormalization to the eps that the weights were trained with (its default is 1e-3).",
)
DECAY = Remedies(
    torch="momentum of nn.BatchNorm2d is the share of the new statistic: 0.1 where the others say 0.9.",
    flax="momentum of nnx.BatchNorm is the share of the old statistic: 0.9 where PyTorch says 0.1 (default 0.99).",
    keras="momentum of BatchNormalization is the share of the old one: 0.9 where PyTorch says 0.1 (default 0.99).",
)
VARIANCE = Remedies(
    torch="nn.BatchNorm2d stores the unbiased variance already: do not correct it again.",
    flax="nnx.BatchNorm stores the biased variance: multiply the batch's by n / (n - 1) in a subclass.",
    keras="BatchNormalization stores the biased variance: multiply the batch's by n / (n - 1) in a subclass.",
)
MODE = Remedies(
    torch="Call model.train() to train and model.eval() to infer, and freeze no norm in between.",
    flax="Call model.train() to train and model.eval() to infer: both set use_running_average.",
    keras="Hand training=True or False down to every BatchNormalization, and leave its trainable True.",
)
ONE_OR_ALL = at("norm") | NETWORK
leaf_fault = partial(Fault, where=at("norm"), remedies=LEAVES)
loading_fault = partial(Fault, where=at("norm"), remedies=LOADED)
eps_fault = partial(model_fault, where=ONE_OR_ALL, remedies=EPS)
decay_fault = partial(Fault, where=ONE_OR_ALL, seen_in=(Seen.STATISTICS,), remedies=DECAY)
mode_fault = partial(model_fault, where=ONE_OR_ALL, remedies=MODE)
variance_fault = partial(model_fault, where=ONE_OR_ALL, remedies=VARIANCE)

ROWS = {
    "mean-offset-swap": leaf_fault(
        what="running mean and offset are exchanged",
        weights=exchanged(("running_mean", "bias")),
    ),
    "scale-var-swap": leaf_fault(
        what="scale and running variance are exchanged",
        weights=exchanged(("weight", "running_var")),
    ),
    "scale-offset-swap": leaf_fault(what="scale and offset are exchanged", weights=exchanged(("weight", "bias"))),
    "var-is-deviation": leaf_fault(
        what="a standard deviation was loaded as the running variance",
        weights=changed("running_var", by=np.sqrt),
    ),
    "var-is-inverse": leaf_fault(
        what="an inverse standard deviation, 1 / sqrt(variance + eps), was loaded as the running variance",
        weights=variance_changed(lambda variance, eps: 1 / np.sqrt(variance + eps)),
    ),
    "norm-not-loaded": loading_fault(
        what="running mean and variance were left at 0 and 1",
        weights=left_at(running_mean=0.0, running_var=1.0),
    ),
    "mean-not-loaded": loading_fault(what="the running mean was left at 0", weights=left_at(running_mean=0.0)),
    "var-not-loaded": loading_fault(what="the running variance was left at 1", weights=left_at(running_var=1.0)),
    "scale-not-loaded": loading_fault(
        what="the scale was left at 1: scale=False, or a name that did not match",
        weights=left_at(weight=1.0),
    ),
    "offset-not-loaded": loading_fault(
        what="the offset was left at 0: center=False, or a name that did not match",
        weights=left_at(bias=0.0),
    ),
    "norm-order-following": Fault(
        what="the norm and that of the next block, which has the same shapes, are in each other's place",
        where=at("norm", followed=True),
        weights=exchanged_with_following,
        source="tensorflow#33459",
        remedies=NAMES,
    ),
    "eps-keras": eps_fault(
        what="eps is 1e-3, Keras's default",
        config={"norm_eps": 1e-3},
        source="nn-transfer#3, keras-yolo3#451",
    ),
    "eps-1.001": eps_fault(
        what="eps is 1.001e-5, as in keras.applications, not 1e-5",
        seen_in=(Seen.FORWARD_FLOAT64,),
        config={"norm_eps": 1.001e-5},
        source="keras.applications",
    ),
    "eps-1e-5": eps_fault(
        what="eps is 1e-5, the usual default, where the weights were trained with another",
        seen_in=(Seen.FORWARD_FLOAT64,),
        config={"norm_eps": 1e-5},
        source="keras.applications",
    ),
    "eps-zero": eps_fault(
        what="no eps is added to the variance: it was forgotten when the norm was folded or written by hand",
        seen_in=(Seen.FORWARD_FLOAT64,),
        **replaced("config.norm_eps", "1e-30"),
    ),
    "eps-outside-root": eps_fault(
        what="eps is added to the standard deviation, not to the variance",
        where=at("norm"),
        seen_in=(Seen.FORWARD_FLOAT64,),
        # A variance of which sqrt(variance + eps) is sqrt(right variance) + eps.
        weights=variance_changed(lambda variance, eps: (np.sqrt(variance) + eps) ** 2 - eps),
    ),
    "momentum-inverted": decay_fault(
        what="running statistics keep a share of 0.1 of the old value at each step, not 0.9",
        config={"norm_decay": 0.1},
        source="transformers#19454, flaxmodels, EfficientNet-PyTorch#3",
    ),
    "momentum-099": decay_fault(
        what="running statistics keep a share of 0.99 of the old value at each step, the default of Flax and Keras",
        config={"norm_decay": 0.99},
        source="bonsai, keras.applications",
    ),
    "var-biased": variance_fault(
        what="the batch's variance enters the running one without the correction n / (n - 1)",
        seen_in=(Seen.STATISTICS,),
        config={"norm_variance": "biased"},
        source="pytorch#1410, keras#16363, tensorflow#55545",
    ),
    "bn-frozen": mode_fault(
        what="the batch norm is in inference mode during training",
        seen_in=(Seen.FORWARD_TRAIN, Seen.STATISTICS),
        numpy=("if self.training:", "if False:"),
        torch=torch_norm("FrozenBatchNorm", "self.training = False\nreturn super().forward(x)"),
        flax=(
            (NORM_CALL["flax"], "y = super().__call__(x, use_running_average=True)"),
            ("if not self.use_running_average:", "if False:"),
        ),
        keras=(
            (NORM_CALL["keras"], "y = super().call(x, training=False, mask=mask)"),
            ("if training and self.trainable:", "if False:"),
        ),
        source="pytorch2keras#13",
    ),
    "bn-batch-stats": mode_fault(
        what="the batch norm uses the batch's statistics in inference",
        numpy=(NORM_CALL["numpy"], "mean, variance = self.moments(x)"),
        torch=torch_norm(
            "BatchNormByBatch",
            "if self.training:\n"
            "    return super().forward(x)\n"
            "return nn.functional.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)",
        ),
        flax=(
            NORM_CALL["flax"],
            "if self.use_running_average:\n"
            "            mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))\n"
            "            y = (x - mean) / jnp.sqrt(variance + self.epsilon) * self.scale[...] + self.bias[...]\n"
            "        else:\n"
            "            y = super().__call__(x)",
        ),
        keras=(
            NORM_CALL["keras"],
            "if not training:\n"
            "            mean, variance = ops.mean(x, (0, 1, 2)), ops.var(x, (0, 1, 2))\n"
            "            return (x - mean) / ops.sqrt(variance + self.epsilon) * self.gamma + self.beta\n"
            "        y = super().call(x, training=training, mask=mask)",
        ),
        source="xla#806, flax#2279",
    ),
    "bn-fast-variance": variance_fault(
        what="the variance is computed as E[x^2] - E[x]^2",
        seen_in=(Seen.FORWARD_TRAIN,),
        numpy=("values.var(1)", "(values**2).mean(1) - values.mean(1) ** 2"),
        flax=("use_fast_variance=False", "use_fast_variance=True"),
        source="keras#18795",
        harmless="equal in exact arithmetic; it loses digits only where the mean is large compared with the deviation",
    ),
    "eps-other": eps_fault(
        what="eps has an unusual value",
        config={"norm_eps": Parameter("eps", injected=3.7e-4, starts=(1e-6, 1e-4, 1e-2))},
    ),
    "momentum-other": decay_fault(
        what="running statistics keep an unusual share of the old value at each step",
        config={"norm_decay": Parameter("decay", injected=0.73, starts=(0.5, 0.95), positive=False)},
    ),
    "caffe-factor": leaf_fault(
        what="running statistics were not divided by the factor that Caffe's files store beside them",
        weights=scaled("running_mean", "running_var"),
        unknown=Parameter("factor", injected=999.982, starts=(0.5, 2.0, 1000.0)),
    ),
    "scale-scaled": Fault(
        what="the norm's scale is multiplied by some factor",
        where=at("norm"),
        weights=scaled("weight"),
        unknown=Parameter("factor", injected=0.8, starts=(0.5, 1.1, 2.0, 30.0)),
        remedies=FOLDED,
    ),
}
