"""Errors before the first step: arguments, data, network and loss that do not fit together."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest
from bars import bars, small

import dualnet as dn

X, T = np.ones((9, 2, 2, 1), np.float32), np.zeros(9, int)


@pytest.mark.parametrize(
    "layers",
    [
        lambda: [dn.Flatten(), dn.Sequential([dn.Dense(3), dn.BatchNorm()]), dn.Dense(2)],
        lambda: [dn.Flatten(), dn.Sequential([dn.Residual(dn.Identity()), dn.BatchNorm()]), dn.Dense(2)],
        lambda: [
            dn.GlobalAveragePool2D(keepdims=True),
            dn.Sequential([dn.ReLU(), dn.BatchNorm()]),
            dn.Flatten(),
            dn.Dense(2),
        ],
    ],
)
def test_one_example_left_over_is_told_before_the_first_step(backend, layers):
    net, optimizer = dn.Sequential(layers()), dn.SGD(lr=0.1)
    with pytest.raises(
        ValueError, match=r"9 examples in batches of 4 leave one over, but layer 1.1 \(BatchNorm\) needs"
    ):
        net.fit(X, T, batch_size=4, optimizer=optimizer, verbose=0)
    assert optimizer.steps == 0
    net.fit(X, T, batch_size=5, optimizer=optimizer, verbose=0)


def test_maps_of_several_positions_have_enough(backend):
    net = dn.Sequential([dn.BatchNorm(), dn.Flatten(), dn.Dense(2)])
    net.fit(X, T, batch_size=4, verbose=0)


@pytest.mark.parametrize(
    "layer, loss, targets",
    [
        (dn.Softmax, "softmax_cross_entropy", T),
        (dn.Softmax, functools.partial(dn.losses.softmax_cross_entropy, label_smoothing=0.1), T),
        (dn.Sigmoid, "binary_cross_entropy", np.zeros((9, 2))),
    ],
)
def test_a_layer_that_the_loss_contains_is_warned_of(layer, loss, targets):
    chain = [dn.Flatten(), dn.Dense(2)]
    with pytest.warns(
        UserWarning, match=f"ends with {layer.__name__}, but [a-z_]*entropy applies that itself.*Leave out the layer"
    ):
        dn.Sequential([*chain, dn.Sequential([layer()])]).fit(X, targets, loss=loss, verbose=0)
    dn.Sequential([*chain, dn.LogSoftmax()]).fit(X, T, verbose=0)  # a second time it changes nothing
    dn.Sequential([*chain, layer()]).fit(X, np.zeros((9, 2)), loss="mean_squared_error", verbose=0)


def test_a_frozen_batch_norm_needs_no_second_example(backend):
    class Frozen(dn.Sequential):
        def forward(self, x, train=False, need_dx=True):
            return super().forward(x, False, need_dx)

    net = dn.Sequential([dn.Flatten(), Frozen([dn.BatchNorm()]), dn.Dense(2)]).init(X.shape[1:])
    optimizer, begun = dn.SGD(lr=0.1), []
    net.fit(X, T, batch_size=4, optimizer=optimizer, callbacks=lambda run: begun.append(run.step), verbose=0)
    assert begun == [3]


def test_an_optimizer_for_each_network():
    def network():
        return dn.Sequential([dn.Flatten(), dn.Dense(2)])

    optimizer, net, begun = dn.Adam(), network(), []
    net.fit(X, T, optimizer=optimizer, verbose=0)
    net.fit(X, T, optimizer=optimizer, verbose=0)  # it goes on
    callback = dn.Callback()
    callback.on_fit_begin = begun.append
    for other in (network(), network().init(X.shape[1:]), net.copy()):
        with pytest.raises(ValueError, match=r"^fit: Adam has trained another network \(2 steps\).*Create an optim"):
            other.fit(X, T, optimizer=optimizer, callbacks=callback, verbose=0)
    assert not begun and optimizer.steps == 2


# -- mistakes ----------------------------------------------------------------------------------------------------------

BARS, LABELS = bars(8)
MISTAKES = [
    (lambda n: n.fit(BARS, LABELS[:5]), "fit: x holds 8 examples and t 5"),
    (lambda n: n.fit(BARS[:0], LABELS[:0]), "fit: x holds no examples"),
    (lambda n: n.fit(BARS, LABELS + 1), "fit: .*2"),
    (lambda n: n.fit(BARS, LABELS - 1), "fit: .*-1"),
    (lambda n: n.fit(BARS[:, :, :, 0], LABELS), "The channels are missing"),
    (lambda n: n.fit(BARS, LABELS, epochs=-1), "epochs must be at least 0"),
    (lambda n: n.fit(BARS, LABELS, batch_size=0), "batch_size must be at least 1"),
    (lambda n: n.fit(BARS, LABELS, optimizer="adamm"), "adamm.*adam"),
    (lambda n: n.fit(BARS, LABELS, loss="crossentropy"), "crossentropy.*softmax_cross_entropy"),
    (lambda n: n.fit(BARS, LABELS, verbose=3), "verbose must be 0"),
    (lambda n: n.fit(BARS, LABELS, validation_data=BARS), "validation_data must be a pair"),
    (lambda n: n.fit(BARS, LABELS, validation_data=(BARS, LABELS[:2])), "validation_data: x holds 8 examples and t 2"),
    (lambda n: n.evaluate(BARS, LABELS[:5]), "evaluate: x holds 8 examples and t 5"),
    (lambda n: n.predict(BARS[..., 0]), "The channels are missing"),
    (
        lambda n: n.fit(np.arange(8.0), LABELS),
        r"x has shape \(8,\) and t \(8,\); .* x\[:, None\] has one number for each",
    ),
    (
        lambda n: dn.Sequential([dn.Flatten(), dn.Dense(1)]).fit(BARS, LABELS, loss="mean_squared_error"),
        r"y has shape \(1, 1\) and t \(1,\); expected one shape \(N, ...\). t\[:, None\] has it",
    ),
    (
        lambda n: n.predict(BARS[0]),
        r"predict: x has shape \(6, 6, 1\), like a single example; x\[None\] is a batch of one",
    ),
    (
        lambda n: n.fit(BARS.transpose(0, 3, 1, 2), LABELS),
        r"channels come first: x.transpose\(0, 2, 3, 1\) has them last",
    ),
    (
        lambda n: n.fit(BARS, LABELS, epochs=1, initial_epoch=3),
        "initial_epoch=3 is after epochs=1.*for 1 more epochs, pass epochs=4",
    ),
    (lambda n: n.fit(BARS, LABELS, augment=dn.data.Augment(6)), "augment shifts images of .6, 6, 1. by up to 6 pixels"),
    (
        lambda n: dn.Sequential([dn.Flatten()]).evaluate(BARS, LABELS),
        "^Sequential has no parameters yet: call net.init",
    ),
]


@pytest.mark.parametrize("act, words", MISTAKES, ids=[words[:40] for _, words in MISTAKES])
def test_mistakes_change_nothing(backend, act, words):
    net = small()
    before = {name: np.array(dn.to_numpy(v)) for name, v in net.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        act(net)
    after = net.state_dict()
    assert all(np.array_equal(v, dn.to_numpy(after[name])) for name, v in before.items())


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda x, t: (x, t[:, None]),
            r"fit: the loss does not take outputs of shape \(N, 2\) with .* \(16, 1\), int64",
        ),
        (lambda x, t: (x, t.astype(str)), r"fit: t has dtype <U21; expected numbers. .* numpy.unique"),
        (lambda x, t: (x, t.astype(object)), "fit: t has dtype object; expected numbers"),
        (lambda x, t: (x, t.astype(float)), "labels must be integers, got float64"),
        (
            lambda x, t: (np.ones((16, 9, 9, 1)), t),
            r"x has shape \(16, 9, 9, 1\), but init was given \(6, 6, 1\); layer 6 \(Dense\): dense: x \(1, 36\) has",
        ),
        (lambda x, t: (x[..., 0], t), r"x has shape \(1, 6, 6\); expected \(N, 6, 6, 1\)"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_starts(change, message):
    x, t = change(*bars(16))
    net, begun = small(), []
    callback = dn.Callback()
    callback.on_fit_begin = begun.append
    with pytest.raises((TypeError, ValueError), match=message):
        net.fit(x, t, callbacks=callback, verbose=0)
    if x.ndim == 4 and len(x[0]) == 9:
        with pytest.raises(ValueError, match=message):
            net.predict(x)
        with pytest.raises(ValueError, match="fit: validation_data: " + message):
            net.fit(*bars(16), validation_data=(x, t), callbacks=callback, verbose=0)
    assert not begun


def test_outputs_and_targets_of_two_shapes_are_both_shown():
    x, t = bars(16)
    message = (
        r"outputs of shape \(N, 2\) with targets t of shape \(16,\), int64: mean_squared_error: y has shape \(1, 2\)"
    )
    with pytest.raises(ValueError, match=message):
        small().fit(x, t, loss="mean_squared_error", verbose=0)


def test_warnings_point_at_the_line_that_called_fit():
    net = dn.Sequential([dn.Flatten(), dn.Dense(2), dn.Softmax()])
    with pytest.warns(UserWarning, match="ends with Softmax") as caught:
        net.fit(X, T, verbose=0)
    assert [warning.filename for warning in caught] == [__file__]


def test_arguments_are_checked_in_their_order():
    """The first mistake is the one that is reported: lengths, data, validation, loss, then what fits together."""
    mistakes = [
        ({"epochs": -1}, "epochs must be"),
        ({"initial_epoch": 9}, "initial_epoch=9 is after"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"augment": "yes"}, "fit: augment must be a dn.data.Augment"),
        ({"t": T[:5]}, "fit: x holds 9 examples and t 5"),
        ({"validation_data": X}, "validation_data must be a pair"),
        ({"loss": "none"}, "unknown loss"),
        ({"optimizer": "none"}, "none.*adam"),
        ({"shuffle": 1}, "shuffle must be True or False"),
        ({"callbacks": 3}, "a callback must be a"),
        ({"loss_scale": "none"}, "loss_scale must be 'auto'"),
        ({"capture": 1}, "capture must be True or False"),
        ({"verbose": 3}, "verbose must be 0"),
    ]
    net = dn.Sequential([dn.Flatten(), dn.Dense(2)])
    for first in range(len(mistakes)):
        options = {"x": X, "t": T}
        for wrong, _ in mistakes[first:]:
            options |= wrong
        with pytest.raises((ValueError, TypeError), match=mistakes[first][1]):
            net.fit(**options)


def test_a_loss_that_returns_something_else(backend):
    net = dn.Sequential([dn.Flatten(), dn.Dense(2)])
    for wrong, told in (
        (lambda y, t: y, r"a [A-Za-z]+ \(1, 2\)"),
        (lambda y, t: (y, lambda: y), r"a [A-Za-z]+ \(1, 2\), a function"),
        (lambda y, t: (0.5, 0.5, 0.5), "a float, a float, a float"),
    ):
        with pytest.raises(TypeError, match=f"evaluate: the loss returned {told}; expected one number, the batch's"):
            net.init((2, 2, 1)).evaluate(X, T, loss=wrong)


# -- numbers that nobody meant -----------------------------------------------------------------------------------------


def told(net, x, t, **options):
    """What a training warns of; each warning points here."""
    with warnings.catch_warnings(record=True) as caught, np.errstate(all="ignore"):
        warnings.simplefilter("always")
        net.fit(x, t, **{"verbose": 0, "epochs": 3} | options)
    assert {warning.filename for warning in caught} <= {__file__}
    return [str(warning.message) for warning in caught]


def chain(*layers, classes=2):
    return dn.Sequential([*(layers or (dn.Conv2D(4, 3), dn.ReLU())), dn.Flatten(), dn.Dense(classes)])


def pictures(rng, dtype="uint8", n=40):
    return rng.integers(0, 256, (n, 6, 6, 1)).astype(dtype), np.arange(n) % 2


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32"])
def test_images_that_nobody_scaled_are_warned_of(backend, rng, dtype):
    x, t = pictures(rng, dtype)
    (message,) = told(chain(), x, t)
    assert "whole numbers up to 255" in message and '"float32") / 255' in message
    (message,) = told(chain(), x.astype("float32") / 255, t, validation_data=(x, t))
    assert "x of the validation data holds whole numbers" in message
    assert len(told(chain(), dn.asarray(x), t, augment=dn.data.Augment(1) if dtype == "float32" else None)) == 1


def test_images_that_something_scales_are_not(backend, rng):
    x, t = pictures(rng)
    quiet = [
        (chain(), x.astype("float32") / 255, {}),
        (chain(), x // 3, {}),  # up to 85: not the range of bytes
        (chain(), x + rng.random(x.shape).astype("float32") * 0.1, {}),  # not whole
        (chain(), x.astype("float32") - 128, {}),
        (chain(), x, {"augment": dn.data.Augment(1)}),
        (chain(), x.astype("float32"), {"augment": dn.data.Augment.measured(x.astype("float32"))}),
        (chain(dn.BatchNorm(), dn.Conv2D(4, 3), dn.ReLU()), x, {}),
        (chain(dn.Conv2D(4, 3), dn.BatchNorm(), dn.ReLU()), x, {}),
        (chain(dn.Lambda(lambda x: x / 255, lambda dy, x, y: dy / 255), dn.Conv2D(4, 3)), x, {}),
        (chain(dn.Identity()), x.reshape(len(x), 36), {}),  # numbers, and no images
    ]
    for net, inputs, options in quiet:
        assert told(net, inputs, t, **options) == [], net
    assert len(told(chain(dn.Conv2D(4, 3), dn.ReLU(), dn.BatchNorm()), x, t)) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_warned_of_once(backend, bad):
    x, t = bars(24)
    broken, net = x.copy(), small()
    broken[7, 1, 2] = bad
    (message,) = told(net, broken, t)
    assert message.startswith("fit: x holds NaN or infinite numbers, which spoil the network. Keep only the others")
    (message,) = told(small(), x, t, validation_data=(broken, t))
    assert "x of the validation data holds NaN" in message and "its figures" in message
    target = t[:, None].astype("float64")
    target[3] = bad
    (message,) = told(chain(dn.ReLU(), classes=1), x, target, loss="mean_squared_error")
    assert "fit: t holds NaN" in message


def test_a_loss_or_a_layer_of_ones_own_may_use_nan():
    x, t = bars(24)
    target = np.where(t == 0, np.nan, 1.0)[:, None].astype("float32")

    def known_ones(y, t):
        there = np.isfinite(t)
        r = np.where(there, y - np.where(there, t, 0), 0)
        loss = (r * r).mean() / 2
        return loss, dn.LossPullback("known", lambda dloss: (dloss * r / r.size).astype(y.dtype), loss)

    with dn.use_backend("numpy"):
        assert told(chain(dn.ReLU(), classes=1), x, target, loss=known_ones) == []
        x[3, 2, 2] = np.nan
        clean = dn.Lambda(lambda x: np.nan_to_num(x), lambda dy, x, y: dy)
        assert told(chain(clean), x, t) == []


def test_data_on_a_disk_are_not_read_as_a_whole(tmp_path, monkeypatch):
    x, t = bars(2000)
    np.save(tmp_path / "x.npy", x)
    mapped, sizes, least = np.load(tmp_path / "x.npy", mmap_mode="r"), [], np.min
    monkeypatch.setattr(np, "min", lambda a, *rest, **options: sizes.append(a.size) or least(a, *rest, **options))
    assert told(small(), mapped, t, epochs=1) == [] and 0 < max(sizes) < x.size / 20
    told(small(), x, t, epochs=1)
    assert max(sizes) == x.size


def test_a_loss_that_became_nan_or_grew_a_thousandfold_is_warned_of_once():
    x, t = bars(24)

    def regress(rate, epochs=9):
        net, target = chain(dn.Identity(), classes=1), t[:, None].astype("float32")
        return told(net, x, target, loss="mean_squared_error", optimizer=dn.SGD(lr=rate), epochs=epochs, batch_size=24)

    with warnings.catch_warnings():
        assert regress(0.01) == []
        (message,) = regress(30.0, 6)
        assert "the loss grew from" in message and "in epoch 2" in message and "check_finite=True" in message
        (message,) = regress(1e15, 40)
        assert "the loss grew from" in message or "the loss is" in message
    (message,) = told(small(), x, t, optimizer=dn.SGD(lr=1e38), batch_size=8)
    assert "fit: the loss is nan in epoch 1" in message


def test_a_learning_rate_of_0_is_told_unless_a_callback_may_set_it():
    x, t = np.ones((8, 4), np.float32), np.ones((8, 2), np.float32)
    net, optimizer = dn.Dense(2).init((4,)), dn.SGD(0.0)
    options = {"loss": "huber", "optimizer": optimizer, "epochs": 1, "verbose": 0}
    with pytest.warns(UserWarning, match="the learning rate is 0"):
        net.fit(x, t, **options)

    class Warm(dn.Callback):
        def on_train_begin(self, run):
            optimizer.lr = 0.1

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net.fit(x, t, callbacks=[Warm()], **options)
