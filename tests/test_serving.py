"""The server in docs/how-to/serve answers programs and people, and rejects anything that is not a picture."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import dualnet as dn

ROOT = Path(__file__).resolve().parents[1]
APP = ROOT / "docs" / "how-to" / "serve" / "app.py"
if not APP.exists():
    pytest.skip("the pages are in the checkout, not in the package", allow_module_level=True)
for library in ("fastapi", "uvicorn", "python_multipart"):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed", allow_module_level=True)
Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of the server with a network that knows its classes' names, and the network."""
    (x, t), _ = dn.data.load_digits()
    net = dn.Sequential([dn.Conv2D(4, 3), dn.ReLU(), dn.Flatten(), dn.Dense(10)])
    net.fit(x, t, epochs=2, optimizer=dn.Adam(lr=0.01), verbose=0)
    net.input = dn.data.InputSpec((8, 8), channels=1, classes=[f"<{number}>" for number in range(10)])
    model = net.save(tmp_path_factory.mktemp("served") / "net.npz")
    env = {**os.environ, "MODEL": str(model), "PYTHONPATH": os.pathsep.join([str(ROOT), str(APP.parent)])}
    env["DUALNET_BACKEND"] = "numpy"
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", "0"]  # any that is free when it begins
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        try:
            yield _address(server), net
        finally:
            server.terminate()


def _address(server: subprocess.Popen) -> str:
    """Where it listens, which it says as soon as it does."""
    told = []
    for line in server.stderr:
        told.append(line.decode())
        if found := re.search(r"running on (http://127\.0\.0\.1:\d+)", told[-1]):
            return found[1]
    pytest.fail(f"the server did not start: {''.join(told)}")


def posted(address: str, data: bytes | None) -> tuple[int, str]:
    """Upload a picture as a browser does: the status and the answer."""
    mark = "a-line-that-no-picture-holds"
    head = f'--{mark}\r\nContent-Disposition: form-data; name="picture"; filename="x.png"\r\n\r\n'
    body = b"" if data is None else head.encode() + data + f"\r\n--{mark}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={mark}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body, kind), timeout=60) as answer:
            return answer.status, answer.read().decode("utf-8")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode("utf-8")


def picture(number: int) -> bytes:
    """A test digit as a PNG."""
    file = io.BytesIO()
    (_, _), (x, _) = dn.data.load_digits()
    Image.fromarray(np.rint(255 * x[number, :, :, 0]).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_programs_get_the_likeliest_classes(served):
    address, net = served
    (_, _), (x, _) = dn.data.load_digits()
    for number in range(5):
        status, text = posted(f"{address}/predict", picture(number))
        found = json.loads(text)
        assert status == 200 and found[0]["class"] == f"<{net.predict(x[number : number + 1])[0].argmax()}>"
        assert [one["probability"] for one in found] == sorted((one["probability"] for one in found), reverse=True)


def test_people_get_a_page_with_the_class_and_its_explanation(served):
    address, _ = served
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert 'type="file"' in answer.read().decode()
    status, page = posted(f"{address}/answer", picture(0))
    assert status == 200 and "<li>&lt;" in page and "<iframe" in page


def test_photos_too_large_to_be_drawn_are_explained_as_text(monkeypatch, tmp_path):
    net = dn.Sequential([dn.Conv2D(2, 3), dn.ReLU(), dn.GlobalAveragePool2D(), dn.Dense(2)]).init((33, 8, 3), seed=0)
    net.input = dn.data.InputSpec((33, 8), channels=3, classes=["cat", "dog"])
    monkeypatch.setenv("MODEL", str(net.save(tmp_path / "net.npz")))
    found = importlib.util.spec_from_file_location("app_for_photos", APP)
    app = importlib.util.module_from_spec(found)
    found.loader.exec_module(app)
    upload = app.UploadFile(io.BytesIO(picture(0)), size=len(picture(0)))
    page = app.answer(upload)
    assert "<pre>" in page and "(E" in page and "<iframe" not in page


def test_what_is_no_picture_is_refused_with_the_reason(served):
    address, _ = served
    for data, words in ((b"", "the file is empty"), (b"no picture", "Pillow cannot read it")):
        status, text = posted(f"{address}/predict", data)
        assert status == 422 and words in json.loads(text)["detail"]
    assert posted(f"{address}/predict", None)[0] in (400, 422)
    status, text = posted(f"{address}/predict", bytes(10 * 2**20 + 1))
    assert status == 413 and json.loads(text)["detail"] == "expected at most 10,485,760 bytes"
