"""The training step: what is run twice, and what is kept from one step to the next."""

from __future__ import annotations

from conformance.faults.edit import before
from conformance.faults.fault import Seen, step_fault
from conformance.faults.remedies import Remedies

ONCE = Remedies(
    torch="Run the model in train mode once a step; torch.utils.checkpoint runs it again and updates statistics twice.",
    flax="Run the model in train mode once a step: no second forward pass for metrics, nor under nnx.remat.",
    keras="Run the model with training=True once a step: no second forward pass for metrics.",
)
ZEROED = Remedies(
    torch="Call optimizer.zero_grad() before each backward().",
    flax="Gradients are values here: hand nothing of the last step to the optimizer.",
    keras="Gradients are values here: hand nothing of the last step to the optimizer.",
)

ROWS = {
    "statistics-twice": step_fault(
        what="running statistics are updated twice a step: a second forward pass in train mode",
        seen_in=(Seen.STATISTICS, Seen.STEPS),
        numpy=before(
            "        value, grads = self.gradients(self.model.train(), images, labels, self.recipe)",
            "self.model.train()(images)",
        ),
        torch=before("        value = loss(self.model(images), labels, self.recipe)", "self.model(images)"),
        flax=(
            "loss(model(images), labels, recipe))(model)",
            "loss((model(images), model(images))[1], labels, recipe))(model)",
        ),
        keras=before(
            "        return float(self.model.train_on_batch(images, labels))", "self.model(images, training=True)"
        ),
        source="pytorch#96136, insightface#2053",
        remedies=ONCE,
    ),
    "gradients-kept": step_fault(
        what="gradients are not set to zero between steps, and add up",
        numpy=(
            "        clip(grads, self.recipe.clip_norm)\n",
            '        for name, held in vars(self).get("held", {}).items():\n'
            "            grads[name] = grads[name] + held\n"
            "        clip(grads, self.recipe.clip_norm)\n"
            "        self.held = dict(grads)\n",
        ),
        torch=("        self.optimizer.zero_grad()\n", ""),
        keeps=True,
        remedies=ZEROED,
    ),
}
