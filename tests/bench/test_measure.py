"""``dualnet bench``: that it measures what it says. No test looks at how long anything took."""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from benching import QUICK, honest

import dualnet as dn
from dualnet import bench, cli
from dualnet.bench import layers, measure, nets, report
from dualnet.bench.peers import runner
from dualnet.layers.containers import forward_of


def command(capsys, *arguments):
    code = 0
    try:
        code = cli.main(["bench", *map(str, arguments)])
    except SystemExit as stop:  # argparse
        code = stop.code
    out = capsys.readouterr()
    return code, out.out, out.err


# -- against a peer ----------------------------------------------------------------------------------------------------


def test_a_peer_that_computes_the_same(fake, tiny):
    fake(honest(), variants=("slow", "fast"))
    told: list[str] = []
    result = bench.run([tiny], batches=[5], against=["fake"], **{**QUICK, "rounds": 2}, tell=told.append)
    rows = result["results"]
    assert [(row["mode"], row["program"], row["variant"]) for row in rows] == [
        (mode, *who) for mode in measure.MODES for who in [("dualnet", ""), ("fake", "slow"), ("fake", "fast")]
    ]
    for ours, *theirs in (rows[:3], rows[3:]):
        assert all("differs" not in row and len(row["rounds"]) == 2 for row in theirs)
        assert np.allclose(ours["values"], theirs[0]["values"], rtol=1e-5)
        assert len(set(ours["values"])) == (3 if ours["mode"] == "training" else 1)  # the loss moves
        ratio = next(r for r in result["ratios"] if r["mode"] == ours["mode"])
        best = min(theirs, key=lambda row: row["min_ms"])
        assert ratio["variant"] == best["variant"] and ratio["speed"] == best["min_ms"] / ours["min_ms"]
        assert ours["min_ms"] == min(one["min_ms"] for one in ours["rounds"]) > 0
    turns = [line.split(": ")[1] for line in told if "training, round" in line]
    assert turns == ["dualnet", "fake slow", "fake fast", "fake fast", "fake slow", "dualnet"]  # to and fro
    assert result["programs"]["fake"]["facts"]["limits"] == ["1"] * len(measure.LIMITS)
    assert "ran" in rows[0] and rows[0]["ran"]
    json.dumps(result, allow_nan=False)
    assert not bench.wrong(result)


def test_peers_that_do_not_do_it(fake, tiny):
    """One is not installed, one computes something else, others fail: each is told of, and the rest goes on."""
    fake(honest(), "absent", library="no_such_library")
    fake(honest(sign=-1), "wrong")
    for name, body in (
        ("raises", "raise ValueError('no room')"),
        ("dies", "import os; os._exit(3)"),
        ("babbles", "import os; os.write(1, b'hello'); os._exit(0)"),
    ):
        fake(f"def facts(task):\n    return {{}}\ndef build(task, x, t, weights):\n    {body}\n", name)
    peers = ["absent", "wrong", "raises", "dies", "babbles"]
    result = bench.run([tiny], batches=[5], modes=["training"], against=peers, **QUICK)
    rows = {row["program"]: row for row in result["results"]}
    text = bench.markdown(result)
    assert "min_ms" in rows["dualnet"] and result["ratios"] == [] and bench.wrong(result)
    assert "absent: left out, no_such_library cannot be imported (ModuleNotFoundError" in text
    assert text.count("left out") == 1
    assert "tiny, batch 5, training, wrong: no ratio, since: wrong computes [" in text
    assert rows["raises"]["failed"] == "ValueError: no room"
    assert rows["dies"]["failed"] == "ended with exit code 3"
    assert rows["babbles"]["failed"] == "no answer, but 'hello'"
    assert "tiny, batch 5, training, dies: failed: ended with exit code 3" in text
    assert not bench.wrong({**result, "results": [rows["dualnet"], rows["absent"]]})  # to be left out is not wrong
    assert bench.wrong({**result, "results": [rows["wrong"]]}) and bench.wrong({**result, "results": [rows["dies"]]})


