from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evaluations import Heard, said
from sounds import tone, write_wav
from stenopool.data import Recording
from stenopool.errors import OutputError
from stenopool.evaluation.conditions import condition
from stenopool.evaluation.report import SCHEMA, Document, document, page, tables, to_json, write
from stenopool.evaluation.report.page import SHOWN, excerpt, worst
from stenopool.evaluation.run import Plan, evaluate

HOSTILE = "<script>alert(1)</script>&\"'$x^2$"


def quiet(task: str, done: float, total: float | None) -> None:
    """No progress."""


def recorded(folder: Path, texts: list[str]) -> list[Recording]:
    found = []
    for number, text in enumerate(texts):
        path = write_wav(folder / f"{number}.wav", tone(0.5))
        found.append(Recording(id=f"r{number}", audio=path, text=text, language="de"))
    return found


def reported(recordings: list[Recording], *systems: Heard, conditions: tuple[str, ...]) -> Document:
    plan = Plan(recordings, tuple(map(condition, conditions)), seed=3)
    found = evaluate(plan, systems, progress=quiet)
    return document(found, command=f"steno evaluate {HOSTILE}", sources=["m.jsonl"])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Document:
    tmp_path = tmp_path_factory.mktemp("report")
    recordings = recorded(tmp_path, ["eins zwei drei", "vier fünf", ""])
    recordings.append(Recording(id=HOSTILE, audio=tmp_path / "none.wav", text=f"ja {HOSTILE}"))
    texts = said(recordings, lambda text: text.replace("zwei", "<b>zwo</b>"))
    one, two = Heard("one", texts), Heard(HOSTILE, lambda path: "eins vier vier")
    return reported(recordings, one, two, conditions=("clean", "telephone"))


