"""An exercise: a wrong op as its file shows it, its story, its repair, and who can see the mistake."""

from __future__ import annotations

import difflib
import importlib.abc
import importlib.util
import inspect
import textwrap
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from ..parity import loops

WIDTH = 92
NAMESPACE = "from dualnet.backend import namespace"
ASK = "One mistake makes this backward pass wrong. Where is it, and how do you mend it?"
SAME_ON_BOTH = "The formula is wrong, and both backends compute the same wrong formula to the last digit."


class Case(NamedTuple):
    """What an op is called with: float64 arrays (or integers) and options."""

    arrays: tuple[numpy.ndarray, ...]
    options: dict[str, Any]


Truth = Callable[..., tuple[Any, Callable[[Any], tuple]]]
"""Plain loops: the arrays and options of a case -> y, and a function that takes dy to a tuple of gradients."""


@dataclass(frozen=True)
class Exercise:
    """A backward pass with one mistake in it. ``print`` shows the task: the story, the code and the question.

    ``op`` is the wrong op, ``code`` its text, and ``file()`` the text of a file to mend. Before the repair learners get
    ``symptom``, ``story``, ``hint`` and ``anchors`` (equations), after it ``diff``, ``lesson`` and ``why_blind``.
    ``caught_by`` names the witnesses that see the mistake, ``luck`` those that see it only sometimes.

    >>> import dualnet as dn
    >>> exercise = dn.zoo.show("delta-mask")
    >>> y, pullback = exercise.op(dn.asarray([-1.0, 2.0]))
    >>> dn.to_numpy(pullback(dn.asarray([1.0, -1.0])))  # right would be 0 and −1
    array([ 1., -0.], dtype=float32)
    """

    name: str
    symptom: str
    story: str
    op: Callable[..., Any]
    anchors: tuple[str, ...]
    hint: str
    fix: tuple[tuple[str, str], ...]
    lesson: str
    truth: Truth
    cases: Callable[[numpy.random.Generator], list[Case]]
    linear: tuple[int, ...] = ()
    caught_by: tuple[str, ...] = ("loops", "slopes", "pytorch")
    luck: tuple[str, ...] = ()
    blind: dict[str, str] = field(default_factory=dict)
    preamble: str = NAMESPACE

    @property
    def why_blind(self) -> dict[str, str]:
        """The witnesses that do not see the mistake, and why."""
        common = {} if "parity" in (*self.caught_by, *self.luck) else {"parity": SAME_ON_BOTH}
        return {**common, **self.blind}

    @cached_property
    def code(self) -> str:
        """The wrong op."""
        return textwrap.dedent(inspect.getsource(self.op))

    @cached_property
    def repaired(self) -> str:
        """The right op."""
        text = self.code
        for wrong, right in self.fix:
            if text.count(wrong) != 1:
                raise ValueError(f"zoo: {self.name}: {wrong!r} appears {text.count(wrong)} times in the code")
            text = text.replace(wrong, right)
        return text

    @cached_property
    def diff(self) -> str:
        """What the repair changes: lines that go (-) and lines that come (+)."""
        lines = difflib.unified_diff(self.code.splitlines(), self.repaired.splitlines(), lineterm="", n=1)
        return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))

    def file(self, path: str = "FILE.py") -> str:
        """The wrong op as a separate file, to be repaired."""
        story = paragraph(self.story)
        ask = f"Mend {self.op.__name__} below. Then:  dualnet zoo {self.name} --grade {path}"
        return f'"""{self.name}: {self.symptom}\n\n{story}\n\n{ask}\n"""\n\n{self.preamble}\n\n\n{self.code}'

    def __str__(self) -> str:
        title = f"{self.name}  ({', '.join(self.anchors)} in docs/derivation.md)"
        story = f"{self.symptom}\n\n{paragraph(self.story)}"
        return f"{title}\n{'=' * len(title)}\n{story}\n\n\n{self.preamble}\n\n\n{self.code}\n{ASK}"

    def __repr__(self) -> str:
        return f"<exercise {self.name}: {self.symptom}>"

    def _repr_html_(self) -> str:
        from ..markup import card, escape
        from .highlighting import highlighted, prose

        title = f"<h4>{escape(self.name)} ({', '.join(self.anchors)})</h4><p><b>{escape(self.symptom)}</b></p>"
        code = highlighted(f"{self.preamble}\n\n\n{self.code}")  # to be copied into a cell
        hint = card("Hint", f"<p>{prose(self.hint)}</p>", opened=False)
        return f"{title}<p>{prose(self.story)}</p>{code}<p>{ASK}</p>{hint}"


