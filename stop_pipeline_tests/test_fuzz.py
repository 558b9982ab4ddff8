"""Any answer: whatever comes, a tick ends in a success that adds up, or in a typed error that changes nothing."""

import gzip
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from stop_pipeline import read_rejected, read_stops, read_stops_per_day, read_suppression_list
from stop_pipeline.errors import ForeignListError, StopPipelineError
from stop_pipeline.model import REASONS, Format
from stop_pipeline.schema import LISTED, REJECTED_ROWS
from stop_pipeline.snapshot import parse
from stop_pipeline_tests.commands import clean_environment
from stop_pipeline_tests.conftest import Figures
from stop_pipeline_tests.loopback import Loopback, reply
from stop_pipeline_tests.ticking import IN_MEMORY, PARIS, START, Ticker, answer_body, rows, tree

NUMBERS_SHOWN = re.compile(r"\d{7,}")
"""A message may hold byte counts and codes, never so many digits in a row."""

# What was there before, and what the provider would list next

KNOWN = [*rows(15), *rows(15, first_id=100, month="2024-02")]
MALFORMED = {"id": 0, "phoneNumber": "+33639989999", "createdAt": "2025-06-01 10:00:00"}
DOCUMENTS = [row.document() for row in KNOWN]
FIELDS = ("id", "phoneNumber", "createdAt")
HUGE_DIGITS = "9" * 5000
BIG = 10_000_000

# Hostile values

IDS: st.SearchStrategy[Any] = (
    st.integers(-5, 130)
    | st.integers()
    | st.sampled_from(
        [2**63 - 1, 2**63, -(2**63), 10**400, True, None, 1.0, 1e300, "7", "07", "-1", "", "1e3", [1], {}]
    )
)
PHONES: st.SearchStrategy[Any] = st.text(max_size=20) | st.sampled_from(
    [
        *("+33639980012", "06 39 98 00 12", "0033639980012", "0692123456", "+447400123456", "+", "00", "36105", "\x00"),
        *(" ", "\ud800", "\u202e+33639980012", "٠٦٣٩٩٨٠٠١٢", "+33" + "6" * 300, 33639980012, 0, None, [], {"a": 1}),
        *("+33639980012,+33639980013", "+33639980012\n", "\N{FULLWIDTH PLUS SIGN}33639980012", "x" * 100_000),
    ]
)
CLOCKS: st.SearchStrategy[Any] = (
    st.sampled_from(
        [
            *(
                "0000-00-00 00:00:00",
                "0000-01-01 00:00:00",
                "0001-01-01 00:00:00",
                "9999-12-31 23:59:59",
                "2025-02-30 10:00:00",
            ),
            *(
                "1999-12-31 23:59:59",
                "2000-01-01 00:00:00",
                "2025-03-30 02:30:00",
                "2025-10-26 02:30:00",
                "2024-02-29 10:00:00",
            ),
            *(
                "2026-01-03 12:59:59",
                "2026-01-04 00:00:00",
                "2025-06-01",
                "2025-06-01T10:00:00",
                "2025-06-01 10:00:00Z",
                "",
            ),
            *(
                "2025-06-01 24:00:00",
                "2025-06-01 10:00:60",
                "99999-01-01 00:00:00",
                "-001-01-01 00:00:00",
                "٢٠٢٥-06-01 10:00:00",
            ),
            *(None, 0, 20250601100000, 1e18, [], {}, "\ud800", "2025-06-01 10:00:00\x00", "x" * 100_000),
        ]
    )
    | st.datetimes().map(lambda moment: f"{moment:%Y-%m-%d %H:%M:%S}")
    | st.text(max_size=20)
)
ANY: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
HOSTILE_ROWS: st.SearchStrategy[Any] = (
    st.fixed_dictionaries({"id": IDS, "phoneNumber": PHONES, "createdAt": CLOCKS})
    | st.fixed_dictionaries({}, optional={"id": IDS, "phoneNumber": PHONES, "createdAt": CLOCKS, "x": ANY})
    | st.tuples(st.sampled_from(DOCUMENTS), st.sampled_from(FIELDS), IDS | PHONES | CLOCKS | ANY).map(
        lambda change: change[0] | {change[1]: change[2]}
    )
    | st.sampled_from(DOCUMENTS)
    | ANY
)
KEPT = st.sampled_from([0, 5, 24, 29, 30, 30, 30, 30])
LISTS = st.tuples(KEPT, st.lists(HOSTILE_ROWS, max_size=8)).map(lambda parts: DOCUMENTS[: parts[0]] + parts[1])
ABSENT = object()
AROUND: dict[str, st.SearchStrategy[Any]] = {
    "success": st.sampled_from([True] * 40 + [False, None, "true", 1, ABSENT]),
    "code": st.sampled_from([200] * 80 + ["200", 1, 10, 96, 500, 201, 0, -1, 10**400, 1.5, None, [], ABSENT]),
    "nbData": st.sampled_from([None] * 6 + [0, -1, "30", 10**400, 1.5, [], {}, True, ABSENT]),
}


