"""torchvision's ResNet, small or whole, trained by a script like torchvision's own, as a candidate of the suite."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn, optim
from torch.nn.functional import cross_entropy
from torchvision.models.resnet import Bottleneck, ResNet, resnet50

from conformance.cases.names import activation_names
from conformance.run.capabilities import Capability
from impls.config import VARIANTS
from impls.taps import is_layer
from weights_convert import load
from weights_convert.dialects import find_dialect

DIALECT = find_dialect("torchvision")
RENAMED = {"maxpool": "stem", "avgpool": "pool", "fc": "logits"}


class SmallResNet(ResNet):
    """torchvision's network of any depths and width, by its own constructor.

    Args:
        config: Depths, width and number of classes.
    """

    def __init__(self, config):
        self.share = config.width / 64
        super().__init__(Bottleneck, list(config.depths), config.num_classes)
        self.conv1 = nn.Conv2d(config.in_channels, config.width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.width)
        self.fc = nn.Linear(config.width * 8 * Bottleneck.expansion, config.num_classes)

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
        planes = round(planes * self.share)
        if planes == round(64 * self.share):
            self.inplanes = planes
        return super()._make_layer(block, planes, blocks, stride, dilate)


def network(config):
    """torchvision's own ResNet-50, or a small network of its class."""
    if (config.depths, config.width) == (VARIANTS["v1.5"].depths, VARIANTS["v1.5"].width):
        return resnet50(num_classes=config.num_classes)
    return SmallResNet(config)


class Script:
    """A training script in plain PyTorch, which follows a recipe; subclasses override a step of it.

    Args:
        model: Network to train, in place.
        recipe: What is to be followed.
    """

    def __init__(self, model, recipe):
        self.model, self.recipe = model, recipe
        self.prepare()
        self.optimizer = self.make_optimizer(self.groups())
        self.scheduler = optim.lr_scheduler.LambdaLR(self.optimizer, self.factor)

    def prepare(self):
        """Change the model before it is trained."""

    def groups(self):
        """Parameter groups: kernels, which decay, and all others, which decay in some recipes."""
        kernels = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim == 1]
        decay = self.recipe.weight_decay
        return [
            {"params": kernels, "weight_decay": decay},
            {"params": others, "weight_decay": decay if self.recipe.decayed == "all" else 0.0},
        ]

    def make_optimizer(self, groups):
        recipe = self.recipe
        return self.adamw(groups, recipe) if recipe.optimizer == "adamw" else self.sgd(groups, recipe)

    def adamw(self, groups, recipe):
        return optim.AdamW(groups, recipe.learning_rate, (recipe.beta1, recipe.beta2), recipe.eps)

    def sgd(self, groups, recipe):
        return optim.SGD(groups, recipe.learning_rate, recipe.momentum, nesterov=recipe.nesterov)

    def factor(self, step):
        """The factor on the learning rate at a step, counted from 0."""
        recipe = self.recipe
        if step < recipe.warmup_steps:
            return self.warmup(step, recipe)
        if recipe.schedule == "cosine":
            return self.cosine(step - recipe.warmup_steps, recipe.total_steps - recipe.warmup_steps)
        return recipe.gamma ** sum(step >= milestone for milestone in recipe.milestones)

    def warmup(self, step, recipe):
        return (step + 1) / recipe.warmup_steps

    def cosine(self, step, steps):
        return 0.5 * (1 + np.cos(np.pi * step / steps))

    def loss(self, logits, labels):
        return cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)

    def clip(self):
        if self.recipe.clip_norm is not None:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            total = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))
            for gradient in gradients:
                gradient.mul_((self.recipe.clip_norm / total).clamp(max=1.0))

    def step(self, images, labels):
        self.model.train()
        self.optimizer.zero_grad()
        loss = self.loss(self.model(images), labels)
        loss.backward()
        self.clip()
        self.update()
        return loss.item()

    def update(self):
        self.optimizer.step()
        self.scheduler.step()

    def slot(self, parameter, slot):
        """Return the optimizer's state of a parameter; zeros where there is none yet."""
        kept = self.optimizer.state.get(parameter, {}).get(slot)
        return torch.zeros_like(parameter) if kept is None else kept