class Solution:
    """A repaired op, which can be called and graded; ``print`` shows what changed, and why.

    >>> import dualnet as dn
    >>> y, pullback = dn.zoo.solution("delta-mask")(dn.asarray([-1.0, 2.0]))
    >>> dn.to_numpy(pullback(dn.asarray([1.0, -1.0])))
    array([ 0., -1.], dtype=float32)
    """

    def __init__(self, exercise: Exercise) -> None:
        self.exercise = exercise
        text = f"{exercise.preamble}\n\n\n{exercise.repaired}"
        self.op = load(text, f"zoo/{exercise.name}.py", exercise.op.__name__)
        self.__name__ = exercise.op.__name__

    def __call__(self, *arrays: Any, **options: Any) -> Any:
        """Call the repaired op."""
        return self.op(*arrays, **options)

    def __str__(self) -> str:
        lines = [self.exercise.diff, paragraph(self.exercise.lesson), "Who does not see it, and why:"]
        lines += [f"  {witness:<8}  {hung(why, 12)}" for witness, why in self.exercise.why_blind.items()]
        return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:])

    def __repr__(self) -> str:
        return f"<solution of {self.exercise.name}>"

    def _repr_html_(self) -> str:
        from ..markup import escape, table, wrapped
        from .highlighting import monospaced, prose

        rows = [(witness, wrapped(why)) for witness, why in self.exercise.why_blind.items()]
        blind = table("", ("Who does not see it", "and why"), rows, left=2, raw=(1,))
        return f"{monospaced(escape(self.exercise.diff))}<p>{prose(self.exercise.lesson)}</p>{blind}"


def paragraph(text: str) -> str:
    """Text in lines that fit a terminal."""
    return textwrap.fill(" ".join(text.split()), WIDTH)


def hung(text: str, indent: int) -> str:
    """A paragraph whose later lines are indented to stand below the first."""
    return textwrap.fill(" ".join(text.split()), WIDTH - indent).replace("\n", "\n" + " " * indent)


# -- code from text ----------------------------------------------------------------------------------------------------


class _Text(importlib.abc.ExecutionLoader):
    """Imports a module from text, and leaves no files behind."""

    def __init__(self, text: str, path: str) -> None:
        self.text, self.path = text, path

    def get_source(self, fullname: str) -> str:
        return self.text

    def get_filename(self, fullname: str) -> str:
        return self.path

    def is_package(self, fullname: str) -> bool:
        return False


def load(text: str, path: str, name: str) -> Callable[..., Any]:
    """The function ``name`` from text, which is run as Python runs a file."""
    loader = _Text(text, path)
    spec = importlib.util.spec_from_loader(Path(path).stem, loader)
    if spec is None:
        raise ValueError(f"zoo: {path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
    except KeyboardInterrupt:  # the user's own
        raise
    except BaseException as error:  # SystemExit too: the code is a learner's, and may raise anything
        if isinstance(error, SyntaxError) and error.filename == path:  # and not of a text that the code evaluates
            raise ValueError(f"{path}, line {error.lineno}: {error.msg}") from None
        raise ValueError(
            f"{path} cannot be imported: {type(error).__name__}{line_of(error, path)}: {words_of(error)}"
        ) from None
    op = getattr(module, name, None)
    if not callable(op):
        raise ValueError(f"{path} has no function {name!r}; keep the name that the exercise gives it")
    return op


def line_of(error: BaseException, file: str | None) -> str:
    """The line of the learner's own file where an exception arose."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" in line {lines[-1]}" if lines else ""


def words_of(error: BaseException) -> str:
    """The message of an exception that a learner's code raised; making the message may fail too."""
    try:
        return str(error)
    except Exception:
        return "(without a message: its __str__ fails)"


def read(path: str | Path, name: str) -> Callable[..., Any]:
    """The function ``name`` from a file."""
    if Path(path).suffix == ".ipynb":
        raise ValueError(f"{path} is a notebook: copy your {name!r} from it into a Python file, such as mine.py")
    try:
        text = Path(path).read_text("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file; expected a Python file that defines {name!r}") from None
    return load(text, str(path), name)


# -- what exercises are made of ----------------------------------------------------------------------------------------


def by_loops(op: str, count: int = 1) -> Truth:
    """The truth about one of dualnet's ops from its loops, with the first ``count`` of its gradients."""

    def truth(*arrays: numpy.ndarray, **options: Any) -> tuple[Any, Callable[[Any], tuple]]:
        def backward(dy: numpy.ndarray) -> tuple:
            result = getattr(loops, f"{op}_backward")(dy, *arrays, **options)
            return result[:count] if isinstance(result, tuple) else (result,)

        return getattr(loops, op)(*arrays, **options), backward

    return truth


def normal(rng: numpy.random.Generator, *shapes: Sequence[int]) -> tuple[numpy.ndarray, ...]:
    """Arrays of normal random numbers, without ties and zeros."""
    return tuple(rng.standard_normal(shape) for shape in shapes)


def steps(rng: numpy.random.Generator, shape: Sequence[int]) -> numpy.ndarray:
    """Small integers: with ties and zeros, as after a ReLU and on images."""
    return rng.integers(-1, 3, shape).astype(numpy.float64)
