# PYTHON_ARGCOMPLETE_OK
"""The command line: ``dualnet train | predict | summary | check | against | explain | zoo | bench | tune | ...``.

Each command has a file, with ``add`` (its options) and ``run``. A user's mistake (a file, a name, a backend) ends in
one line on stderr and exit code 2. If an argument cannot be read, the usage is printed above that line. A gradient
check that fails ends in exit code 1, and so does a model whose results are too far off. Signals end in 128 + their
number, as in a shell: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP, and 141 for a pipe that closed, as in ``dualnet
summary vgg16 | head -1``.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import dualnet as dn

from ..terminal import readable_output, say
from ..training.ending import ends_like_ctrl_c
from . import against, bench, check, explain, info, parity, plan, predict, summary, train, tune, zoo
from .options import EXIT_CLOSED, EXIT_USAGE, exit_code, told

WINDOWS = os.name == "nt"
COMMANDS = (train, predict, summary, check, against, explain, bench, tune, plan, zoo, parity, info)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    with readable_output(), ends_like_ctrl_c(), _warnings_as_notes():
        try:
            return _run(argv)
        finally:
            _leave_nothing_to_write()


def _run(argv: Sequence[str] | None) -> int:
    name = "dualnet"
    try:
        options = _parser().parse_args(argv)
        name = f"dualnet {options.command}"
        options.words = list(sys.argv[1:] if argv is None else argv)[1:]
        if getattr(options, "backend", None):
            dn.set_backend(options.backend)
        code = options.run(options) or 0
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt as error:
        say(told(error), "stderr")
        return exit_code(error)
    except SystemExit as error:  # argparse has printed the help, or the error
        return error.code if isinstance(error.code, int) else 0
    except MemoryError as error:
        say(f"{name}: {str(error) or 'there is not enough memory'}", "stderr")
        return EXIT_USAGE
    except (ValueError, OSError, ImportError, dn.BackendUnavailable) as error:
        if isinstance(error, OSError) and (failed := EXIT_CLOSED if _is_closed_pipe(error) else _flush(name)):
            return failed
        message = re.sub(r"^\[Errno \d+\] ", "", " ".join(str(error).split())).removeprefix(f"{name[8:]}: ")
        say(f"{name}: {message}", "stderr")
        return EXIT_USAGE


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Show a warning as one line, without the line of code that Python prints with it."""
    usual = warnings.formatwarning

    def shown(message: Any, category: type[Warning], *where: Any, **more: Any) -> str:
        return f"note: {message}\n" if category is UserWarning else usual(message, category, *where, **more)

    warnings.formatwarning = shown
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _flush(name: str) -> int:
    """Flush the output now, not when Python ends. Returns the exit code if that fails, else 0."""
    try:
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()
    except OSError as error:
        if _is_closed_pipe(error):
            return EXIT_CLOSED
        say(f"{name}: the output cannot be written ({error.strerror})", "stderr")
        return EXIT_USAGE
    return 0


def _is_closed_pipe(error: OSError) -> bool:
    return isinstance(error, BrokenPipeError) or (WINDOWS and error.errno == errno.EINVAL)


def _leave_nothing_to_write() -> None:
    """Discard output that a full disk or a closed pipe did not take: when Python ends it would try again, and
    complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError:
            _discard(stream)


def _discard(stream: Any) -> None:
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


class _Parser(argparse.ArgumentParser):
    """A parser that notices if its help cannot be written, and if ``--seed=--`` gives no value. It blames the command,
    not ``dualnet``, for an option that the command does not have.
    """

    commands: dict[str, _Parser]

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, extra = self.parse_known_args(args, namespace)
        if extra:
            command = self.commands[options.command]
            command.error(_not_taken(extra, command))
        return options

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        values = super()._get_values(action, arg_strings)  # which takes "--" out, and leaves an empty list
        if action.nargs is None and values == []:
            raise argparse.ArgumentError(action, "expected one argument")
        return values

    def _print_message(self, message: str, file: Any = None) -> None:
        to = "stdout" if file is not None and file is sys.stdout else "stderr"
        failed = say(message.removesuffix("\n"), to)
        if failed is not None and to == "stdout":
            raise failed


def _not_taken(extra: list[str], command: argparse.ArgumentParser) -> str:
    """What to say about arguments that a command does not take."""
    wrong = next((word.partition("=")[0] for word in extra if word.startswith("--")), None)
    if wrong is None:
        return f"unexpected: {' '.join(extra)}; `{command.prog} --help` shows what it takes"
    close = difflib.get_close_matches(wrong, command._option_string_actions, 1, cutoff=0.75)
    hint = f"did you mean {close[0]}?" if close else f"`{command.prog} --help` lists the options"
    return f"there is no option {wrong}; {hint}"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="dualnet", description="Convolutional networks whose backward passes are written to be read.")
    parser.add_argument("--version", action="version", version=f"dualnet {dn.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    parser.commands = commands.choices
    _complete(parser)
    return parser


def _complete(parser: argparse.ArgumentParser) -> None:
    """If the shell asks for completions, argcomplete answers and ends the process."""
    if "_ARGCOMPLETE" in os.environ:
        with suppress(ImportError):
            import argcomplete

            argcomplete.autocomplete(parser)
