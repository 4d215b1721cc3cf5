"""Wrong training scripts for torchvision's network: optimizer, weight decay, clipping, schedule, what is run twice."""

from __future__ import annotations

import torch
from torch import nn, optim
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from tests.conformance.handwritten.torchvision_networks import Script
from tests.conformance.handwritten.wrong_model import wrong

SECOND_STEP = "losses"
"""The first array that shows what begins with the second step."""


def wrong_step(layer, fact, says, *, rows=""):
    return wrong(layer, fact, says, rows=rows, modes=("train",), task="steps")


class WithSgd(Script):
    """A script whose SGD is written out; subclasses override a line of it."""

    def sgd(self, groups, recipe):
        script = self

        class Sgd(optim.SGD):
            @torch.no_grad()
            def step(self):
                for group in self.param_groups:
                    for weight in group["params"]:
                        script.update_weight(weight, weight.grad, self.state[weight], group)

        return Sgd(groups, recipe.learning_rate, recipe.momentum, nesterov=recipe.nesterov)

    def update_weight(self, weight, gradient, state, group):
        velocity = state.setdefault("momentum_buffer", torch.zeros_like(weight))
        gradient = self.decay(gradient, weight, group)
        velocity.mul_(group["momentum"]).add_(gradient)
        weight.sub_(group["lr"] * (gradient + group["momentum"] * velocity if group["nesterov"] else velocity))

    def decay(self, gradient, weight, group):
        return gradient + group["weight_decay"] * weight


@wrong_step("first.conv1.weight", "SGD's weight decay is decoupled", "decay", rows="wd-decoupled")
class DecayDecoupled(WithSgd):
    """SGDW: the decay bypasses the velocity."""

    def update_weight(self, weight, gradient, state, group):
        decayed = group["lr"] * group["weight_decay"] * weight
        super().update_weight(weight, gradient, state, group)
        weight.sub_(decayed)

    def decay(self, gradient, weight, group):
        return gradient


@wrong_step(
    "first.conv1.weight", "SGD's weight decay comes after the step: it shrinks the updated weights", ("decay", "after")
)
class DecayAfterTheStep(WithSgd):
    def update_weight(self, weight, gradient, state, group):
        super().update_weight(weight, gradient, state, group)
        weight.mul_(1 - group["lr"] * group["weight_decay"])

    def decay(self, gradient, weight, group):
        return gradient


@wrong_step("first.conv1.weight", "there is no weight decay", "decay", rows="wd-missing")
class DecayMissing(Script):
    def groups(self):
        return [{"params": list(self.model.parameters())}]

    def adamw(self, groups, recipe):
        return optim.AdamW(groups, recipe.learning_rate, (recipe.beta1, recipe.beta2), recipe.eps, weight_decay=0)


@wrong_step("first.bn1.weight", "weight decay acts on scales, offsets and biases too", "decay", rows="wd-on-norm")
class DecayOnNorms(Script):
    def groups(self):
        return [{"params": list(self.model.parameters()), "weight_decay": self.recipe.weight_decay}]


@wrong_step("first.fc.weight", "weight decay does not act on the classifier", ("decay", r"fc|classifier"))
class DecayWithoutClassifier(Script):
    def groups(self):
        kernels, others = super().groups()
        kernels["params"] = [p for p in kernels["params"] if p is not self.model.fc.weight]
        return [kernels, others, {"params": [self.model.fc.weight], "weight_decay": 0.0}]


@wrong_step("first.conv1.weight", "the weight decay is 5e-4 in SGD", ("decay", r"5e-0?4|0?\.0005"), rows="wd-other")
class DecayOfDarknet(Script):
    def groups(self):
        groups = super().groups()
        for group in groups:
            group["weight_decay"] *= 5 if self.recipe.optimizer == "sgd" and not self.recipe.nesterov else 1
        return groups


@wrong_step("first.fc.weight", "the classifier has ten times the learning rate", ("rate|factor|scal", r"fc|classifier"))
class ClassifierFaster(Script):
    def groups(self):
        head = [*self.model.fc.parameters()]
        groups = super().groups()
        faster = []
        for group in groups:
            mine = [p for p in group["params"] if any(p is other for other in head)]
            group["params"] = [p for p in group["params"] if not any(p is other for other in head)]
            faster.append(group | {"params": mine, "lr": 10 * self.recipe.learning_rate})
        return groups + faster


