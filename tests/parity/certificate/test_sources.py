"""The age of a certificate: the hash of the kernels that it applies to."""

from __future__ import annotations

import json
from pathlib import Path

from dualnet.parity.certificate import sources

ROOT = Path(__file__).resolve().parents[3]


def test_an_old_certificate_is_recognised(tmp_path, monkeypatch):
    path = tmp_path / "h100.json"
    path.write_text(json.dumps({"kind": sources.KIND, "verdict": "PASS", "kernels": sources.fingerprint()}))
    assert sources.outdated(path) == ""
    changed = sources.sources() | {"kernels/pool.cu": b"changed"}
    monkeypatch.setattr(sources, "sources", lambda: changed)
    assert sources.outdated(path).startswith("h100.json (undated, PASS)")
    assert "kernels/pool.cu changed since" in sources.outdated(path)
    other = tmp_path / "timings.json"
    other.write_text("[1, 2]")
    assert sources.outdated(other) == ""  # it is not a certificate


def test_the_hash_covers_kernels_of_every_kind():
    files = sources.sources()
    assert {"cpu/columns.py", "strict_backend.py"} <= files.keys()
    kernels_there = {p.relative_to(ROOT / "backends").as_posix() for p in (ROOT / "backends").rglob("*.cu")}
    assert kernels_there <= files.keys()
