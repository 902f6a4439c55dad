"""What must not break, item by item: which tests prove it, how many cases they have, and whether they pass today.

    python tools/reliability.py                 # runs them all (minutes) and prints the table
    python tools/reliability.py --page          # and puts it into docs/reliability.md
    python tools/reliability.py --only 19 20    # some items

An item's tests run in every test run (P), or are marked slow and run on request (N), or need a GPU (G).
"""

from __future__ import annotations

import argparse
import datetime
import platform
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
MARKS = re.compile(r"(<!-- items -->\n).*?(<!-- end of items -->)", re.DOTALL)


@dataclass(frozen=True)
class Item:
    """One line of the list: what must not break, and the tests that prove it (a file, or ``file::test``)."""

    number: int
    what: str
    tests: tuple[str, ...]
    left: str = ""  # the part that the tests do not show


@dataclass
class Result:
    """How the tests of an item ended."""

    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: int = 0

    def __str__(self) -> str:
        if self.failed:
            return f"**{len(self.failed)} failed**, {self.passed:,} passed"
        return f"{self.passed:,} passed" + (f", {self.skipped:,} skipped" if self.skipped else "")


FUZZING = tuple(
    f"test_tools.py::test_{name}" for name in ("whatever_goes_wrong_is_found_and_kept", "1000_strangers_of_each_kind")
)
A, B, C, D, E = "Mathematics", "Shapes, layouts, dtypes", "State", "Files from strangers", "Process"
ITEMS: dict[str, list[Item]] = {
    A: [
        Item(
            1,
            "Every op against central differences, every linear op against the adjoint identity",
            ("ops/test_every_op.py", "test_check.py"),
        ),
        Item(
            2,
            "Convolution over the whole grid of window, stride, padding, dilation and groups against loops",
            ("ops/test_convolution.py",),
        ),
        Item(
            3,
            "What cannot be computed raises a ValueError that names layer, shapes and fix, before memory is allocated",
            (
                "ops/test_convolution.py::test_shapes_that_do_not_fit",
                "ops/test_pooling.py::test_windows_that_do_not_fit",
            )
            + ("test_geometry.py", "layers/test_layer.py::test_common_mistakes_say_what_to_do"),
        ),
        Item(
            4,
            "Max pooling: overlap, padding, dilation, ceil_mode, ties, −∞, NaN, the mass of the deltas",
            ("ops/test_pooling.py",),
        ),
        Item(
            5,
            "Batch norm: both variances, one value per channel, a mean a thousand times the spread",
            ("ops/test_normalization.py", "layers/test_normalization.py"),
        ),
        Item(
            6,
            "Softmax, losses and activations at the limits of their numbers: finite or documented, no warning",
            ("ops/test_activation.py", "ops/test_losses.py", "ops/test_huge_numbers.py"),
        ),
        Item(7, "Ops, losses, optimizers and batch norm against trajectories of PyTorch", ("test_fixtures.py",)),
        Item(
            8,
            "Shift equivariance, order of the batch, two half batches are one",
            (
                "ops/test_convolution.py::test_shift_equivariance",
                "ops/test_convolution.py::test_two_half_batches_are_one",
            )
            + (
                "ops/test_losses.py::test_two_half_batches_are_one_batch",
                "training/test_loop.py::test_two_half_batches_are_one",
            )
            + ("ops/test_pooling.py::test_batches_and_channels_are_pooled_by_themselves",),
        ),
        Item(
            9,
            "Planted mistakes are found, in the exercises and, by `python tests/mutants.py`, in the library",
            ("zoo/test_exercises.py", "zoo/test_library.py", "test_mutants.py"),
        ),
    ],
    B: [
        Item(
            10,
            "Transposed, reversed, sliced, broadcast, Fortran, read-only and mapped arrays; inputs never change",
            ("ops/test_every_op.py",),
        ),
        Item(
            11,
            "Forward twice, pullback twice, a layer used twice, pullback after free()",
            ("ops/test_pullback.py", "layers/test_containers.py"),
        ),
        Item(
            12,
            "Empty batches, no channels, 1 × 1 images, a batch of one",
            ("ops/test_every_op.py",),
        ),
        Item(
            13, "Big-endian, bool, integer, object and complex arrays: exact, or a TypeError", ("shim/test_arrays.py",)
        ),
        Item(
            14,
            "A float32 network holds no float64 after three steps",
            ("training/test_loop.py::test_a_float32_network_holds_no_float64_after_three_steps",)
            + (
                "optimizers/test_rules.py::test_no_wider_dtype_creeps_in",
                "ops/test_losses.py::test_nothing_widens_float32",
            ),
        ),
        Item(
            15,
            "Labels out of range, negative, fractional or too few are a ValueError on every backend",
            ("ops/test_losses.py::test_wrong_labels", "ops/test_losses.py::test_check_labels")
            + ("ops/test_losses.py::test_unchecked_labels_must_still_be_integers", "training/test_checks.py"),
        ),
        Item(
            16,
            "Constructors given nonsense: TypeError or ValueError, at once",
            (
                "test_constructors.py",
                "test_arguments.py",
                "layers/test_convolution.py::test_constructors_refuse_nonsense",
            )
            + ("layers/test_pooling.py::test_constructors_refuse_nonsense",)
            + ("layers/test_dense.py::test_constructors_refuse_nonsense", "layers/test_bases.py::test_wrong_arguments"),
        ),
        Item(
            17,
            "Every test that could end differently on the strict backend: it rejects what a GPU rejects",
            ("backends/test_strict_backend.py", "shim/test_transfers.py"),
            "`.ci/run` runs them on it",
        ),
    ],
    C: [
        Item(
            18,
            "Save, load, save gives the same bytes, predictions the same bits; no pickle in a file",
            ("files/test_network.py", "files/test_formats.py", "test_writing.py"),
        ),
        Item(
            19,
            "kill −9 anywhere, also inside a save: continuing gives the bits of an uninterrupted training",
            ("training/test_killed.py",),
        ),
        Item(
            20,
            "If a disk fails at any write, sync or rename, the old file stays",
            ("files/test_formats.py::test_a_failing_disk_leaves_the_old_file",)
            + ("files/test_formats.py::test_an_interrupted_save_leaves_the_old_file",)
            + ("files/test_formats.py::test_the_order_is_write_sync_replace_sync_folder",)
            + ("files/test_formats.py::test_a_disk_that_is_really_full",),
        ),
        Item(
            21,
            "A file cut anywhere is a CheckpointError; resuming takes the newest good one; misfits are all listed",
            ("files/test_strangers.py::test_truncated_at_every_64_bytes",)
            + ("files/test_strangers.py::test_missing_unexpected_and_misshaped_values_are_all_listed",)
            + ("layers/test_state.py::test_a_state_that_does_not_fit_changes_nothing",)
            + ("training/test_resume.py::test_a_damaged_checkpoint_is_passed_over_with_a_warning",),
        ),
        Item(
            22,
            "Ctrl-C, SIGTERM and SIGHUP: what was trained is kept, exit codes 130, 143, 129",
            ("training/test_ending.py", "cli/test_train.py"),
        ),
    ],
    D: [
        Item(
            23,
            "Malformed networks, arrays, IDX, CIFAR: the documented error, quickly, in little memory",
            ("files/test_strangers.py", "data/test_data.py", "data/test_images.py", "data/test_folder.py"),
        ),
        Item(24, "Fuzzing every reader: `python tools/fuzz.py`, a million inputs", FUZZING, "below"),
        Item(
            25,
            "Pickles raise an error, zip bombs stop at a limit; nothing is unpacked into folders",
            ("files/test_strangers.py::test_hostile_containers",)
            + ("files/test_strangers.py::test_overlapping_members_are_no_bomb",)
            + ("data/test_data.py::test_a_gzip_bomb_stops_at_what_its_header_promises",),
        ),
        Item(
            26,
            "No pickle, eval, exec, extractall or shell in the package",
            (
                "test_architecture.py::test_nothing_runs_what_a_file_brings",
                "test_architecture.py::test_the_scan_itself_can_fail",
            ),
        ),
        Item(
            27,
            "Downloads that break off, hang or bring a wrong file: the next mirror is tried, and no half file is left",
            ("data/test_sources.py",),
        ),
    ],
    E: [
        Item(
            28,
            "Hundreds of training steps, explanations and predictions leave memory flat",
            ("training/test_loop.py::test_memory_stays_flat", "training/test_loop.py::test_inference_keeps_nothing")
            + ("seeing/test_watching.py::test_three_hundred_explanations_leave_memory_flat",),
        ),
        Item(
            29,
            "If memory runs out anywhere in a step, all state stays as it was",
            ("training/test_broken_steps.py",),
        ),
        Item(
            30,
            "Eight threads with one network: the bits of one",
            ("test_in_threads.py", "backends/cpu/test_threads.py"),
        ),
        Item(31, "`check_finite=True` names layer and step of the first NaN", ("training/test_finite.py",)),
        Item(
            32,
            "DUALNET_BACKEND with every value, typo and late change; the import is quick and silent",
            (
                "shim/test_environment.py",
                "shim/test_choosing.py",
                "shim/test_loading.py",
                "backends/test_cupy_backend.py",
            ),
        ),
        Item(
            33,
            "The commonest mistakes have a message with layer, got, expected and fix",
            ("test_docs.py::test_examples_run",),
            "58 messages, word for word, on [their page](mistakes.md)",
        ),
        Item(
            34,
            "NumPy and CuPy arrays mixed are a TypeError; a step on a GPU makes the expected transfers",
            ("backends/test_cupy_backend.py", "shim/test_arrays.py::test_arrays_of_two_backends_are_refused")
            + ("backends/gpu/test_launch.py::test_a_step_launches_kernels_and_moves_nothing",),
            "on the pretend device; on a GPU this has not run",
        ),
        Item(
            35,
            "Repeated trainings give the same bits",
            ("training/test_loop.py::test_training_is_repeatable_and_seeded", "training/test_capture.py"),
            "on the CPU and the pretend device; on a GPU this has not run",
        ),
    ],
}