@wrong_step(
    "first.fc.bias",
    "the classifier's bias is not trained",
    (r"fc\.bias|bias", "not trained|frozen|zero|not updated|stays"),
)
class BiasForgotten(Script):
    """A parameter that was created after the optimizer."""

    def groups(self):
        groups = super().groups()
        groups[1]["params"] = [p for p in groups[1]["params"] if p is not self.model.fc.bias]
        return groups


@wrong_step(
    "first.conv1.weight", "the stem's kernel is not trained", (r"conv1", "not trained|frozen|zero|not updated|stays")
)
class StemFrozen(Script):
    def groups(self):
        groups = super().groups()
        groups[0]["params"] = [p for p in groups[0]["params"] if p is not self.model.conv1.weight]
        return groups


@wrong_step(
    "first.bn1.weight",
    "scales and offsets of norms are not trained",
    ("norm|scale|offset", "not trained|frozen|zero|not updated|stay"),
)
class NormsForgotten(Script):
    def groups(self):
        groups = super().groups()
        groups[1]["params"] = [self.model.fc.bias]
        return groups


@wrong_step("first.conv1.weight", "there is no Nesterov step", "nesterov", rows="nesterov-missing")
class NesterovForgotten(Script):
    def sgd(self, groups, recipe):
        return optim.SGD(groups, recipe.learning_rate, recipe.momentum)


@wrong_step(SECOND_STEP, "the momentum is 0.95", ("momentum", r"0?\.95"), rows="sgd-momentum-other")
class MomentumOther(Script):
    def sgd(self, groups, recipe):
        return optim.SGD(groups, recipe.learning_rate, 0.95, nesterov=recipe.nesterov)


@wrong_step(
    SECOND_STEP, "there is no momentum", ("momentum", r"\b0\b|no momentum|missing|zero"), rows="sgd-momentum-other"
)
class MomentumForgotten(Script):
    """The velocity that is read is the gradient that entered last."""

    def sgd(self, groups, recipe):
        return optim.SGD(groups, recipe.learning_rate)

    def slot(self, parameter, slot):
        return parameter.grad if slot == "momentum_buffer" else super().slot(parameter, slot)


@wrong_step(
    "first.conv1.weight",
    "a tenth of the gradient enters the velocity: an average, not a sum",
    r"dampening|average|0?\.1",
    rows="dampening",
)
class VelocityAveraged(WithSgd):
    def update_weight(self, weight, gradient, state, group):
        velocity = state.setdefault("momentum_buffer", torch.zeros_like(weight))
        gradient = self.decay(gradient, weight, group)
        velocity.lerp_(gradient, 1 - group["momentum"])
        weight.sub_(group["lr"] * (gradient + group["momentum"] * velocity if group["nesterov"] else velocity))


@wrong_step(
    SECOND_STEP,
    "the velocity is set to zero at each change of the rate",
    ("momentum|velocity", "zero|reset|forgot|new"),
)
class VelocityReset(Script):
    """A new optimizer for each phase of the schedule."""

    def update(self):
        before = self.optimizer.param_groups[0]["lr"]
        super().update()
        if self.optimizer.param_groups[0]["lr"] != before and self.recipe.schedule == "steps":
            self.optimizer.state.clear()


@wrong_step("first.conv1.weight", "gradients are clipped by value", "value|each number", rows="clip-by-value")
class ClippedByValue(Script):
    def clip(self):
        if self.recipe.clip_norm is not None:
            clip_grad_value_(self.model.parameters(), self.recipe.clip_norm)


@wrong_step(
    "first.conv1.weight", "gradients are clipped to norm / (total + 1e-6)", "1e-0?6|clip", rows="clip-a-little-more"
)
class ClippedByTorch(Script):
    def clip(self):
        if self.recipe.clip_norm is not None:
            clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)


@wrong_step("first.conv1.weight", "gradients are not clipped", "clip", rows="clip-missing")
class ClippingForgotten(Script):
    def clip(self):
        pass


@wrong_step(
    "first.conv1.weight",
    "the gradients of each layer are clipped by their own norm",
    "clip|own norm|each",
    rows="clip-one-by-one",
)
class ClippedOneByOne(Script):
    def clip(self):
        if self.recipe.clip_norm is not None:
            for parameter in self.model.parameters():
                factor = self.recipe.clip_norm / parameter.grad.norm()
                parameter.grad.mul_(torch.nan_to_num(factor, posinf=1.0).clamp(max=1.0))