class TorchvisionCandidate:
    """A torchvision network with an edit, or with another script to train it, as a candidate.

    Args:
        edit: Changes a network in place, or returns another.
        script: Class of the training script.
    """

    capabilities = frozenset({Capability.TAP, Capability.DIFFERENTIATE, Capability.TRAIN})

    def __init__(self, edit=lambda net: None, script=Script):
        self.edit, self.script = edit, script

    def prepare(self, device, precision):
        self.dtype = getattr(torch, precision)
        torch.manual_seed(0)
        return "cpu"

    def build(self, config, weights):
        self.config = config
        self.model = network(config).to(self.dtype)
        arrays = load(weights).to("torchvision").arrays
        state = {name: torch.tensor(array) for name, array in arrays.items()}
        self.model.load_state_dict(self.model.state_dict() | state)
        self.model = self.edit(self.model) or self.model

    def named(self, tensors):
        """Tensors by canonical name, copied into arrays; names that no network of the variant has are kept."""
        arrays = {}
        for name, tensor in tensors:
            if not name.endswith("num_batches_tracked"):
                reading = DIALECT.read_name(name)
                arrays[reading[0] if reading else name] = tensor.detach().numpy().copy()
        return arrays

    def arrays(self):
        return self.named(self.model.state_dict().items())

    def parameters(self):
        return {name: array.shape for name, array in self.arrays().items()}

    def modules(self):
        """Modules whose output is compared, by canonical name."""
        known = set(activation_names(self.config, layers=True))
        for path, module in self.model.named_modules():
            reading = DIALECT.read_name(f"{path}.weight")
            name = RENAMED.get(path) or (
                reading[0].removesuffix(".weight") if reading else path.replace("layer", "stage")
            )
            if name in known:
                yield name, module

    @torch.no_grad()
    def run_tapped(self, images, train, tap):
        def hook(name):
            def pass_on(module, inputs, output):
                array = output.detach().numpy().copy()
                replacement = tap(name, array.reshape(len(array), -1) if name == "pool" else array)
                if replacement is None:
                    return None
                return torch.from_numpy(replacement).reshape(replacement.shape + output.shape[replacement.ndim :])

            return pass_on

        before = copy.deepcopy(self.model.state_dict())
        hooks = [module.register_forward_hook(hook(name)) for name, module in self.modules()]
        try:
            self.model.train(train)(torch.from_numpy(images).to(self.dtype))
            statistics = {name: array for name, array in self.arrays().items() if ".running_" in name}
        finally:
            for handle in hooks:
                handle.remove()
            self.model.load_state_dict(before)
        return statistics if train else {}

    def record(self, images, train, layers):
        activations = {}
        statistics = self.run_tapped(images, train, activations.__setitem__)
        return {name: array for name, array in activations.items() if layers or not is_layer(name)} | dict(statistics)

    def gradients(self, images, labels, recipe, train, activations=None):
        if activations is not None:
            raise NotImplementedError("gradients are taken at the candidate's own activations alone")
        before = copy.deepcopy(self.model.state_dict())
        attributes = {module: dict(vars(module)) for module in self.model.modules()}  # a script may replace some
        with torch.enable_grad():
            inputs = torch.from_numpy(images).to(self.dtype).requires_grad_()
            script = self.script(self.model.train(train), recipe)
            script.optimizer.zero_grad()
            loss = script.loss(self.model(inputs), torch.from_numpy(labels))
            loss.backward()
        for module, kept in attributes.items():
            vars(module).clear()
            vars(module).update(kept)
        self.model.load_state_dict(before)
        tensors = [*self.model.named_parameters(), ("input", inputs)]
        zeros = [(name, torch.zeros_like(t) if t.grad is None else t.grad) for name, t in tensors]
        return loss.item(), self.named(zeros)

    def training(self, recipe):
        model = copy.deepcopy(self.model)
        script = self.script(model, recipe)

        @torch.enable_grad()
        def step(images, labels):
            return script.step(torch.from_numpy(images).to(self.dtype), torch.from_numpy(labels))

        def read():
            slots = {
                slot: SimpleNamespace(
                    arrays=self.named((name, script.slot(p, slot)) for name, p in model.named_parameters())
                )
                for slot in recipe.slots
            }
            return SimpleNamespace(weights=SimpleNamespace(arrays=self.named(model.state_dict().items())), slots=slots)

        return step, read
