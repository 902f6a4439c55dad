"""Data sets by name: where they are found, and downloads from a server that misbehaves. Nothing leaves the machine."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from dualnet import data
from dualnet.data import sources

NAMES = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
X, T = np.arange(40, dtype="uint8").reshape(2, 5, 4), np.array([3, 9], "uint8")


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    """The four files, small, by name."""
    folder = tmp_path_factory.mktemp("files")
    for name in NAMES:
        data.write_idx(folder / name, X if "images" in name else T)
    return {name: (folder / name).read_bytes() for name in NAMES}


class Server(ThreadingHTTPServer):
    """Answers /MOOD/NAME as its mood says."""

    daemon_threads = True

    def __init__(self, contents):
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents, self.asked, self.hung = contents, [], threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that hangs up is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        _, mood, name = self.path.split("/")
        self.server.asked.append(mood)
        content = self.server.contents[name]
        once = mood.startswith("once")
        if once and self.server.asked.count(mood) > 1:
            mood = "good"
        getattr(self, mood.removeprefix("once-"))(content)

    def send(self, content, length=None, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def good(self, content):
        self.send(content)

    def cut(self, content):
        self.send(content[: len(content) // 2], len(content))
        self.close_connection = True

    def wrong(self, content):
        self.send(content[:-1] + b"!")

    def missing(self, content):
        self.send(b"no such file", status=404)

    def loop(self, content):
        self.send_response(302)
        self.send_header("Location", self.path)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def hanging(self, content):
        self.send(content[:10], len(content))
        self.server.hung.wait(300)

    def endless(self, content):
        self.send_response(200)
        self.end_headers()
        for _ in range(4000):
            self.wfile.write(bytes(2**16))
        self.close_connection = True

    def unpacked(self, content):
        """A server that unpacks a .gz for those who say that they take it."""
        plain = "gzip" in self.headers.get("Accept-Encoding", "")
        self.send_response(200)
        if plain:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Silence."""


@pytest.fixture
def server(contents):
    with Server(contents) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.hung.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home and an empty current folder."""
    monkeypatch.delenv("DUALNET_DATA", raising=False)
    monkeypatch.delenv("DUALNET_OFFLINE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.fixture
def offered(server, contents, monkeypatch):
    """MNIST comes from this server, in these moods, one mirror after another."""
    pytest.importorskip("pooch")
    requests = pytest.importorskip("requests")
    get = requests.get

    def hurried(address, *, timeout, **options):
        """Nobody waits for a server that hangs; one that works may be as slow as the machine is busy."""
        return get(address, timeout=0.4 if "/hanging/" in address else timeout, **options)

    def offer(*moods):
        files = tuple(
            sources.File(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in contents.items()
        )
        mirrors = tuple(f"{server.address}/{mood}/" for mood in moods)
        source = dataclasses.replace(sources.SOURCES["mnist"], mirrors=mirrors, files=files)
        monkeypatch.setitem(sources.SOURCES, "mnist", source)
        monkeypatch.setattr(requests, "get", hurried)

    return offer


def is_right(splits):
    (x, t), (x_test, t_test) = splits
    return (
        np.array_equal(x[..., 0], X) and np.array_equal(x_test[..., 0], X) and t.tolist() == t_test.tolist() == [3, 9]
    )


# -- the table ---------------------------------------------------------------------------------------------------------


def test_every_sum_is_a_sha256_of_its_own():
    files = [file for source in sources.SOURCES.values() for file in source.files]
    sums = [file.sha256 for file in files]
    assert len(set(sums)) == len(files) == 14 and all(len(bytes.fromhex(each)) == 32 for each in sums)
    assert all(address.endswith("/") for source in sources.SOURCES.values() for address in source.mirrors)
    assert all(callable(getattr(data, name)) for name in sources.SOURCES)


# -- finding -----------------------------------------------------------------------------------------------------------


def place(folder, contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    "folder, name",
    [
        ("named/mnist", "mnist"),
        ("named/MNIST/raw", "mnist"),
        ("home/.cache/dualnet/mnist", "mnist"),
        ("work/data/MNIST/raw", "mnist"),
        ("home/.keras/datasets/fashion-mnist", "fashion_mnist"),
        ("work/data/FashionMNIST/raw", "fashion_mnist"),
        ("named/kmnist", "kmnist"),
        ("work/data/KMNIST/raw", "kmnist"),
    ],
)
def test_files_are_found_where_people_have_them(home, monkeypatch, contents, folder, name):
    monkeypatch.setenv("DUALNET_DATA", str(home.parent / "named"))
    monkeypatch.setenv("DUALNET_OFFLINE", "1")
    place(home.parent / folder, contents)
    assert is_right(getattr(data, name)(dtype="uint8"))
    others = {"mnist", "fashion_mnist", "kmnist"} - {name}
    for other in others:  # and nobody takes them for another data set
        with pytest.raises(FileNotFoundError, match="DUALNET_OFFLINE forbids"):
            getattr(data, other)()


def test_four_files_without_a_folder_of_their_own_may_be_anybodys(home, monkeypatch, contents):
    """Fashion-MNIST's files have the same names."""
    monkeypatch.setenv("DUALNET_DATA", str(home.parent / "named"))
    monkeypatch.setenv("DUALNET_OFFLINE", "1")
    place(home.parent / "named", contents)
    for name in ("mnist", "fashion_mnist", "kmnist"):
        with pytest.raises(FileNotFoundError, match="DUALNET_OFFLINE forbids"):
            getattr(data, name)()
    assert is_right(data.load_mnist(home.parent / "named", dtype="uint8"))