def test_a_peer_that_never_answers(monkeypatch):
    monkeypatch.setattr(measure, "LONGEST", 0.001)
    answer = measure.Bench({}, 1, 0.0, 1, 0, print).ask("dualnet", {"measure": "import"})
    assert answer == {"failed": "no answer within 0.001 s"}


def test_networks_that_peers_do_not_know_are_measured_alone(fake):
    fake(honest())
    net = dn.Sequential([dn.Flatten(), dn.Dense(3), dn.Tanh()]).init((2, 3, 2))
    ours, theirs = bench.run([net], batches=[2], modes=["inference"], against=["fake"], **QUICK)["results"]
    assert ours["net"] == "Sequential" and "min_ms" in ours and theirs["skipped"] == "the peers' steps have no Tanh"


@pytest.mark.parametrize("peer", [name for name in measure.PROGRAMS if name != "dualnet"])
def test_the_peers_compute_what_dualnet_does(peer):
    """Loss before and after two updates, and outputs, for everything that the peers' steps know."""
    if importlib.util.find_spec(measure.PROGRAMS[peer].library) is None:
        pytest.skip(f"{measure.PROGRAMS[peer].library} is not installed")
    block = dn.Sequential([dn.Conv2D(4, 3, stride=2, padding=1, use_bias=False), dn.BatchNorm()])
    projection = dn.Sequential([dn.Conv2D(4, 1, stride=2), dn.BatchNorm()])
    maps = [dn.Conv2D(4, 3), dn.ReLU(), dn.Residual(block, projection), dn.Residual(dn.ReLU()), dn.MaxPool2D(2)]
    first = dn.Sequential([*maps, dn.Sequential([dn.Flatten(), dn.ReLU()]), dn.Dense(5)]).init((10, 14, 2), seed=1)
    again = dn.Sequential([dn.Conv2D(4, 3), dn.GlobalAveragePool2D(), dn.Dense(3)]).init((5, 5, 2), seed=1)
    result = bench.run([first, again], batches=[3], against=[peer], **QUICK)
    assert len(result["ratios"]) == 4 and not bench.wrong(result), bench.markdown(result)


# -- ours --------------------------------------------------------------------------------------------------------------


def test_it_runs_on_the_backend_in_force(backend, tiny):
    result = bench.run([tiny], batches=[2], modes=["training"], layers=True, **QUICK)
    assert result["programs"]["dualnet"]["facts"]["backend"] == backend == result["settings"]["backend"]
    (shares,) = result["layers"]
    assert [row["layer"] for row in shares["rows"]] == ["Flatten", "Dense"]


def test_the_wide_layer_is_trained_with_squared_errors(monkeypatch):
    monkeypatch.setattr(nets, "WIDE", 4)
    plan = nets.plan("wide")
    assert (plan["loss"], plan["output_shape"], plan["need_dx"]) == ("mean_squared_error", [16, 16, 4], True)
    x, t = runner.data({**plan, "batch": 2, "seed": 0})
    assert x.shape == t.shape == (2, 16, 16, 4) and x.dtype == t.dtype == np.float32
    classes = runner.data({**nets.plan("lenet5"), "batch": 50, "seed": 0})[1]
    assert classes.shape == (50,) and set(classes) == set(range(10))


