"""The measured programs, each in its own process: a new one for every round, or one that stays between rounds.

A process that stays builds and compiles once. While others are measured, it waits and uses nothing of a GPU but memory.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import tempfile
import threading
import time
from typing import Any

__all__ = ["Staying", "once"]

Answer = dict[str, Any]
PATIENCE = 10.0  # seconds a process gets to end by itself


def once(command: list[str], task: Answer, environment: dict[str, str], longest: float) -> Answer:
    """Run one task in a process that ends with it. Returns the answer, or the reason why there is none."""
    options: Any = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "timeout": longest}
    try:
        done = subprocess.run(command, input=json.dumps(task), env=environment, **options)
    except subprocess.TimeoutExpired:
        return {"failed": f"no answer within {longest:g} s"}
    if done.returncode:
        return {"failed": _last_words(done.stderr, done.returncode)}
    return _answer(done.stdout.strip().splitlines()[-1:], done.stdout)


class Staying:
    """A process that builds the step once and measures it at every call. As a context manager, it ends the process."""

    def __init__(self, command: list[str], task: Answer, environment: dict[str, str]) -> None:
        self.command, self.task, self.environment = command, task, environment
        self.process: subprocess.Popen | None = None
        self.ready: Answer = {}

    def __enter__(self) -> Staying:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process is not None:
            self._end()

    def __call__(self, longest: float) -> Answer:
        """Measure the step; the first call also builds it. Returns the answer, or why there is none."""
        until = time.monotonic() + longest
        if self.process is None:
            begun = time.monotonic()
            self._start()
            self._say(json.dumps(self.task))
            self.ready = self._hear(until, longest)
            if "failed" in self.ready or "skipped" in self.ready:
                return self.ready
            self.ready["ready_seconds"] = round(time.monotonic() - begun, 1)
        if "failed" in self.ready or "skipped" in self.ready:
            return self.ready
        self._say("measure")
        answer = {**self.ready, **self._hear(until, longest)}
        if "failed" in answer:
            self.ready = {"failed": answer["failed"]}
        return answer

    def _start(self) -> None:
        self.errors = tempfile.TemporaryFile()  # not a pipe: compilers print more than one can hold
        self.process = subprocess.Popen(
            self.command, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
        self.lines: queue.Queue[str] = queue.Queue()
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        with self.process.stdout as answers:
            for line in answers:
                self.lines.put(line)
        self.lines.put("")  # that was all

    def _say(self, line: str) -> None:
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except OSError:
            pass  # the process has ended; there will be no answer

    def _hear(self, until: float, longest: float) -> Answer:
        """The next line, unless the process ends or the time is up.

        If it ends, its last words may still be on their way; its children may keep the pipe open.
        """
        while True:
            ended = self.process.poll() is not None
            with contextlib.suppress(queue.Empty):
                if line := self.lines.get(timeout=PATIENCE if ended else 0.5):
                    return _answer([line])
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(0.5)
                ended = self.process.poll() is not None
            if ended:
                self.errors.seek(0)
                said = self.errors.read().decode("utf-8", "replace")
                return {"failed": _last_words(said, self.process.returncode)}
            if time.monotonic() > until:
                self._end(patience=0.0)
                return {"failed": f"no answer within {longest:.0f} s"}

    def _end(self, patience: float = PATIENCE) -> None:
        """End the process by closing its input; if that does not help, kill it."""
        process: Any = self.process
        try:
            process.stdin.close()
            process.wait(patience)
        except (OSError, subprocess.TimeoutExpired):
            process.kill()
            process.wait()
        self.listener.join(1.0)
        self.errors.close()


def _answer(lines: list[str], all_of_it: str = "") -> Answer:
    try:
        return json.loads(lines[-1])
    except (ValueError, IndexError):
        return {"failed": f"no answer, but {(all_of_it or ''.join(lines))[-200:]!r}"}


def _last_words(said: str, code: int) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"ended with exit code {code}"