def test_keras_file_is_found(home, monkeypatch):
    monkeypatch.setenv("DUALNET_OFFLINE", "1")
    folder = home / ".keras" / "datasets"
    folder.mkdir(parents=True)
    np.savez(folder / "mnist.npz", x_train=X, y_train=T, x_test=X, y_test=T)
    assert is_right(data.mnist(dtype="uint8"))


@pytest.mark.parametrize("folder", ["data/cifar-10-batches-py", "data/cifar10", "data/cifar10/cifar-10-batches-py"])
def test_cifar_is_found(home, monkeypatch, folder):
    import pickle

    monkeypatch.setenv("DUALNET_OFFLINE", "1")
    Path(folder).mkdir(parents=True)
    batch = pickle.dumps({b"data": np.zeros((1, 3072), "uint8"), b"labels": [4]}, 2)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        Path(folder, name).write_bytes(batch)
    assert data.cifar10()[0][1].tolist() == [4] * 5
    with pytest.raises(FileNotFoundError, match=r"cifar100: CIFAR-100 is in none of .*cifar-100-binary\.tar\.gz"):
        data.cifar100()


# -- downloading -------------------------------------------------------------------------------------------------------


def test_a_good_download_is_kept_and_not_asked_for_again(home, server, offered, capsys):
    offered("good")
    assert is_right(data.mnist(dtype="uint8")) and is_right(data.mnist(dtype="uint8"))
    assert server.asked == ["good"] * 4
    assert sorted(path.name for path in (home / ".cache/dualnet/mnist").iterdir()) == sorted(NAMES)
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("mnist: downloading") == 4


def test_downloads_go_where_dualnet_data_says(home, tmp_path, offered, monkeypatch):
    offered("good")
    monkeypatch.setenv("DUALNET_DATA", str(tmp_path / "mine"))
    data.mnist()
    assert len(list((tmp_path / "mine" / "mnist").iterdir())) == 4 and not home.exists()


def test_what_is_there_is_not_downloaded(home, server, offered, contents):
    offered("good")
    place(home / ".cache/dualnet/mnist", {NAMES[0]: contents[NAMES[0]]})
    assert is_right(data.mnist(dtype="uint8")) and server.asked == ["good"] * 3


@pytest.mark.parametrize("mood", ["cut", "wrong", "missing", "loop", "hanging", "endless"])
def test_after_a_bad_mirror_comes_the_next_one(home, server, offered, mood):
    offered(mood, "good")
    assert is_right(data.mnist(dtype="uint8"))
    assert server.asked.count("good") == 4 and mood in server.asked