def test_two_networks_of_one_name_stay_apart(tiny, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    twin = dn.Sequential([dn.Dense(2)]).init((4,)).save(other / "tiny.npz")
    result = bench.run([tiny, str(twin)], batches=[1], modes=["inference"], **QUICK)
    assert [row["net"] for row in result["results"]] == ["tiny", "tiny (2)"]


# -- layer by layer ----------------------------------------------------------------------------------------------------


def shared_net():
    again = dn.Conv2D(3, 3, padding=1)
    body = dn.Residual(dn.Sequential([again, dn.ReLU(), again]))
    return dn.Sequential([dn.Conv2D(3, 3, padding=1), body, dn.Flatten(), dn.Dense(2)]).init((6, 6, 2))


def test_layers_of_a_step(backend):
    net = shared_net()
    x, dy = dn.asarray(np.ones((2, 6, 6, 2), "float32")), dn.asarray(np.ones((2, 2), "float32"))
    seen = []

    def step():
        _, pullback = forward_of(net, x, True, False)
        seen.append({name: dn.to_numpy(g) for name, g in pullback(dy)[1].items()})
        pullback.free()

    step()
    result = layers.layer_times(net, step, 2, 0.0)
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(seen, seen[1:]) for name in a)  # clocks change nothing
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == ["0", "1.layer.0", "1.layer.1", "2", "3"]  # the shared layer once
    for name, uses, ways in (("0", 1, 1), ("1.layer.0", 2, 2), ("3", 1, 2)):
        row, adds = rows[name], {"0": 36 * 9 * 2 * 3, "1.layer.0": 36 * 9 * 3 * 3, "3": 108 * 2}[name]
        flop = 2 * adds * uses * 2  # a batch of two
        assert row["forward_gflops"] * row["forward_ms"] * 1e6 == pytest.approx(flop)
        assert row["backward_gflops"] * row["backward_ms"] * 1e6 == pytest.approx(ways * flop)
    assert rows["2"]["forward_gflops"] is None and result["rest_ms"] >= 0 and result["runs"] == 3
    assert not any("forward" in vars(layer) for _, layer in net.walk())


def test_a_step_that_fails_leaves_no_clocks_behind():
    net = shared_net()
    with pytest.raises(ZeroDivisionError):
        layers.layer_times(net, lambda: 1 / 0, 1, 0.0)
    assert not any("forward" in vars(layer) for _, layer in net.walk())


def test_a_layer_that_is_served_with_another_has_no_times():
    net = shared_net()
    (row, *_) = layers.layer_times(net, lambda: None, 1, 0.0)["rows"]
    assert row["forward_ms"] is row["forward_gflops"] is None


# -- what the peers are told -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({*nets.NAMES} - {"vgg16", "vgg16_bn", "resnet18"}))  # they are large
def test_every_named_network_can_be_told(name):
    described = nets.describe(nets.network(name))
    named = set(re.findall(r"'(\w[\w.]*\.\w+)'", str(described)))
    assert named == set(nets.weights(name))  # every weight and statistic is told of, by its right name
    assert json.loads(json.dumps(described))