@dataclass(frozen=True)
class Fuzzed:
    """An answer, and how it came about."""

    kind: str
    format: Format
    body: bytes = field(repr=False)

    def __repr__(self) -> str:
        return f"Fuzzed({self.kind!r}, {self.format!r}, {self.body[:2000]!r}, of {len(self.body)} bytes)"


def as_json(listed: Any, around: dict[str, Any]) -> bytes:
    count = len(listed) if isinstance(listed, list) else 0
    head = {"nbData": count if around.get("nbData") is None else around["nbData"]}
    document = {**around, **head, "data": listed}
    document = {name: value for name, value in document.items() if value is not ABSENT}
    return json.dumps(document, ensure_ascii=bool(count % 2)).encode("utf-8", "surrogatepass")


def as_xml(listed: list[Any], around: dict[str, Any]) -> bytes:
    def entry(value: Any) -> str:
        if isinstance(value, dict):
            return f"<entry>{''.join(map(entry, value.values()))}</entry>"
        if isinstance(value, list):
            return f"<entry>{''.join(map(entry, value))}</entry>"
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if len(text) % 3 == 0:
            return f"<entry>\n<![CDATA[{text.replace(']]>', '')}]]>\n</entry>"
        return f"<entry>\n  {escape(text)}\n</entry>"

    count = len(listed) if around.get("nbData") is None else around["nbData"]
    around = {"success": around["success"], "code": around["code"], "nbData": count}
    head = "".join(entry(value) for value in around.values() if value is not ABSENT)
    body = "".join(entry(row) for row in listed)
    document = f'<?xml version="1.0" encoding="UTF-8"?>\n<result>{head}<entry>{body}</entry></result>'
    return document.encode("utf-8", "surrogatepass")


@st.composite
def hostile_values(draw: st.DrawFn) -> Fuzzed:
    """Well-formed, with wrong values anywhere."""
    answer_format: Format = draw(st.sampled_from(["json", "json", "xml"]))
    around = draw(st.fixed_dictionaries(AROUND))
    listed = draw(LISTS)
    if answer_format == "xml":
        return Fuzzed("hostile values", "xml", as_xml(listed, around))
    return Fuzzed("hostile values", "json", as_json(draw(ANY) if draw(st.integers(0, 9)) == 0 else listed, around))


JSON_PIECES = [
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b'"',
        b"\\",
        b"\\ud800",
        b"\\u0000",
        b"\x00",
        b"\xff",
        b"\xc3\x28",
        b"\xed\xa0\x80",
    ),
    *(
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"-0",
        b"0x1",
        b"null",
        b"true",
        b"\xef\xbb\xbf",
        HUGE_DIGITS.encode(),
    ),
    *(
        b'"id":1,',
        b'"id":1,"id":2,',
        b'"data":[],',
        b'"success":false,',
        b'"code":10,',
        b"[" * 3000,
        b'{"a":' * 3000,
        b"/**/",
    ),
]
XML_PIECES = [
    *(
        b"<entry>",
        b"</entry>",
        b"<entry/>",
        b"<!DOCTYPE result>",
        b"&lt;",
        b"&#0;",
        b"&#x10FFFF;",
        b"&xxe;",
        b"<![CDATA[",
        b"]]>",
    ),
    *(
        b"]]]]><![CDATA[>",
        b"<![CDATA[]]>",
        b"<![CDATA[<entry>]]>",
        b"<!-- x -->",
        b"<?php ?>",
        b"\x00",
        b"\xff",
        b"\xed\xa0\x80",
    ),
    *(
        b'<a xmlns="urn:x"/>',
        b"<entry>" * 3000,
        b"<result>",
        b"</result>",
        b"\xef\xbb\xbf",
        b"<![CDATA[" + b"]" * 99,
        b"&amp;" * 99,
    ),
]