def run(items: list[Item]) -> dict[int, Result]:
    """Run the tests of all items together, slow ones too; the result of each item."""
    tests = sorted({test for item in items for test in item.tests})
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "-m", "slow or not slow", f"--junitxml={report}"]
        subprocess.run([*command, *(f"tests/{test}" for test in tests)], cwd=ROOT, check=False)
        cases = [case for case in xml.parse(report).iter("testcase")]
    return {item.number: judged(item, cases) for item in items}


def judged(item: Item, cases: list[xml.Element]) -> Result:
    """The results of an item's cases."""
    result = Result()
    for case in cases:
        file = case.get("classname", "").removeprefix("tests.").replace(".", "/") + ".py"
        name = case.get("name", "")
        if not any(test in (file, f"{file}::{name.partition('[')[0]}") for test in item.tests):
            continue
        if case.find("failure") is not None or case.find("error") is not None:
            result.failed.append(f"{file}::{name}")
        elif case.find("skipped") is not None:
            result.skipped += 1
        else:
            result.passed += 1
    return result


def table(results: dict[int, Result]) -> str:
    """The list in Markdown, with today's results."""
    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    lines = [f"Last run on {datetime.date.today()}, {machine}, without a GPU.", ""]
    for title, items in ITEMS.items():
        lines += [f"## {title}", "", "| | what must not break | result | tests |", "|---|---|---|---|"]
        for item in items:
            tests = "<br>".join(f"`{test}`" for test in item.tests) or "none"
            result = str(results[item.number]) if item.tests and item.number in results else "not run"
            note = f"; {item.left}" if item.left else ""
            lines.append(f"| {item.number} | {item.what} | {result}{note} | {tests} |")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="put the table into docs/reliability.md")
    parser.add_argument("--only", type=int, nargs="+", metavar="N", help="some items")
    options = parser.parse_args()
    items = [item for group in ITEMS.values() for item in group if not options.only or item.number in options.only]
    results = run(items)
    for item in items:
        print(f"{item.number:>3}  {results[item.number]}  {item.what}")
        print("".join(f"       {failed}\n" for failed in results[item.number].failed), end="")
    if options.page and not options.only:
        page = MARKS.sub(lambda marks: marks[1] + table(results) + marks[2], PAGE.read_text("utf-8"))
        PAGE.write_text(page, encoding="utf-8")
    return 1 if any(result.failed for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