@pytest.mark.parametrize("mood", ["cut", "wrong", "missing"])
def test_a_mirror_is_asked_twice(home, server, offered, mood):
    offered(f"once-{mood}")
    assert is_right(data.mnist(dtype="uint8"))
    assert len(server.asked) == 5


@pytest.mark.parametrize(
    "mood, why",
    [
        ("cut", "IncompleteRead|bytes missing|Connection broken"),
        ("wrong", "a file with the wrong SHA-256"),
        ("missing", "404"),
        ("loop", "TooManyRedirects"),
        ("hanging", "timed out"),
        ("endless", "it sends more than the .* bytes of the file"),
    ],
)
def test_when_all_fail_nothing_stays_and_the_error_says_what_to_do(home, server, offered, mood, why):
    offered(mood)
    with pytest.raises(ConnectionError, match=why) as caught:
        data.mnist()
    told, folder = str(caught.value), home / ".cache/dualnet/mnist"
    assert f"{server.address}/{mood}/" in told and str(folder) in told and "Put the four files" in told
    assert list(folder.iterdir()) == []


def test_no_server_at_all(home, server, offered, monkeypatch):
    offered("good")
    source = dataclasses.replace(sources.SOURCES["mnist"], mirrors=("http://127.0.0.1:9/",))
    monkeypatch.setitem(sources.SOURCES, "mnist", source)
    with pytest.raises(ConnectionError, match="http://127.0.0.1:9/: "):
        data.mnist()


def test_a_server_that_would_unpack_is_told_not_to(home, offered):
    offered("unpacked")
    assert is_right(data.mnist(dtype="uint8"))


@pytest.mark.parametrize("value, forbids", [("1", True), ("yes", True), ("0", False), ("", False)])
def test_offline_never_downloads(home, server, offered, monkeypatch, value, forbids):
    offered("good")
    monkeypatch.setenv("DUALNET_OFFLINE", value)
    if forbids:
        with pytest.raises(FileNotFoundError, match="DUALNET_OFFLINE forbids downloading it. To do it by hand"):
            data.mnist()
    else:
        data.mnist()
    assert bool(server.asked) is not forbids


def test_without_pooch_the_error_says_what_to_install(home, monkeypatch, contents):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r'needs pooch; pip install "dualnet\[data\]"\. To do it by hand, create'):
        data.mnist()
    place(home / ".cache/dualnet/mnist", contents)
    assert is_right(data.mnist(dtype="uint8"))


def test_a_wrong_dtype_is_told_before_anything_is_downloaded(home, server, offered):
    offered("good")
    with pytest.raises(ValueError, match="mnist: dtype must be 'float32'"):
        data.mnist(dtype="float64")
    assert not server.asked


PROCESS = """
import dataclasses, hashlib, sys
from dualnet import data
from dualnet.data import sources
address, *pairs = sys.argv[1:]
files = tuple(sources.File(name, int(size), total) for name, size, total in (pair.split(":") for pair in pairs))
source = dataclasses.replace(sources.SOURCES["mnist"], mirrors=(address,), files=files)
sources.SOURCES["mnist"] = source
print(data.mnist(dtype="uint8")[0][1].tolist())
"""


def test_two_processes_at_once(home, tmp_path, server, offered, contents, monkeypatch):
    offered("good")
    monkeypatch.setenv("DUALNET_DATA", str(tmp_path / "both"))
    pairs = [f"{name}:{len(content)}:{hashlib.sha256(content).hexdigest()}" for name, content in contents.items()]
    ask = [sys.executable, "-c", PROCESS, f"{server.address}/good/", *pairs]
    root = Path(data.__file__).parents[2]
    running = [subprocess.Popen(ask, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(2)]
    assert [process.communicate(timeout=120)[0].strip() for process in running] == ["[3, 9]", "[3, 9]"]
    assert sorted(path.name for path in (tmp_path / "both" / "mnist").iterdir()) == sorted(NAMES)


def test_gzip_is_what_the_files_are(contents):
    assert all(gzip.decompress(content)[:2] == b"\0\0" for content in contents.values())
