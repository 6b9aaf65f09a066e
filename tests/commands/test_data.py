"""``internvl35 data``: what it prints, writes and refuses; and the page on it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from internvl35.commands.data import app
from internvl35.commands.data_report import describe_row, draw_bars, mark_loss
from internvl35.data.encoding import RowSize
from internvl35.data.preview import Stretch
from internvl35.data.token_writer import ImageSpan, Prompt
from internvl35.errors import ConfigError, DataError, MediaError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "howto" / "data.md"


@pytest.fixture
def call():
    """Run the command; gives its output, or raises what it raises."""

    def invoke(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return invoke


@pytest.fixture
def rows(tmp_path):
    """A copy of the example's rows and pictures."""
    for path in (ROOT / "examples").iterdir():
        if path.suffix in (".jsonl", ".png"):
            shutil.copy(path, tmp_path)
    return tmp_path / "rows.jsonl"


def enlarge(path):
    """Make a picture so large that it is cut into four tiles and a thumbnail."""
    with Image.open(path) as picture:
        picture.resize((600, 600)).save(path)


def test_a_check_counts_rows_and_names_the_bad_ones(call, rows):
    text = call("check", rows, "--workers", 0, "--max-bad-share", 0.2)
    assert "rows    6, of which 1 bad (16.7%)" in text
    assert "holds   5 pictures, 0 videos" in text
    assert re.search(r"rows\.jsonl:6: \S*wrod\.png does not exist", text)
    # by hand: each example picture is one tile, and one row shows two
    assert re.search(r"^tiles +0 +1 +1 +2 +2$", text, re.MULTILINE)


def test_more_bad_rows_than_allowed_are_an_error_behind_the_report(rows):
    result = CliRunner().invoke(app, ["check", str(rows), "--workers", "0"])
    assert "wrod.png does not exist" in result.stdout
    assert isinstance(result.exception, DataError)
    assert "1 of 6 rows are bad (16.7%), more than --max-bad-share 0.01 allows" in str(
        result.exception
    )


def test_the_report_can_be_read_by_programs(call, rows):
    report = json.loads(call("check", rows, "--json", "--max-bad-share", 1, "--list-bad", 0))
    assert (report["rows"], report["bad"], report["bad_rows"]) == (6, 1, [])
    assert report["tiles"]["total"] == 1 + 1 + 1 + 2


def test_a_folder_of_results_holds_figures_and_pages(call, rows, tmp_path):
    folder = tmp_path / "new" / "report"
    call("check", rows, "--output-dir", folder, "--max-bad-share", 0.2, "--fast")
    assert sorted(path.name for path in folder.iterdir()) == [
        "histograms.png", "report.json", "samples.png",
    ]  # fmt: skip
    assert json.loads((folder / "report.json").read_text())["rows"] == 6
    for name in ("histograms.png", "samples.png"):
        with Image.open(folder / name) as page:
            assert page.format == "PNG"
            assert min(page.size) > 200


def test_only_bad_rows_have_a_report_and_no_pages(rows, tmp_path):
    rows.write_text('{"query": "no answer"}\n')
    result = CliRunner().invoke(app, ["check", str(rows), "--output-dir", str(tmp_path / "out")])
    assert "1 bad (100.0%)" in result.stdout
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.json"]


def test_flags_of_training_decide_on_the_sizes(call, rows):
    def tokens(*flags):
        found = json.loads(call("check", f"{rows}#1", "--json", "--workers", 0, *flags))
        return found["tokens"]["total"]

    enlarge(rows.parent / "shapes.png")
    # 5 tiles of 36 tokens; one alone is 144 tokens less
    assert tokens() - tokens("--max_dynamic_patch", 1) == 144
    assert tokens("--max_num=1") == tokens("--max-dynamic-patch", 1)
    assert tokens("--system", "none") < tokens()
    with pytest.raises(DataError, match="1 of 1 rows are bad"):
        tokens("--max_length", 200)
    assert tokens("--max_length", 200, "--truncation_strategy", "left") == 200


def test_several_sets_are_checked_together(call, rows):
    report = json.loads(call("check", f"{rows}#2", f"{rows}#1", "--json", "--workers", 0))
    assert report["rows"] == 3


def test_a_preview_brackets_what_carries_loss(call, rows):
    text = call("preview", rows, "--row", 5)
    assert "A small model.<|im_end|>\n" in text
    assert "<|im_start|>assistant\n[[Count shapes.<|im_end|>]]\n" in text
    assert "rows.jsonl:5: 51 tokens, 5 of them with loss\n" in text