@wrong_step("first.conv1.weight", "gradients are scaled to the norm 1, also where theirs is less", ("clip|norm|scal",))
class GradientsNormalised(Script):
    def clip(self):
        total = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in self.model.parameters()]))
        for parameter in self.model.parameters():
            parameter.grad.div_(total)


@wrong_step(SECOND_STEP, "the learning rate stays constant", "constant|schedule|rate", rows="schedule-constant")
class ScheduleForgotten(Script):
    def factor(self, step):
        return super().factor(step) if step < self.recipe.warmup_steps else 1.0


@wrong_step(SECOND_STEP, "the milestones come one step late", "late|milestone|schedule|rate", rows="milestones-late")
class MilestonesLate(Script):
    """`step > milestone` for `step >= milestone`."""

    def factor(self, step):
        recipe = self.recipe
        if recipe.schedule != "steps":
            return super().factor(step)
        return recipe.gamma ** sum(step > milestone for milestone in recipe.milestones)


@wrong_step("first.conv1.weight", "the warm-up begins at zero", "zero|warm", rows="warmup-from-zero")
class WarmupFromZero(Script):
    def warmup(self, step, recipe):
        return step / recipe.warmup_steps


@wrong_step("first.conv1.weight", "the warm-up begins at a tenth of the rate", ("warm|rate|schedule", r"0?\.1|tenth"))
class WarmupFromATenth(Script):
    def warmup(self, step, recipe):
        return 0.1 + 0.9 * step / recipe.warmup_steps


@wrong_step(SECOND_STEP, "the cosine is counted from the first step", "cosine|schedule|rate", rows="cosine-from-start")
class CosineFromStart(Script):
    def cosine(self, step, steps):
        warmup = self.recipe.warmup_steps
        return super().cosine(step + warmup, steps + warmup)


@wrong_step(SECOND_STEP, "the cosine ends at a tenth of the rate", ("rate|schedule|cosine",))
class CosineToATenth(Script):
    """eta_min."""

    def cosine(self, step, steps):
        return 0.1 + 0.9 * super().cosine(step, steps)


@wrong_step(SECOND_STEP, "the rate falls linearly, not as a cosine", ("linear|rate|schedule",))
class LinearSchedule(Script):
    def cosine(self, step, steps):
        return 1 - step / steps


@wrong_step(SECOND_STEP, "the schedule is one step behind, after the warm-up", ("late|behind|schedule|rate",))
class CosineOneStepLate(Script):
    """The scheduler of the cosine begins with the step after its own first one."""

    def cosine(self, step, steps):
        return super().cosine(max(0, step - 1), steps)


@wrong_step(
    "first.conv1.weight", "the learning rate is half", ("rate|scal|factor", r"0?\.5|half"), rows="learning-rate-scaled"
)
class RateHalved(Script):
    def factor(self, step):
        return 0.5 * super().factor(step)


@wrong_step("first.conv1.weight", "AdamW's decay is an L2 penalty", "decay|l2", rows="adam-l2")
class AdamForAdamW(Script):
    def adamw(self, groups, recipe):
        return optim.Adam(groups, recipe.learning_rate, (recipe.beta1, recipe.beta2), recipe.eps)


@wrong_step("first.conv1.weight", "Adam's eps is 1e-6", ("eps", r"1e-0?6"), rows="adam-eps-other")
class AdamEpsOther(Script):
    def adamw(self, groups, recipe):
        return optim.AdamW(groups, recipe.learning_rate, (recipe.beta1, recipe.beta2), 1e-6)


@wrong_step("first.exp_avg_sq.conv1.weight", "Adam's beta2 is 0.99", ("beta2|0?\\.99",), rows="adam-beta2-099")
class AdamBetaOther(Script):
    def adamw(self, groups, recipe):
        return optim.AdamW(groups, recipe.learning_rate, (recipe.beta1, 0.99), recipe.eps)


@wrong_step("losses", "the largest second moment is kept: AMSGrad", "amsgrad|largest|maximum")
class AmsGrad(Script):
    def adamw(self, groups, recipe):
        return optim.AdamW(groups, recipe.learning_rate, (recipe.beta1, recipe.beta2), recipe.eps, amsgrad=True)


