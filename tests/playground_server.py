"""The playground behind a server of its own: with Pyodide from a folder, or with a stand-in for the interpreter.

The stand-in replaces one file, ``python.js``, which starts the interpreter: its answers come from the same session in a
Python process behind this server. Everything else is the page as it is shipped.
"""

from __future__ import annotations

import functools
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dualnet as dn

PAGE = Path(__file__).resolve().parents[1] / "docs" / "playground"
COMMON = Path(dn.__file__).with_name("seeing") / "explain" / "common.css"
STAND_IN = b"""
export async function start(pyodide, say) {
  say("Loading a stand-in ...");
  const ask = async (method, given) => (await fetch(new URL("bridge", import.meta.url),
    { method: "POST", body: JSON.stringify([method, JSON.stringify(given ?? {})]) })).json();
  await ask("__new__");
  return ask;
}
"""


def desk() -> Any:
    """The session, as it lies beside the page."""
    if str(PAGE) not in sys.path:
        sys.path.append(str(PAGE))
    from session import Desk

    return Desk()


class Folder(SimpleHTTPRequestHandler):
    def log_message(self, *words: Any) -> None:
        pass


class StandIn(Folder):
    """The page's folder, and the bridge to a session."""

    desk: Any = None
    one_at_a_time = threading.Lock()

    def do_GET(self) -> None:
        if self.path == "/python.js":
            self.answer(STAND_IN, "text/javascript")
        elif self.path == "/common.css":  # the tool copies it there
            self.answer(COMMON.read_bytes(), "text/css")
        else:
            super().do_GET()

    def do_POST(self) -> None:
        method, given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.one_at_a_time, dn.use_backend("numpy"):  # the one that a browser has
            if method == "__new__":
                type(self).desk = desk()
                told = "{}"
            else:
                told = self.desk.ask(method, given)
        self.answer(told.encode(), "application/json")

    def answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def served(folder: Path = PAGE, handler: type[Folder] = StandIn) -> Iterator[str]:
    """The address of the folder, as long as the block lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