def test_a_preview_draws_the_tiles(call, rows, tmp_path):
    enlarge(rows.parent / "shapes.png")
    text = call("preview", rows, "--output", tmp_path / "tiles.png")
    assert "<img><IMG_CONTEXT>×180</img>\nHow many triangles are there?<|im_end|>" in text
    assert "220 tokens, 2 of them with loss, 5 tiles" in text
    with Image.open(tmp_path / "tiles.png") as page:
        assert page.width > 3 * page.height  # five tiles in a line


@pytest.mark.parametrize(
    ("arguments", "kind", "needed"),
    [
        (("preview", "--row", 7), ConfigError, "--row is 7 but there are 6 rows"),
        (("preview", "--row", 6), MediaError, "wrod.png does not exist"),
        (("preview", "--row", 5, "-o", "x.png"), DataError, "rows.jsonl:5 has no pictures"),
        (("check", "--workers", -1), ConfigError, "--workers is -1"),
        (("check", "--max-length", 0), ConfigError, "max_length is 0"),
        (("check", "--columns", "{"), ConfigError, "columns is not valid JSON"),
    ],
)
def test_what_cannot_be_done_is_said(call, rows, arguments, kind, needed):
    command, *rest = arguments
    with pytest.raises(kind, match=needed):
        call(command, rows, *rest)


def test_a_set_without_rows_is_refused(call, tmp_path):
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError):
        call("check", tmp_path / "empty.jsonl")


def test_what_steers_a_terminal_does_not_reach_it():
    shown = [Stretch("a\x1b[31m", 2, has_loss=False), Stretch("b\x07", 1, has_loss=True)]
    assert mark_loss(shown, is_colored=False, encoding="utf-8") == "a[31m[[b]]"
    assert mark_loss(shown, is_colored=True, encoding="ascii") == "a[31m\x1b[32m\x1b[1mb\x1b[0m"


def test_bars_are_as_long_as_their_share():
    assert draw_bars("tiles", [1, 1, 1, 1, 2, 4]) == [
        "tiles  rows",
        f"    1  {'█' * 40} 4",
        f"    2  {'█' * 10} 1",
        "    3   0",
        f"    4  {'█' * 10} 1",
    ]
    assert [line.split("█")[0].strip() for line in draw_bars("x", [0, 200, 1000, 1100])[1:]] == [
        "0-99", "100-199   0", "200-299", *[f"{n}00-{n}99   0" for n in range(3, 10)],
        "1,000-1,099", "1,100-1,199",
    ]  # fmt: skip


def test_a_row_is_described_by_its_pictures():
    spans = (ImageSpan(1, 8, 2), ImageSpan(11, 4, 1))
    prompt = Prompt((0,) * 20, spans, (False,) * 20)
    text = describe_row("x:1", RowSize(1234, 3, 5), prompt)
    assert text == "x:1: 1,234 tokens, 5 of them with loss, 3 tiles (2 + 1)"


# The page -----------------------------------------------------------------------------------------


def flags_of(name):
    parameters = get_command(app).commands[name].params
    return {flag for parameter in parameters for flag in parameter.opts if flag.startswith("--")}


def test_the_page_names_only_options_that_there_are_and_the_important_ones():
    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"--[a-z][a-z0-9-]*", text))
    assert named <= flags_of("check") | flags_of("preview") | {"--dataset"}  # sft comes next
    assert flags_of("check") - named <= {"--hub", "--revision", "--offline", "--max-num"}


def test_what_the_page_shows_is_what_is_printed(call, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = PAGE.read_text(encoding="utf-8")
    shown = re.findall(
        r"^```\n\$ internvl35 data ([^\n]*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL
    )
    assert [line.split()[0] for line, _ in shown] == ["check", "preview"]
    for line, output in shown:
        printed = call(*line.split())
        assert [row.rstrip() for row in printed.splitlines()] == [
            row.rstrip() for row in output.splitlines()
        ]


def test_the_row_that_the_page_begins_with_is_one(call, tmp_path):
    (row,) = re.findall(r"^\{\"messages\".*\}$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    (tmp_path / "mine.jsonl").write_text(row + "\n")
    shutil.copy(ROOT / "examples" / "shapes.png", tmp_path)
    assert "1, of which 0 bad" in call("check", tmp_path / "mine.jsonl", "--workers", 0)


def test_the_list_of_sets_that_the_page_shows_is_one(call, rows, tmp_path):
    (text,) = re.findall(r"^\{\"drawn\".*\}$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    (tmp_path / "pictures").mkdir()
    for path in tmp_path.glob("*.png"):
        path.rename(tmp_path / "pictures" / path.name)
    (tmp_path / "meta.json").write_text(text)
    report = json.loads(call("check", tmp_path / "meta.json", "--json", "--max-bad-share", 0.2))
    assert (report["rows"], report["bad"]) == (12, 2)
