"""A headless Chromium that a test drives: a page, its size and colours, clicks, keys, pictures, and all its requests.

It speaks the browser's own protocol over two pipes, so only the browser needs to be installed.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DESKTOP, PHONE = (1280, 800), (390, 844)


class Browser:
    """One tab. Whatever the page logs or throws is in ``errors``, whatever it asks for in ``requests``."""

    def __init__(self, to: int, back: int) -> None:
        self.to, self.back, self.waiting, self.number = to, back, b"", 0
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.send("Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=False, flatten=True)

    # -- the protocol

    session: str | None = None
    shown = (DESKTOP, False)

    def send(self, method: str, at: str | None = None, **parameters: Any) -> Any:
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if at or self.session:
            message["sessionId"] = at or self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        return self._answer(self.number)

    def _answer(self, number: int, seconds: float = 120) -> Any:
        end = time.monotonic() + seconds
        while True:
            message = self._read(end)
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(message["error"])
                return message["result"]
            self._note(message)

    def _read(self, end: float) -> dict[str, Any]:
        while b"\0" not in self.waiting:
            if time.monotonic() > end:
                raise TimeoutError("the browser does not answer")
            more = os.read(self.back, 2**20)
            if not more:
                raise RuntimeError("the browser has gone")
            self.waiting += more
        text, _, self.waiting = self.waiting.partition(b"\0")
        return json.loads(text)

    def _note(self, message: dict[str, Any]) -> None:
        method, given = message.get("method", ""), message.get("params", {})
        if method == "Target.attachedToTarget":  # a worker: its requests count too
            self.number += 1
            note = {"id": self.number, "method": "Network.enable", "params": {}, "sessionId": given["sessionId"]}
            os.write(self.to, json.dumps(note).encode() + b"\0")
        elif method == "Network.requestWillBeSent":
            self.requests.append(given["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = given["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.errors.append(given["entry"]["text"])

    # -- a page

    def show(self, size: tuple[int, int] = DESKTOP, dark: bool = False) -> None:
        self.shown, phone = (size, dark), size[0] < 600
        width, height = size
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send(
            "Emulation.setEmulatedMedia", features=[scheme, {"name": "prefers-reduced-motion", "value": "reduce"}]
        )

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of an expression in the page; of a promise, what it comes to."""
        told = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in told:
            raise RuntimeError(told["exceptionDetails"]["exception"].get("description", told))
        return told["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> None:
        """Until the expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({script})"):
            if time.monotonic() > end:
                raise TimeoutError(f"still not true after {seconds} s: {script}\n{self.errors}")
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """Click the middle of an element with a real mouse, where it is seen."""
        x, y = self.run(
            f"""(() => {{ const it = document.querySelector({json.dumps(selector)});
            it.scrollIntoView({{block: "center", inline: "nearest"}});
            const box = it.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})()"""
        )
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drag(self, places: list[tuple[float, float]]) -> None:
        kinds = ["mousePressed", *["mouseMoved"] * (len(places) - 2), "mouseReleased"]
        for kind, (x, y) in zip(kinds, places):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def key(self, key: str, code: int = 0, text: str = "") -> None:
        more = {"text": text} if text else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **more)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def picture(self, path: str | Path, whole: bool = False) -> None:
        """What is seen, or the whole page, as a PNG."""
        size, dark = self.shown
        if whole:
            self.show((size[0], self.run("document.documentElement.scrollHeight")), dark)
        data = self.send("Page.captureScreenshot", format="png")["data"]
        Path(path).write_bytes(base64.b64decode(data))
        if whole:
            self.show(size, dark)
            self.run("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")


@contextmanager
def browser() -> Iterator[Browser]:
    """A Chromium with a profile of its own, ended afterwards."""
    read_to, write_to = os.pipe()
    read_back, write_back = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # the browser reads commands on descriptor 3 and answers on 4
        command = f'exec 3<&{read_to} 4>&{write_back}; exec "$@"'
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run"]
        options += ["--disable-background-networking", "--disable-component-update", "--mute-audio"]
        process = subprocess.Popen(
            ["bash", "-c", command, "bash", str(CHROMIUM), *options, f"--user-data-dir={profile}"],
            pass_fds=(read_to, write_back),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_to)
        os.close(write_back)
        try:
            yield Browser(write_to, read_back)
        finally:
            os.close(write_to)
            os.close(read_back)
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


# -- what a reader would see


def sticks_out(root: str) -> str:
    """A script: what sticks out of the window on the right, and stands in no box that scrolls, below ``root``."""
    return f"""[...document.querySelectorAll({json.dumps(f"{root} *")})].filter((one) => {{
        const box = one.getBoundingClientRect();
        if (!one.checkVisibility() || box.width === 0 || box.right <= innerWidth + 1) return false;
        for (let at = one.parentElement; at && !at.matches({json.dumps(root)}); at = at.parentElement)
            if (getComputedStyle(at).overflowX !== "visible") return false;
        return true;
    }}).map((one) => `${{one.tagName}} ${{one.className}}: ${{one.textContent.trim().slice(0, 40)}}`).slice(0, 3)"""


def pale(root: str) -> str:
    """A script: the kinds of text in ``root`` whose contrast is below 4.5 to 1. What is disabled may be pale."""
    return f"""(() => {{
        const numbers = (colour) => [...colour.match(/[\\d.]+/g).map(Number), 1].slice(0, 4);
        const over = (above, below) => [0, 1, 2].map((i) => above[i] * above[3] + below[i] * (1 - above[3]));
        const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        const light = (rgb) => rgb.reduce((sum, v, i) => sum + linear(v / 255) * [0.2126, 0.7152, 0.0722][i], 0.05);
        const behind = (one) => {{ const back = numbers(getComputedStyle(one).backgroundColor);
            return back[3] === 1 || !one.parentElement ? back.slice(0, 3) : over(back, behind(one.parentElement)); }};
        const pale = new Set();
        const texts = document.createTreeWalker(document.querySelector({json.dumps(root)}), NodeFilter.SHOW_TEXT);
        while (texts.nextNode()) {{
            const one = texts.currentNode.parentElement;
            if (!texts.currentNode.data.trim() || !one.checkVisibility()) continue;
            if (one.closest("script, style, svg, textarea, [disabled], [aria-disabled=true]")) continue;
            const [a, b] = [over(numbers(getComputedStyle(one).color), behind(one)), behind(one)].map(light);
            if (Math.max(a, b) / Math.min(a, b) < 4.5)
                pale.add(`${{one.className}} ${{getComputedStyle(one).color}} ${{one.textContent.slice(0, 20)}}`);
        }}
        return [...pale];
    }})()"""