@st.composite
def broken_bytes(draw: st.DrawFn) -> Fuzzed:
    """A document that was whole: cut anywhere, bytes turned, pieces put in, pieces doubled."""
    answer_format: Format = draw(st.sampled_from(["json", "json", "xml"]))
    listed = [*DOCUMENTS[: draw(KEPT)], MALFORMED]
    around = {"success": True, "code": 200, "nbData": None}
    body = bytearray(as_xml(listed, around) if answer_format == "xml" else as_json(listed, around))
    pieces = XML_PIECES if answer_format == "xml" else JSON_PIECES
    for _ in range(draw(st.integers(1, 4))):
        where = draw(st.integers(0, len(body)))
        match draw(st.sampled_from(["cut", "turn", "put in", "take out", "double"])):
            case "cut":
                del body[where:]
            case "turn" if where < len(body):
                body[where] ^= 1 << draw(st.integers(0, 7))
            case "put in":
                body[where:where] = draw(st.sampled_from(pieces) | st.binary(max_size=8))
            case "take out":
                del body[where : where + draw(st.integers(1, 60))]
            case _:
                body[where:where] = body[where : where + draw(st.integers(1, 200))]
    return Fuzzed("broken bytes", answer_format, bytes(body))


def bomb(depth: int = 30) -> bytes:
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, depth))
    return (
        f'<?xml version="1.0"?><!DOCTYPE result [<!ENTITY e0 "x">{entities}]><result>&e{depth - 1};</result>'.encode()
    )


def deep(opening: str, closing: str, depth: int, listed: bool) -> bytes:  # noqa: FBT001
    nested = opening * depth + closing * depth
    return (f'{{"success":true,"code":200,"nbData":1,"data":[{nested}]}}' if listed else nested).encode()


def xml_of(inner: str, *, head: str = "", encoding: str = "UTF-8") -> bytes:
    return (
        f'<?xml version="1.0" encoding="{encoding}"?>{head}<result><entry>true</entry><entry>200</entry>'
        f"<entry>1</entry><entry>{inner}</entry></result>"
    ).encode("latin-1")


XML_ROW = "<entry><entry>1</entry><entry>+33639980001</entry><entry>2025-06-02 10:00:00</entry></entry>"
WHOLE = answer_body(DOCUMENTS)
SPECIAL: list[Fuzzed] = [
    *(Fuzzed("entity bomb", "xml", bomb(depth)) for depth in (2, 5, 30)),
    *(
        Fuzzed("external entity", "xml", xml_of(XML_ROW.replace("+33639980001", "&x;"), head=head))
        for head in (
            '<!DOCTYPE result [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
            '<!DOCTYPE result [<!ENTITY x SYSTEM "http://127.0.0.1:1/">]>',
            '<!DOCTYPE result SYSTEM "file:///etc/passwd">',
            '<!DOCTYPE result [<!ENTITY % x SYSTEM "file:///etc/passwd"> %x;]>',
        )
    ),
    *(
        Fuzzed("CDATA", "xml", xml_of(XML_ROW.replace("+33639980001", text)))
        for text in (
            "<![CDATA[+33639980001]]>",
            "<![CDATA[+3363]]><![CDATA[9980001]]>",
            "<![CDATA[<entry>1</entry>]]>",
            "<![CDATA[]]]]><![CDATA[>]]>",
            "<![CDATA[]]>",
            "<![CDATA[ ]]>",
            "<![CDATA[+33639980001",
            "]]>",
            "<![CDATA[a]]>+33639980001<!-- --><![CDATA[b]]>",
        )
    ),
    *(
        Fuzzed("encoding", "xml", xml_of(XML_ROW, encoding=name))
        for name in ("UTF-16", "latin-1", "nonsense", "UTF-7", "")
    ),
    Fuzzed("encoding", "xml", xml_of(XML_ROW).decode().replace("UTF-8", "UTF-16").encode("utf-16")),
    *(Fuzzed("encoding", "json", WHOLE.decode().encode(name)) for name in ("utf-16", "utf-32", "utf-8-sig", "utf-7")),
    Fuzzed("two marks", "json", b"\xef\xbb\xbf\xef\xbb\xbf" + WHOLE),
    *(
        Fuzzed("depth", "json", deep("[", "]", depth, listed))
        for depth in (50, 900, 5_000, 200_000)
        for listed in (True, False)
    ),
    *(Fuzzed("depth", "json", deep('{"a":', "}", depth, listed=True)) for depth in (900, 100_000)),
    *(Fuzzed("depth", "json", deep('{"a":[', "]}", depth, listed=True)) for depth in (100, 300, 100_000)),
    *(Fuzzed("depth", "xml", xml_of("<entry>" * depth + "</entry>" * depth)) for depth in (50, 900, 5_000, 200_000)),
    *(
        Fuzzed(
            "digits", "json", as_json([DOCUMENTS[0] | {"id": 7}], {"success": True, "code": 200}).replace(b"7", text)
        )
        for text in (b"9" * 4301, b"9" * 100_000, b"-7", b"7e2", b"7.0", b"1e-9999", b"NaN")
    ),
    *(Fuzzed("blank", f, body) for f in ("json", "xml") for body in (b"", b" ", b"\n", b"\x00", b"\xef\xbb\xbf")),
    Fuzzed("duplicate keys", "json", WHOLE.replace(b'"id": 1,', b'"id": 2, "id": 1,', 1)),
    Fuzzed("duplicate keys", "json", WHOLE[:-1] + b', "data": []}'),
    Fuzzed("duplicate keys", "json", WHOLE[:-1] + b', "success": false}'),
    Fuzzed("two documents", "json", WHOLE + WHOLE),
    Fuzzed("other format", "json", xml_of(XML_ROW)),
    Fuzzed("other format", "xml", WHOLE),
]