class Page(HTMLParser):
    """Elements of a page, and what is wrong with their nesting."""

    VOID = frozenset({"meta", "br", "hr", "img", "input", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.seen if name == tag]


# --- JSON --------------------------------------------------------------------------------------


def test_document_holds_every_figure_and_every_recording(report: Document) -> None:
    data = json.loads(to_json(report))
    assert data["schema"] == SCHEMA == "stenopool.evaluation/1"
    assert [one["name"] for one in data["systems"]] == ["one", HOSTILE]
    pairs = [(one["condition"], one["system"]) for one in data["results"]]
    assert pairs == [
        ("clean", "one"),
        ("clean", HOSTILE),
        ("telephone", "one"),
        ("telephone", HOSTILE),
    ]
    first = data["results"][0]
    assert first["words"] == 3 + 2 + 4  # of the hostile one is left: ja alert x 2
    assert first["wer"] == pytest.approx(first["substitutions"] / 9)
    assert first["difference"] is None
    assert data["results"][1]["difference"]["wer"] > 0
    one = first["recordings"][0]
    assert (one["id"], one["reference"], one["hypothesis"]) == (
        "r0",
        "eins zwei drei",
        "eins <b>zwo</b> drei",
    )
    assert one["alignment"] == [
        ["equal", "eins", "eins"],
        ["substitute", "zwei", "zwo"],
        ["equal", "drei", "drei"],
    ]
    assert data["data"]["unit"] == "recording"
    assert data["data"]["normalisers"] == {"whisper-basic": 4}
    assert data["machine"]["cores"] >= 1
    assert HOSTILE in data["command"]


def test_names_that_are_not_utf_8_can_be_written(tmp_path: Path) -> None:
    recordings = recorded(tmp_path, ["eins"])
    one = Heard("bad \udcff name", said(recordings))
    made = reported(recordings, one, conditions=("clean",))
    write(made, tmp_path / "report")
    assert "bad \ufffd name" in (tmp_path / "report" / "report.json").read_text(encoding="utf-8")
    assert "bad \ufffd name" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_report_folder_that_cannot_be_is_an_error(report: Document, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        write(report, tmp_path / "file")


# --- tables ------------------------------------------------------------------------------------


def test_tables_have_a_row_for_each_system_and_condition(report: Document) -> None:
    lines = tables(report).splitlines()
    assert sum(line.split()[:1] == ["clean"] for line in lines) == 4  # accuracy and speed of two
    assert any("10000 bootstrap resamples of 3 recordings, seed 3" in line for line in lines)
    (row,) = [line for line in lines if line.split()[:2] == ["clean", "one"]][:1]
    assert f"{100 * report['results'][0]['wer']:.2f}" in row
    assert "[/" not in row
    assert "\x1b" not in tables(report)


def test_tables_of_one_system_show_no_difference(tmp_path: Path) -> None:
    recordings = recorded(tmp_path, ["eins", "zwei"])
    made = tables(reported(recordings, Heard("one", said(recordings)), conditions=("clean",)))
    assert "difference" not in made
    assert "invented" not in made
    assert "0.00 to 0.00" in made


def test_names_cannot_command_the_terminal(tmp_path: Path) -> None:
    from stenopool.cli.console import printable

    recordings = recorded(tmp_path, ["eins"])
    one = Heard("[red]a\x1b]0;title\x07", said(recordings))
    made = tables(reported(recordings, one, conditions=("clean",)), shown=printable)
    assert "[red]a" in made
    assert all(letter.isprintable() or letter == "\n" for letter in made)


# --- page --------------------------------------------------------------------------------------


def test_page_is_well_formed_and_needs_nothing_else(report: Document) -> None:
    found = Page(page(report))
    assert found.open == []
    assert not [
        tag for tag, _ in found.seen if tag in ("script", "link", "img", "iframe", "object")
    ]
    for _, attributes in found.seen:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "src", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert not re.search(r"url\((?!#)|@import", page(report))


def test_page_escapes_what_comes_from_data(report: Document) -> None:
    made = page(report)
    assert "<script" not in made
    assert "<b>zwo" not in made
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in made
    assert HOSTILE in Page(made).text


def test_page_has_headers_titles_and_a_keyboard_way_through(report: Document) -> None:
    found = Page(page(report))
    assert all(one.get("scope") in ("col", "row") for one in found.all("th"))
    assert len(found.all("caption")) == len(found.all("table")) == 3
    assert len(found.all("svg")) == 2
    ids = {attributes.get("id") for _, attributes in found.seen}
    for plot in found.all("svg"):
        assert plot["role"] == "img"
        assert plot["aria-labelledby"] in ids
    regions = [one for one in found.all("div") if one.get("role") == "region"]
    assert len(regions) == 3
    assert all(one.get("tabindex") == "0" for one in regions)
    assert len(found.all("html")) == len([one for one in found.all("html") if one.get("lang")])
    assert "Word error rate of each system under each condition" in found.text


def test_identifiers_of_the_page_are_unique_and_references_lead_to_them(report: Document) -> None:
    made = page(report)
    ids = [one for _, attributes in Page(made).seen if (one := attributes.get("id"))]
    assert len(ids) == len(set(ids))
    references = set(re.findall(r'(?:url\(|href=")#([\w-]+)', made))
    assert references
    assert references <= set(ids)


def test_plots_take_their_colours_from_the_page(report: Document) -> None:
    made = page(report)
    style = made[made.index("<style>") : made.index("</style>")]
    plots = "".join(re.findall(r"<svg.*?</svg>", made, re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b", plots)) == set()
    used = set(re.findall(r"var\((--[\w-]+)\)", made))
    assert used <= set(re.findall(r"(--[\w-]+):", style))
    assert style.count("--system-7:") == 2  # light and dark


def contrast(one: str, other: str) -> float:
    """WCAG 2.1."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [
            one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted([luminance(one), luminance(other)], reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "paper", "least"),
    [
        ("ink", "paper", 7.0),
        ("ink", "card", 7.0),
        ("soft", "card", 4.5),
        ("soft", "paper", 4.5),
        ("gone", "gone-back", 4.5),
        ("new", "new-back", 4.5),
        ("wrong", "wrong-back", 4.5),
        ("link", "paper", 3.0),
    ],
)
def test_letters_stand_out(
    report: Document, theme: int, ink: str, paper: str, least: float
) -> None:
    colours = re.findall(rf"--({ink}|{paper}): (#[0-9a-f]{{6}})", page(report))
    found = dict(colours[2 * theme : 2 * theme + 2])
    assert contrast(found[ink], found[paper]) >= least


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_bars_stand_out(report: Document, theme: int) -> None:
    made = page(report)
    card = re.findall(r"--card: (#[0-9a-f]{6})", made)[theme]
    colours = re.findall(r"--system-\d: (#[0-9a-f]{6})", made)
    assert len(colours) == 16
    for colour in colours[8 * theme : 8 * theme + 8]:
        assert contrast(colour, card) >= 3.0, colour


def test_errors_are_marked_with_what_was_said_and_heard(report: Document) -> None:
    made = page(report)
    assert "<del>zwei</del> <ins>zwo</ins>" in made
    assert "failed: input_not_found" in made


def test_only_the_worst_recordings_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    recordings = recorded(tmp_path, [" ".join(["wort"] * count) for count in range(1, SHOWN + 6)])
    made = reported(recordings, Heard("one", lambda path: ""), conditions=("clean",))
    shown = worst(made["results"][0]["recordings"])
    assert [one["words"] for one in shown] == list(range(SHOWN + 5, 5, -1))
    text = " ".join(Page(page(made)).text.split())
    assert f"{SHOWN} of {SHOWN + 5} recordings are shown" in text


def test_page_of_a_system_without_any_success_can_be_made(tmp_path: Path) -> None:
    gone = [Recording(id="a", audio=tmp_path / "none.wav", text="", language="en")]
    made = reported(gone, Heard("one", lambda path: "x"), conditions=("noise-10",))
    assert "–" in Page(page(made)).text
    assert "–" in tables(made)


@given(st.lists(st.tuples(st.sampled_from(["equal", "insert"]), st.integers(1, 40)), max_size=6))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_excerpt_leaves_out_right_words_only(stretches: list[tuple[str, int]]) -> None:
    alignment = []
    for kind, count in stretches:
        words = " ".join(map(str, range(count)))
        alignment.append([kind, words if kind == "equal" else "", words])
    kept = sum(
        int(first) if kind == "skip" else len(first.split())
        for kind, first, _ in excerpt(alignment)
    )
    assert kept == sum(count for kind, count in stretches if kind == "equal")
    inserted = [second for kind, _, second in excerpt(alignment) if kind == "insert"]
    assert inserted == [words for kind, _, words in alignment if kind == "insert"]
