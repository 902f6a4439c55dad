"""``dualnet plan``: the whole command, and mistakes in one clear line."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from dualnet import cli

GIVEN = ("--net", "lenet5", "--step-seconds", "0.05")


def run(capsys, *arguments):
    code = cli.main(["plan", *map(str, arguments)])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_a_table_the_reasons_and_what_helps(capsys):
    code, out, err = run(capsys, *GIVEN, "--ranks", 64, "--bandwidth", "1e7")
    assert code == 0 and not err
    assert out.startswith("lenet5: 61,706 parameters, 0.2 MB of gradients")
    for words in ("falls below 80% at", "what costs most at 64 ranks: ", "what would help:", "compute: as given"):
        assert words in out


def test_the_page_shows_what_is_printed(capsys):
    page = Path(__file__).parents[2] / "docs" / "distributed-scaling.md"
    if not page.exists():
        pytest.skip("the pages are in the checkout, not in the package")
    text = page.read_text("utf-8")
    words = shlex.split(next(line for line in text.splitlines() if line.startswith("dualnet plan --ranks 1024")))
    assert f"```text\n{run(capsys, *words[2:])[1]}```" in text


def test_in_json(capsys):
    code, out, _ = run(capsys, *GIVEN, "--ranks", 8, "--json", "--global-batch", 64)
    found = json.loads(out)
    assert code == 0 and [row["ranks"] for row in found["steps"]] == [1, 2, 4, 8]
    assert found["steps"][-1]["batch"] == 8 and found["gradient_bytes"] == 4 * 61706
    assert found["steps"][0]["seconds"] == pytest.approx(0.05)


def test_every_option_counts(capsys):
    def efficiency(*more):
        _, out, err = run(
            capsys, *GIVEN, "--ranks", 64, "--bandwidth", "1e8", "--latency", "1e-4", "--bucket", 5e4, "--json", *more
        )
        return json.loads(out)["steps"][-1]["efficiency"]

    plain = efficiency()
    assert efficiency("--no-overlap") < plain
    assert efficiency("--variation", 0.5) < plain
    assert efficiency("--supply", 1e5) < plain
    assert efficiency("--latency", 1e-3) < plain < efficiency("--bandwidth", 1e12)
    assert efficiency("--all-reduce", "tree") != plain != efficiency("--all-reduce", "fastest")
    assert efficiency("--gradient-bits", 16) > plain > efficiency("--gradient-bits", 64)
    assert efficiency("--bucket", 1e9) != plain
    assert efficiency("--per-node", 8, "--all-reduce", "hierarchical") != efficiency("--all-reduce", "hierarchical")
    inner = ("--per-node", 64, "--inner-bandwidth", 1e6)
    assert efficiency(*inner) < efficiency("--per-node", 64)
    assert efficiency("--per-node", 64, "--inner-latency", 1e-2) < efficiency("--per-node", 64)


def test_the_time_of_a_step_is_measured_if_nobody_says_it(capsys):
    code, out, err = run(capsys, "--net", "digits_cnn", "--ranks", 2)
    assert code == 0 and "measuring steps of digits_cnn" in err and "compute: measured here: " in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--net", "nothing"), "'nothing' is neither a file nor a model"),
        ((*GIVEN, "--batch", 4, "--global-batch", 4), "give one of the two"),
        ((*GIVEN, "--global-batch", 4, "--ranks", 8), "8 ranks cannot share 4 images"),
        ((*GIVEN, "--all-reduce", "star"), "unknown way 'star'"),
        ((*GIVEN, "--check"), "leave --global-batch and --step-seconds out"),
        (("--variation", "2"), "--variation: 2 is not a number from 0 to 1"),
        (("--bandwidth", "0"), "--bandwidth: 0 is not a positive number"),
        (("--ranks", "0"), "--ranks: 0 is not at least 1"),
    ],
)
def test_mistakes(capsys, arguments, words):
    code, out, err = run(capsys, *arguments)
    assert code == 2 and not out and words in err.splitlines()[-1]