GIANTS: list[Fuzzed] = [
    *(
        Fuzzed(
            "10 MB",
            "json",
            as_json([*DOCUMENTS, DOCUMENTS[0] | {"id": 900, name: "7" * BIG}], {"success": True, "code": 200}),
        )
        for name in FIELDS
    ),
    Fuzzed("10 MB", "json", as_json([*DOCUMENTS, "é" * (BIG // 2)], {"success": True, "code": 200})),
    Fuzzed("10 MB", "json", as_json([DOCUMENTS[0] | {"x" * BIG: 1}], {"success": True, "code": 200})),
    Fuzzed("10 MB", "json", as_json([], {"success": False, "code": 10, "message": "x" * BIG})),
    Fuzzed("10 MB", "json", b" " * BIG + WHOLE),
    Fuzzed("10 MB", "xml", xml_of(XML_ROW.replace("+33639980001", "7" * BIG))),
    Fuzzed("10 MB", "xml", xml_of(XML_ROW.replace("+33639980001", "&lt;" * (BIG // 4)))),
    Fuzzed("10 MB", "xml", xml_of("<entry/>" * (BIG // 40))),
]

ANSWERS: st.SearchStrategy[Fuzzed] = (
    hostile_values()
    | broken_bytes()
    | st.sampled_from(SPECIAL)
    | st.binary(max_size=300).map(lambda b: Fuzzed("noise", "json", b))
)

# How each must end

Ending = Literal["success", "error"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a history: rows of two months, one that ended, a malformed one."""
    root = tmp_path_factory.mktemp("fuzz") / "data"
    ticker = Ticker(root, start=START - timedelta(days=1))
    ticker.tick([*KNOWN, MALFORMED, DOCUMENTS[0] | {"id": 700}])
    ticker.tick([*KNOWN, MALFORMED])
    return root


@contextmanager
def copy_of(base: Path) -> Iterator[Path]:
    """A copy of a data root; in memory where the system has a place for that, since only the order of calls matters."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        yield Path(shutil.copytree(base, Path(folder, "data")))


def assert_plain(error: StopPipelineError) -> None:
    message = str(error)
    assert message
    assert "\n" not in message
    assert len(message) < 600
    assert not NUMBERS_SHOWN.search(message.replace(",", "")), message
    assert error.__cause__ is None


def parsed(fuzzed: Fuzzed) -> Ending:
    """Parse alone: a snapshot that adds up, or one plain sentence."""
    with tempfile.NamedTemporaryFile(dir=IN_MEMORY) as file:
        file.write(fuzzed.body)
        file.flush()
        try:
            snapshot = parse(Path(file.name), fuzzed.format, fetched_at=START, timezone=PARIS)
        except StopPipelineError as error:
            assert_plain(error)
            return "error"
    assert snapshot.rows == snapshot.listed.num_rows + snapshot.rejected.num_rows + snapshot.duplicates
    assert snapshot.listed.schema.equals(LISTED.arrow)
    assert snapshot.rejected.schema.equals(REJECTED_ROWS.arrow)
    snapshot.listed.validate(full=True)
    snapshot.rejected.validate(full=True)
    ids = snapshot.listed["id"].to_pylist()
    assert len(set(ids)) == len(ids)
    assert set(snapshot.rejected["reason"].to_pylist()) <= set(REASONS)
    return "success"


TYPES = [
    "category",
    "category",
    "int64",
    "str",
    "str",
    *["datetime64[us, UTC]"],
    "datetime64[us]",
    *["datetime64[us, UTC]"] * 2,
]


def ticked(base: Path, fuzzed: Fuzzed) -> Ending:
    """A whole tick on a data root with a history, then the list as it was: the pipeline goes on after anything."""
    with copy_of(base) as root:
        ticker, before = Ticker(root), tree(root)
        committed = read_stops(root, history=True)
        ending: Ending = "success"
        try:
            applied = ticker.tick(fuzzed.body, answer_format=fuzzed.format)
        except ForeignListError as error:  # it is an answer, and landed as such; no table has changed
            assert_plain(error)
            ending = "error"
            tables = ("stops", "rejected", "state", "suppression_list", "stops_per_day")
            unchanged = {name: data for name, data in before.items() if name.startswith(tables)}
            assert tree(root, *tables) == unchanged
        except StopPipelineError as error:
            assert_plain(error)
            ending = "error"
            assert tree(root) == before
        else:
            info, counts = applied.info, applied.state.counts
            assert info.rows == info.listed + info.duplicates + info.rejected
            assert counts.listed == info.listed
            assert counts.new + counts.changed + counts.restored + counts.unchanged == counts.listed
            assert applied.state.figures.doubled_open_ids == 0 or counts.withheld
            assert applied.state.figures.nulls == 0
            assert applied.state.figures.open_rows == len(read_stops(root))
            assert len(read_rejected(root)) >= info.rejected
            history = read_stops(root, history=True)
            assert [str(dtype) for dtype in history.dtypes] == TYPES
            assert set(committed["id"]) <= set(history["id"]), "a committed row is gone"
            if not info.whole:
                assert counts.removed == 0
                assert set(read_stops(root)["id"]) >= set(committed[committed["removed_at"].isna()]["id"])
            numbers = {*read_stops(root)["phone_number"], *read_rejected(root)["phone_number"].dropna()}
            assert set(read_suppression_list(root)["phone_number"]) == numbers
            read_stops_per_day(root)
        assert not list((root / ".work").glob("account=main/*"))

        again = ticker.tick([*KNOWN, MALFORMED], accept_removals=100)
        assert again.state.figures.open_rows == len(KNOWN)
        assert read_stops(root)["id"].tolist() == sorted(
            [row.id for row in KNOWN], key=lambda row_id: (row_id < 100, _day(row_id), row_id)
        )
        return ending


def _day(row_id: int) -> str:
    return next(row.created_at for row in KNOWN if row.id == row_id)


def fuzz(examples: int, ends: Callable[[Fuzzed], Ending], figures: Figures) -> tuple[Counter[Ending], Counter[str]]:
    """Try so many answers; how they ended, and of which kinds they were."""
    endings: Counter[Ending] = Counter()
    kinds: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(ANSWERS)
    def each(fuzzed: Fuzzed) -> None:
        kinds[fuzzed.kind] += 1
        endings[ends(fuzzed)] += 1

    try:
        each()
    finally:
        tried = kinds.total()
        figures.add("answers fuzzed", tried=tried, lost=tried - endings.total())
    return endings, kinds


@pytest.mark.parametrize("examples", [300, pytest.param(9_000, marks=pytest.mark.slow)])
def test_any_answer_is_parsed_into_rows_that_add_up_or_is_a_plain_error(examples: int, figures: Figures) -> None:
    endings, kinds = fuzz(examples, parsed, figures)
    assert endings.total() >= examples
    assert min(endings["success"], endings["error"]) > examples // 10, "most answers are of one kind"
    assert len(kinds) > 5


@pytest.mark.parametrize("examples", [200, pytest.param(2_000, marks=pytest.mark.slow)])
def test_any_answer_makes_a_tick_that_adds_up_or_changes_nothing(examples: int, base: Path, figures: Figures) -> None:
    endings, _ = fuzz(examples, lambda fuzzed: ticked(base, fuzzed), figures)
    assert endings.total() >= examples
    assert min(endings["success"], endings["error"]) > examples // 10, "most answers are of one kind"


@pytest.mark.parametrize("fuzzed", SPECIAL, ids=lambda fuzzed: fuzzed.kind)
def test_answers_known_to_break_parsers_end_well_in_a_whole_tick(fuzzed: Fuzzed, base: Path) -> None:
    ending = ticked(base, fuzzed)
    if fuzzed.kind in ("entity bomb", "external entity", "blank", "two documents", "other format"):
        assert ending == "error"


@pytest.mark.parametrize("fuzzed", GIANTS, ids=lambda fuzzed: f"{fuzzed.format} {fuzzed.kind}")
def test_strings_of_10_mb_end_well_in_a_whole_tick(fuzzed: Fuzzed, base: Path) -> None:
    ticked(base, fuzzed)


@pytest.mark.slow
@pytest.mark.parametrize("answer_format", ["json", "xml"])
def test_an_answer_cut_at_any_byte_changes_nothing(answer_format: Format, base: Path) -> None:
    around = {"success": True, "code": 200, "nbData": None}
    listed = DOCUMENTS[:4]
    body = as_xml(listed, around) if answer_format == "xml" else as_json(listed, around)
    for end in range(len(body)):
        assert ticked(base, Fuzzed("cut", answer_format, body[:end])) == "error"


# Memory

MEMORY_BOUND = 1000
"""MB that a process may hold at most beyond its imports, for answers of up to 50 MB: twenty times their size."""

CHILD = """
import resource, sys
from pathlib import Path
from stop_pipeline.client import StopListClient
from stop_pipeline.errors import StopPipelineError
from stop_pipeline_tests.ticking import Ticker
import stop_pipeline.reading
UNIT = 1 if sys.platform == "darwin" else 1024
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / 1e6
root, what, argument, answer_format = sys.argv[1:]
Ticker(Path(root, "warm")).tick([])
before = peak()
try:
    if what == "http":
        StopListClient("a-key", base_url=argument, max_bytes=50_000_000).fetch(Path(root, "answer"))
    else:
        body = Path(argument)
        Ticker(Path(root, "data")).tick(body.read_bytes(), answer_format=answer_format)
    print("success", peak() - before)
except StopPipelineError as error:
    print("error", peak() - before, error)
"""


def ending_and_peak(folder: Path, what: str, argument: str, answer_format: str = "json") -> tuple[str, float, str]:
    """How a process of its own ends, the MB that it held at most beyond its imports, and its error."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), what, argument, answer_format],
        env=clean_environment(PYTHONPATH=str(Path(__file__).parent.parent)),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    ending, megabytes, *message = done.stdout.split(" ", 2)
    return ending, float(megabytes), "".join(message)


def test_a_compressed_bomb_over_http_stays_within_its_bound(tmp_path: Path) -> None:
    piece = gzip.compress(bytes(16_000_000), 6)
    with Loopback(reply(200, piece * 128, {"Content-Encoding": "gzip"})) as server:
        ending, megabytes, message = ending_and_peak(tmp_path, "http", server.base_url)
    assert ending == "error"
    assert "larger than 50000000 bytes" in message
    assert megabytes < 100
    assert not (tmp_path / "answer").exists()


def large(name: str, answer_format: Format) -> bytes:
    match name, answer_format:
        case "entity bomb", _:
            return bomb()
        case "50 MB phone number", "json":
            return as_json([DOCUMENTS[0] | {"phoneNumber": "7" * 50_000_000}], {"success": True, "code": 200})
        case "50 MB phone number", _:
            return xml_of(XML_ROW.replace("+33639980001", "7" * 50_000_000))
        case "50 MB of brackets", _:
            return b"[" * 50_000_000
        case "50 MB of elements", _:
            return xml_of("<entry>" * 3_000_000 + "</entry>" * 3_000_000)
        case _:
            return as_json([], {"success": False, "code": 10, "message": "x" * 50_000_000})


@pytest.mark.parametrize(
    ("name", "answer_format", "ending"),
    [
        ("entity bomb", "xml", "error"),
        ("50 MB phone number", "json", "success"),
        ("50 MB phone number", "xml", "success"),
        ("50 MB of brackets", "json", "error"),
        ("50 MB of elements", "xml", "error"),
        ("50 MB message", "json", "error"),
    ],
)
def test_an_answer_of_50_mb_stays_within_the_bound(
    name: str, answer_format: Format, ending: Ending, tmp_path: Path
) -> None:
    (tmp_path / "body").write_bytes(large(name, answer_format))
    ended, megabytes, _ = ending_and_peak(tmp_path, "tick", str(tmp_path / "body"), answer_format)
    assert ended == ending
    assert megabytes < MEMORY_BOUND