@wrong_step("first.conv1.weight", "AdamW is NAdam: it looks ahead", "nadam|nesterov|ahead")
class NesterovAdam(Script):
    def adamw(self, groups, recipe):
        return optim.NAdam(
            groups, recipe.learning_rate, (recipe.beta1, recipe.beta2), recipe.eps, decoupled_weight_decay=True
        )


@wrong_step("first.conv1.weight", "the optimizer is Lion: signs of the moments", "sign|lion")
class SignedUpdates(Script):
    def adamw(self, groups, recipe):
        class Signed(optim.AdamW):
            @torch.no_grad()
            def step(self):
                before = {p: p.clone() for group in self.param_groups for p in group["params"]}
                super().step()
                for group in self.param_groups:
                    for weight in group["params"]:
                        mean = self.state[weight]["exp_avg"]
                        weight.copy_(before[weight] * (1 - group["lr"] * group["weight_decay"]))
                        weight.sub_(group["lr"] * mean.sign())

        return Signed(groups, recipe.learning_rate, (recipe.beta1, recipe.beta2), recipe.eps)


@wrong_step("first.bn1.running_mean", "running statistics are updated twice a step", "twice", rows="statistics-twice")
class SecondForwardPass(Script):
    """The accuracy is taken of another forward pass in train mode."""

    def step(self, images, labels):
        with torch.no_grad():
            self.model.train()(images)
        return super().step(images, labels)


@wrong_step(
    "first.stage3.0.bn1.running_mean", "running statistics of stage 3 are updated twice a step", (r"twice", r"stage ?3")
)
class CheckpointedStage(Script):
    """Gradient checkpointing of one stage, which runs it again in the backward pass."""

    def prepare(self):
        from torch.utils.checkpoint import checkpoint

        stage = self.model.layer3
        forward = stage.forward
        stage.forward = lambda x: checkpoint(forward, x, use_reentrant=False)


@wrong_step(
    SECOND_STEP, "gradients add up from step to step", "add up|zero_grad|kept|accumul|sum", rows="gradients-kept"
)
class GradientsKept(Script):
    def step(self, images, labels):
        self.optimizer.zero_grad = lambda: None
        return super().step(images, labels)


@wrong_step(
    "first.conv1.weight",
    "weights are updated every second step",
    ("second|every other|accumul|not updated|no step|stay",),
)
class GradientsAccumulated(Script):
    """Two batches for an update, of gradients that are averaged."""

    def __init__(self, model, recipe):
        super().__init__(model, recipe)
        self.taken, self.zero = 0, self.optimizer.zero_grad
        self.optimizer.zero_grad = lambda: None

    def update(self):
        self.taken += 1
        if self.taken % 2 == 0:
            for parameter in self.model.parameters():
                parameter.grad.div_(2)
            self.optimizer.step()
            self.zero()
        self.scheduler.step()


@wrong_step(
    "first.bn1.running_mean", "norms are in inference mode during training", ("inference|frozen|running|not updated",)
)
class TrainedInEvalMode(Script):
    """model.train() is forgotten after the last evaluation."""

    def step(self, images, labels):
        self.model.train = lambda mode=True: nn.Module.train(self.model, False)
        return super().step(images, labels)


@wrong_step(
    "first.conv1.weight",
    "weights are an average over steps: the decay is 0.9",
    ("average|ema|0?\\.9|share|factor",),
    rows="learning-rate-scaled",
)
class AverageSaved(Script):
    """The exponential average of the weights goes on in the place of the weights."""

    @torch.no_grad()
    def update(self):
        before = [p.clone() for p in self.model.parameters()]
        super().update()
        for weight, old in zip(self.model.parameters(), before, strict=True):
            weight.copy_(0.9 * old + 0.1 * weight)


@wrong_step(SECOND_STEP, "labels of the later steps are off by one", ("label|loss",))
class LabelsOfTheBatchBefore(Script):
    """A loader that is one batch ahead with its images."""

    before = None

    def step(self, images, labels):
        used = labels if self.before is None else self.before
        self.before = labels
        return super().step(images, used)


@wrong_step("first.conv1.weight", "gradients have noise added", ("random|noise|two runs|no ",))
class GradientNoise(Script):
    def clip(self):
        super().clip()
        generator = torch.Generator().manual_seed(0)
        for parameter in self.model.parameters():
            parameter.grad.add_(0.01 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
