"""The same run as a notebook: the code of the drawing, with ``fit`` in place of the buttons."""

from __future__ import annotations

import json
import math
from typing import Any

from . import plan
from .training import Training

DATA = "playground-data.npz"


def notebook(training: Training) -> str:
    """A Jupyter notebook, as JSON."""
    texts = [("markdown", title(training)), *steps(training)]
    cells = [cell(kind, text) | {"id": f"cell-{place}"} for place, (kind, text) in enumerate(texts)]
    about = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return json.dumps({"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}, indent=1)


def code(training: Training) -> str:
    """The code cells as one program."""
    return "\n\n".join(text for kind, text in steps(training) if kind == "code")


def cell(kind: str, text: str) -> dict[str, Any]:
    made: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True)}
    return made | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def title(training: Training) -> str:
    text = "# A network from the playground\n\nInstall dualnet first: `pip install .` in a checkout."
    if training.broken:
        text += (
            f"\n\nIn the playground its backward pass was broken by the exercise `{training.broken}`. Here it is "
            f'right; `print(dn.zoo.show("{training.broken}"))` shows the mistake.'
        )
    return text


def steps(training: Training) -> list[tuple[str, str]]:
    settings, epochs = training.settings, epochs_of(training)
    options = [f"epochs={epochs}", f"batch_size={training.size}", "optimizer=optimizer", f"seed={settings['seed']}"]
    options += ["callbacks=Rates()"] if training.changes else []
    options += ["validation_data=(x_test, t_test)", "verbose=2"]
    return [
        ("code", "import numpy as np\n\nimport dualnet as dn"),
        ("code", data(training)),
        ("markdown", "The network, as it was drawn."),
        ("code", f"{plan.code(settings)}\nnet.init(x.shape[1:], seed={settings['seed']})\nprint(net.summary())"),
        ("markdown", "The training: the same batches in the same order, so the weights are the same too."),
        ("code", f"optimizer = {plan.code_of_optimizer(settings)}{rates(training)}"),
        ("code", f"history = net.fit(x, t, {', '.join(options)})"),
        ("markdown", "One number of the backward pass, and the sum that it is."),
        ("code", "why = dn.explain(net, x_test[:1], t=t_test[:1], train=False)\nprint(why)"),
        ("markdown", "The gradients, checked by central differences."),
        ("code", "print(dn.check.gradient(net))"),
    ]


def epochs_of(training: Training) -> int:
    """Whole epochs, at least as many as were made."""
    made = math.ceil(training.step / training.steps_per_epoch)
    return made or int(plan.value(training.settings["epochs"]))


def data(training: Training) -> str:
    if training.pictures.name == "digits":
        return "(x, t), (x_test, t_test) = dn.data.load_digits()"
    return (
        f'# "Save the images" in the playground writes this file.\ndata = np.load("{DATA}")\n'
        'x, t, x_test, t_test = (data[name] for name in ("x", "t", "x_test", "t_test"))'
    )


def rates(training: Training) -> str:
    """The learning rates that were set on the way, as a callback."""
    if not training.changes:
        return ""
    first = training.changes.get(0)
    begin = f"optimizer.lr = {first!r}\n" if first is not None else ""
    later = {step: lr for step, lr in training.changes.items() if step}
    return f"""
{begin}

class Rates(dn.Callback):
    changes = {later!r}  # the learning rate from these steps on

    def on_batch_end(self, run):
        run.optimizer.lr = self.changes.get(run.step, run.optimizer.lr)"""
