"""Draw docs/trace.svg and docs/pictures.png, the examples on the pages about seeing: python docs/make_pictures.py.

They hold times and what one version of Matplotlib draws, so no test compares them.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

import dualnet as dn

HERE = Path(__file__).resolve().parent


def sick() -> dn.seeing.tracing.Trace:
    """A network with a dead layer and too large a step, looked at."""
    (x, t), _ = dn.data.load_digits()
    layers = [dn.Conv2D(16, 3), dn.ReLU(), dn.Residual(dn.Conv2D(16, 3, padding="same")), dn.ReLU(), dn.MaxPool2D(2)]
    net = dn.Sequential([*layers, dn.Flatten(), dn.Dense(32), dn.ReLU(), dn.Dense(10)]).init((8, 8, 1))
    net[6].b.value = net[6].b.value - 1.3
    traces = [net.trace(x[:64], t[:64], optimizer=2.0) for _ in range(20)]
    return min(traces, key=lambda trace: trace.forward_ms + trace.backward_ms)  # undisturbed by other programs


def sheet() -> Figure:
    """Eight pictures of one trained network."""
    (x, t), (x_test, t_test) = dn.data.load_digits()
    net = dn.models.digits_cnn().init((8, 8, 1))
    history = net.fit(x, t, epochs=6, validation_data=(x_test, t_test), verbose=0)
    scores = net.predict(x_test)
    figure = Figure(figsize=(13, 9.4), layout="compressed")
    axes = figure.subplots(3, 3)
    dn.viz.filters(net, ax=axes[0, 0])
    dn.viz.feature_maps(net, x_test[1], "1", ax=axes[0, 1])
    dn.viz.deltas(net, x_test[1], t_test[1], "3", ax=axes[0, 2])
    dn.viz.learning_curves(history, axes=axes[1, :2])
    dn.viz.confusion_matrix(t_test, scores, ax=axes[1, 2])
    dn.viz.saliency(net, x_test[1], ax=axes[2, 0])
    dn.viz.grad_cam(net, x_test[1], layer="3", ax=axes[2, 1])
    dn.viz.loss_landscape(net, x[:128], t[:128], directions=2, points=17, ax=axes[2, 2])
    return figure


if __name__ == "__main__":
    sick().save(HERE / "trace.svg")
    sheet().savefig(HERE / "pictures.png", dpi=75, pil_kwargs={"optimize": True})