@pytest.mark.parametrize(
    "chain, words",
    [
        ([dn.Conv2D(2, 3, dilation=2)], "dilation=2"),
        ([dn.Conv2D(2, 2, padding="same")], "padding='same'"),
        ([dn.MaxPool2D(2, ceil_mode=True)], "ceil_mode=True"),
        ([dn.Dense(3)], "Dense"),
        ([dn.Flatten(), dn.BatchNorm()], "BatchNorm"),
        ([dn.BatchNorm(scale=False)], "scale=False"),
        ([dn.Tanh()], "Tanh"),
        ([dn.Residual(dn.GELU())], "GELU"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_peers_lack_is_named(chain, words):
    with pytest.raises(NotImplementedError, match=re.escape(words)):
        nets.describe(dn.Sequential(chain).init((7, 7, 2)))
    with pytest.raises(NotImplementedError, match="no shared layers"):
        nets.describe(shared_net())
    with pytest.raises(NotImplementedError, match="float64"):
        nets.describe(dn.Sequential([dn.ReLU()]).init((7, 7, 2), dtype="float64"))


def test_a_dense_layer_knows_whose_units_it_sums():
    inner = dn.Sequential([dn.Flatten(), dn.ReLU()])
    net = dn.Sequential([inner, dn.Dense(4), dn.ReLU(), dn.Dense(2)]).init((2, 3, 5))
    assert [at["map"] for kind, at in nets.describe(net) if kind == "dense"] == [[2, 3, 5], None]


# -- the measuring process ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(not runner.status(), reason="the system does not tell of memory")
def test_peak_memory_begins_anew():
    before = runner.resident()
    with mmap.mmap(-1, 64 * 2**20) as pages:  # from the system: NumPy may have that much in stock
        for start in range(0, 64 * 2**20, mmap.PAGESIZE):
            pages[start] = 1
    high = runner.resident(peak=True)
    assert high >= before + 60 * 2**20
    runner.forget_peak()
    assert runner.resident(peak=True) < high - 30 * 2**20 or not os.access("/proc/self/clear_refs", os.W_OK)


def test_runs_are_counted_by_the_clock(monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr(runner.time, "perf_counter", lambda: next(ticks))
    assert runner.timed(lambda: None, 0.5) == [1]  # far too slow for three
    assert runner.timed(lambda: None, 1.0) == [1, 1]  # four times the time after two
    assert runner.timed(lambda: None, 9.0) == [1] * 5  # one tick a run, and one between


# -- tables and pages --------------------------------------------------------------------------------------------------


def test_a_table_is_written_into_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "a\n<!-- bench: one -->\nold\n<!-- bench: end -->\nb\n<!-- bench: two -->\n<!-- bench: end -->\nc\n"
    )
    bench.write("| new |\n", f"{page}#one")
    bench.write("| new |\n", f"{page}#one")
    text = page.read_text()
    assert text == (
        "a\n<!-- bench: one -->\n\n| new |\n\n<!-- bench: end -->\nb\n<!-- bench: two -->\n<!-- bench: end -->\nc\n"
    )
    with pytest.raises(ValueError, match="has no '<!-- bench: three -->'"):
        bench.place(f"{page}#three")
    assert page.read_text() == text


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path, link = tmp_path / "found.json", tmp_path / "link.json"
    bench.write("{}", path)
    link.symlink_to(path)
    bench.write("[1]", link)
    assert path.read_text() == "[1]" and link.is_symlink() and len(list(tmp_path.iterdir())) == 2

    def broken(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(report.os, "replace", broken)
    with pytest.raises(KeyboardInterrupt):
        bench.write("[1, 2]", path)
    assert path.read_text() == "[1]"
    bench.write("to nobody", os.devnull)  # is written to, and stays what it is
    assert not Path(os.devnull).is_file()


def test_tables_have_equal_rows():
    lines = report.table([["a", "number"], ["long name", "1"]])
    assert lines == ["| a         | number |", "|-----------|-------:|", "| long name |      1 |"]


def test_the_whole_command(tiny, tmp_path, capsys):
    page, numbers = tmp_path / "page.md", tmp_path / "numbers.json"
    page.write_text("before\n<!-- bench: here -->\n<!-- bench: end -->\nafter\n")
    options = ["--batch", "1,2", "--rounds", 1, "--seconds", 0.001, "--threads", 1, "--layers"]
    code, out, err = command(capsys, tiny, *options, "--json", numbers, "--markdown", f"{page}#here")
    assert code == 0, err
    assert "tiny, batch 2, inference, round 1 of 1: dualnet: " in err
    for title in ("**Training**", "**Inference**", "**tiny, batch 2, layer by layer**", "**What ran**"):
        assert title in out
    assert page.read_text() == f"before\n<!-- bench: here -->\n\n{out[:-1]}\n<!-- bench: end -->\nafter\n"
    result = json.loads(numbers.read_text())
    assert result["format"] == 1 and bench.markdown(result) == out[:-1]
    assert str(tmp_path) not in numbers.read_text() and str(tmp_path) not in out  # no paths of this machine
    described = Path(__file__).parents[2] / "docs" / "performance.md"
    if described.exists():
        keys = {*result, *result["settings"], *result["results"][0], *result["layers"][0], *result["machine"]}
        missing = {key for key in keys if f"`{key}`" not in described.read_text("utf-8")}
        assert not missing, f"docs/performance.md does not tell of {missing}"


MISTAKES = [
    (["lenet6"], "dualnet bench: 'lenet6' is neither a file nor a network; the networks are .*lenet5.*wide"),
    (["--against", "keras"], "unknown peer 'keras'; the peers are torch, torch.compile, jax, chainer, mygrad"),
    (["--against", "torch=/nowhere/python"], "torch=/nowhere/python: no such program"),
    (["--mode", "learning"], "unknown mode 'learning'; the modes are training, inference"),
    (["--batch", "0"], "--batch: 0 is not at least 1"),
    (["--batch", "1,many"], "--batch: 'many' is not a whole number"),
    (["--rounds", "0"], "--rounds: 0 is not at least 1"),
    (["--dtype", "float8"], "unknown dtype 'float8'; the dtypes are float32, tf32, float16, bfloat16"),
    (["--momentum", "1"], "momentum is a number from 0 to below 1"),
    (["--limit", "0"], "--limit: 0 is not a positive number"),
    (["--threads", "-1"], "--threads: -1 is not at least 1"),
    (["--seconds", "0"], "--seconds: 0 is not a positive number"),
    (["--seed", "-1"], "seed must be at least 0"),
    (["--backend", "cuda"], "unknown backend 'cuda'"),
    (["--json", "nowhere/x.json"], "nowhere/x.json: cannot be written"),
    (["--markdown", "."], "cannot be written"),
    (["--markdown", "page.md#here"], "page.md"),
    (["damaged.npz"], "damaged.npz"),
]


@pytest.mark.parametrize("arguments, words", MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_mistakes_are_one_clear_line_and_exit_code_2(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04 nothing")
    code, out, err = command(capsys, *arguments)
    assert code == 2 and re.search(words, err), err
    told = [line for line in err.splitlines() if not line.startswith(("usage:", " "))]
    assert len(told) == 1 and not out and "Traceback" not in err, err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged.npz"]


def test_programmatic_mistakes():
    for wrong in ({"nets": "lenet5"}, {"against": "torch"}, {"batches": ["1"]}, {"rounds": 1.5}, {"seconds": "1"}):
        with pytest.raises(TypeError):
            bench.run(**{"nets": ["lenet5"], **wrong})
    for wrong in ({"batches": [0]}, {"modes": ["both"]}, {"seconds": -1}, {"threads": 0}, {"seed": -1}):
        with pytest.raises(ValueError):
            bench.run(["lenet5"], **wrong)
    with pytest.raises(ValueError, match="no parameters yet"):
        bench.run([dn.Sequential([dn.ReLU()])])


def test_measured_processes_use_this_python():
    assert measure.Bench({}, 1, 0.0, 1, 0, print).pythons == {"dualnet": sys.executable}


@pytest.mark.parametrize(
    "told, shown",
    [
        ("3.2.0, OpenMP, /home/me/my env/lib/libdnnl.so.3", "3.2.0, OpenMP, libdnnl.so.3"),
        (r"3.2.0, OpenMP, C:\Users\me\dnnl.dll", "3.2.0, OpenMP, dnnl.dll"),
        ("no: switched off by DUALNET_ONEDNN=0", "no: switched off by DUALNET_ONEDNN=0"),
        (2, "2"),
    ],
)
def test_tables_name_a_library_and_not_its_folder(told, shown):
    assert report._without_folders(told) == shown


def test_tables_name_every_library_that_may_run():
    facts = {
        "kernels": ["affine"],
        "cudnn": "9.19, /opt/lib/libcudnn.so.9",
        "cublas": "13.1",
        "backend": "cupy:0",
        "cupy": "14",
    }
    told = {"version": "1", "python": "3", "numpy": "2", "import_ms": 1.0, "facts": facts}
    rows = report._programs({"programs": {"dualnet": told}, "settings": {"threads": 2}})
    assert "1 of its own; cudnn: 9.19, libcudnn.so.9; cublas: 13.1" in "\n".join(rows)
