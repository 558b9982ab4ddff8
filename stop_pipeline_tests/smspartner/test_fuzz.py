"""Any response: whatever comes, a sync ends in rows that add up, or in one plain sentence and changes nothing."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
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
from stop_pipeline.schema import STOPS
from stop_pipeline.settings import Format
from stop_pipeline.smspartner.document import open_list
from stop_pipeline.smspartner.response import parse
from stop_pipeline_tests.conftest import Figures
from stop_pipeline_tests.support.commands import clean_environment
from stop_pipeline_tests.support.parsing import holds_its_promises
from stop_pipeline_tests.support.syncing import IN_MEMORY, PARIS, START, Syncer, response_body, rows, tree

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

ODD_IDS: list[Any] = [2**63 - 1, 2**63, -(2**63), 10**400, True, None, 1.0, 1e300, "7", "07", "-1", "", "1e3", [1], {}]
IDS: st.SearchStrategy[Any] = st.integers(-5, 130) | st.integers() | st.sampled_from(ODD_IDS)
PHONES: st.SearchStrategy[Any] = st.text(max_size=20) | st.sampled_from(
    [
        *("+33639980012", "06 39 98 00 12", "0033639980012", "0692123456", "+447400123456", "+", "00", "36105", "\x00"),
        *(" ", "\ud800", "\u202e+33639980012", "٠٦٣٩٩٨٠٠١٢", "+33" + "6" * 300, 33639980012, 0, None, [], {"a": 1}),
        *("+33639980012,+33639980013", "+33639980012\n", "\N{FULLWIDTH PLUS SIGN}33639980012", "x" * 100_000),
    ]
)
ODD_CLOCKS: list[Any] = [
    *("0000-00-00 00:00:00", "0000-01-01 00:00:00", "0001-01-01 00:00:00", "9999-12-31 23:59:59"),
    *("1999-12-31 23:59:59", "2000-01-01 00:00:00", "2025-03-30 02:30:00", "2025-10-26 02:30:00"),
    *("2024-02-29 10:00:00", "2025-02-30 10:00:00", "2026-01-03 12:59:59", "2026-01-04 00:00:00"),
    *("2025-06-01", "2025-06-01T10:00:00", "2025-06-01 10:00:00Z", "2025-06-01 24:00:00", "2025-06-01 10:00:60"),
    *("99999-01-01 00:00:00", "-001-01-01 00:00:00", "٢٠٢٥-06-01 10:00:00", "2025-06-01 10:00:00\x00", "\ud800", ""),
    *(None, 0, 20250601100000, 1e18, [], {}, "x" * 100_000),
]
CLOCKS: st.SearchStrategy[Any] = (
    st.sampled_from(ODD_CLOCKS)
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
    """A response, and how it came about."""

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
    response_format: Format = draw(st.sampled_from(["json", "json", "xml"]))
    around = draw(st.fixed_dictionaries(AROUND))
    listed = draw(LISTS)
    if response_format == "xml":
        return Fuzzed("hostile values", "xml", as_xml(listed, around))
    return Fuzzed("hostile values", "json", as_json(draw(ANY) if draw(st.integers(0, 9)) == 0 else listed, around))


JSON_PIECES = [
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\ud800", b"\\u0000", b"\x00", b"\xff", b"\xc3\x28"),
    *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"0x1", b"null", b"true", b"/**/", HUGE_DIGITS.encode()),
    *(b'"id":1,', b'"id":1,"id":2,', b'"data":[],', b'"success":false,', b'"code":10,', b"[" * 3000, b'{"a":' * 3000),
    *(b"\xed\xa0\x80", b"\xef\xbb\xbf"),
]
XML_PIECES = [
    *(b"<entry>", b"</entry>", b"<entry/>", b"<entry>" * 3000, b"<result>", b"</result>", b"<!DOCTYPE result>"),
    *(b"&lt;", b"&#0;", b"&#x10FFFF;", b"&xxe;", b"&amp;" * 99, b"<!-- x -->", b"<?php ?>", b'<a xmlns="urn:x"/>'),
    *(b"<![CDATA[", b"]]>", b"]]]]><![CDATA[>", b"<![CDATA[]]>", b"<![CDATA[<entry>]]>", b"<![CDATA[" + b"]" * 99),
    *(b"\x00", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf"),
]


@st.composite
def broken_bytes(draw: st.DrawFn) -> Fuzzed:
    """A document that was complete: cut anywhere, bytes turned, pieces put in, pieces doubled."""
    response_format: Format = draw(st.sampled_from(["json", "json", "xml"]))
    listed = [*DOCUMENTS[: draw(KEPT)], MALFORMED]
    around = {"success": True, "code": 200, "nbData": None}
    body = bytearray(as_xml(listed, around) if response_format == "xml" else as_json(listed, around))
    pieces = XML_PIECES if response_format == "xml" else JSON_PIECES
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
    return Fuzzed("broken bytes", response_format, bytes(body))


def bomb(depth: int = 30) -> bytes:
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, depth))
    return (
        f'<?xml version="1.0"?><!DOCTYPE result [<!ENTITY e0 "x">{entities}]><result>&e{depth - 1};</result>'.encode()
    )


def deep(opening: str, closing: str, depth: int, *, listed: bool) -> bytes:
    nested = opening * depth + closing * depth
    return (f'{{"success":true,"code":200,"nbData":1,"data":[{nested}]}}' if listed else nested).encode()


def xml_of(inner: str, *, head: str = "", encoding: str = "UTF-8") -> bytes:
    return (
        f'<?xml version="1.0" encoding="{encoding}"?>{head}<result><entry>true</entry><entry>200</entry>'
        f"<entry>1</entry><entry>{inner}</entry></result>"
    ).encode("latin-1")


NUMBER = "+33639980001"
XML_ROW = f"<entry><entry>1</entry><entry>{NUMBER}</entry><entry>2025-06-02 10:00:00</entry></entry>"
COMPLETE = response_body(DOCUMENTS)
AROUND_A_LIST = {"success": True, "code": 200}
EXTERNAL = [
    '<!DOCTYPE result [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
    '<!DOCTYPE result [<!ENTITY x SYSTEM "http://127.0.0.1:1/">]>',
    '<!DOCTYPE result SYSTEM "file:///etc/passwd">',
    '<!DOCTYPE result [<!ENTITY % x SYSTEM "file:///etc/passwd"> %x;]>',
]
CDATA = [
    *("<![CDATA[+33639980001]]>", "<![CDATA[+3363]]><![CDATA[9980001]]>", "<![CDATA[<entry>1</entry>]]>"),
    *("<![CDATA[]]]]><![CDATA[>]]>", "<![CDATA[]]>", "<![CDATA[ ]]>", "<![CDATA[+33639980001", "]]>"),
    "<![CDATA[a]]>+33639980001<!-- --><![CDATA[b]]>",
]
DIGITS = [b"9" * 4301, b"9" * 100_000, b"-7", b"7e2", b"7.0", b"1e-9999", b"NaN"]
ROW_7 = as_json([DOCUMENTS[0] | {"id": 7}], AROUND_A_LIST)
SPECIAL: list[Fuzzed] = [
    *(Fuzzed("entity bomb", "xml", bomb(depth)) for depth in (2, 5, 30)),
    *(Fuzzed("external entity", "xml", xml_of(XML_ROW.replace(NUMBER, "&x;"), head=head)) for head in EXTERNAL),
    *(Fuzzed("CDATA", "xml", xml_of(XML_ROW.replace(NUMBER, text))) for text in CDATA),
    *(Fuzzed("encoding", "xml", xml_of(XML_ROW, encoding=e)) for e in ("UTF-16", "latin-1", "nonsense", "UTF-7", "")),
    Fuzzed("encoding", "xml", xml_of(XML_ROW).decode().replace("UTF-8", "UTF-16").encode("utf-16")),
    *(Fuzzed("encoding", "json", COMPLETE.decode().encode(e)) for e in ("utf-16", "utf-32", "utf-8-sig", "utf-7")),
    Fuzzed("two marks", "json", b"\xef\xbb\xbf\xef\xbb\xbf" + COMPLETE),
    *(Fuzzed("depth", "json", deep("[", "]", depth, listed=True)) for depth in (50, 900, 5_000, 200_000)),
    *(Fuzzed("depth", "json", deep("[", "]", depth, listed=False)) for depth in (50, 900, 5_000, 200_000)),
    *(Fuzzed("depth", "json", deep('{"a":', "}", depth, listed=True)) for depth in (900, 100_000)),
    *(Fuzzed("depth", "json", deep('{"a":[', "]}", depth, listed=True)) for depth in (100, 300, 100_000)),
    *(Fuzzed("depth", "xml", xml_of("<entry>" * depth + "</entry>" * depth)) for depth in (50, 900, 50_000)),
    *(Fuzzed("digits", "json", ROW_7.replace(b"7", digits)) for digits in DIGITS),
    *(Fuzzed("blank", f, body) for f in ("json", "xml") for body in (b"", b" ", b"\n", b"\x00", b"\xef\xbb\xbf")),
    Fuzzed("duplicate keys", "json", COMPLETE.replace(b'"id": 1,', b'"id": 2, "id": 1,', 1)),
    Fuzzed("duplicate keys", "json", COMPLETE[:-1] + b', "data": []}'),
    Fuzzed("duplicate keys", "json", COMPLETE[:-1] + b', "success": false}'),
    Fuzzed("two documents", "json", COMPLETE + COMPLETE),
    Fuzzed("other format", "json", xml_of(XML_ROW)),
    Fuzzed("other format", "xml", COMPLETE),
]

GIANT_JSON = [
    *(as_json([*DOCUMENTS, DOCUMENTS[0] | {"id": 900, name: "7" * BIG}], AROUND_A_LIST) for name in FIELDS),
    as_json([*DOCUMENTS, "é" * (BIG // 2)], AROUND_A_LIST),
    as_json([DOCUMENTS[0] | {"x" * BIG: 1}], AROUND_A_LIST),
    as_json([], {"success": False, "code": 10, "message": "x" * BIG}),
    b" " * BIG + COMPLETE,
]
GIANT_XML = [
    xml_of(XML_ROW.replace(NUMBER, "7" * BIG)),
    xml_of(XML_ROW.replace(NUMBER, "&lt;" * (BIG // 4))),
    xml_of("<entry/>" * (BIG // 40)),
]
GIANTS = [
    *(Fuzzed("10 MB", "json", body) for body in GIANT_JSON),
    *(Fuzzed("10 MB", "xml", body) for body in GIANT_XML),
]

RESPONSES: st.SearchStrategy[Fuzzed] = (
    hostile_values()
    | broken_bytes()
    | st.sampled_from(SPECIAL)
    | st.binary(max_size=300).map(lambda b: Fuzzed("noise", "json", b))
)

# How each must end

Ending = Literal["success", "error"]


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """A data root with a history: rows of two months, one that ended, a malformed one."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        syncer = Syncer(Path(folder, "data"), start=START - timedelta(days=1))
        syncer.sync([*KNOWN, MALFORMED, DOCUMENTS[0] | {"id": 700}])
        syncer.sync([*KNOWN, MALFORMED])
        yield syncer.root


def assert_plain(error: StopPipelineError) -> None:
    message = str(error)
    assert message
    assert "\n" not in message
    assert len(message) < 600
    assert not NUMBERS_SHOWN.search(message.replace(",", "")), message
    assert error.__cause__ is None


def parsed(fuzzed: Fuzzed) -> Ending:
    """Parse alone: rows that add up, or one plain sentence."""
    with tempfile.NamedTemporaryFile(dir=IN_MEMORY) as file:
        file.write(fuzzed.body)
        file.flush()
        try:
            snapshot = parse(open_list(Path(file.name), fuzzed.format), fetched_at=START, timezone=PARIS)
        except StopPipelineError as error:
            assert_plain(error)
            return "error"
    holds_its_promises(snapshot)
    return "success"


def synced(base: Path, fuzzed: Fuzzed) -> Ending:
    """A sync of a data root with a history, then of the list as it was: the pipeline goes on after anything."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        root = Path(shutil.copytree(base, Path(folder, "data")))
        syncer, before = Syncer(root), tree(root)
        committed = read_stops(root, history=True)
        kept = False
        try:
            syncer.fetch(fuzzed.body, response_format=fuzzed.format)
            kept = True
            syncer.sync(fuzzed.body, response_format=fuzzed.format)
        except StopPipelineError as error:
            assert_plain(error)
            # A response that is kept may be refused by a later step; the snapshot then may be that of a foreign list.
            moved = (
                ("raw/", "snapshot/") if isinstance(error, ForeignListError) else ("raw/",) if kept else ("nothing",)
            )
            assert unmoved(tree(root), moved) == unmoved(before, moved)
            assert not list((root / ".work").glob("account=main/*"))
            return "error"
        check_tables(syncer, set(committed["id"]), set(committed[committed["removed_at"].isna()]["id"]))
        assert not list((root / ".work").glob("account=main/*"))

        again = syncer.sync([*KNOWN, MALFORMED], accept_removals=100)
        assert again.state.open_rows == len(KNOWN)
        assert read_stops(root)["id"].tolist() == [
            row.id for row in sorted(KNOWN, key=lambda row: (row.created_at, row.id))
        ]
        return "success"


def unmoved(files: dict[str, bytes], moved: tuple[str, ...]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if not name.startswith(moved)}


def check_tables(syncer: Syncer, known: set[int], standing: set[int]) -> None:
    """The tables after a sync that ended well add up with what it says."""
    root, state, info = syncer.root, syncer.store.state("main"), syncer.store.snapshot_info("main")
    assert info is not None
    counts = state.counts
    assert info.rows == info.listed + info.duplicates + info.rejected == state.rows
    assert counts.new + counts.changed + counts.restored + counts.unchanged == counts.listed == info.listed
    assert state.doubled_open_ids == 0 or counts.withheld
    assert state.open_rows == len(read_stops(root))
    assert len(read_rejected(root)) >= info.rejected
    history = read_stops(root, history=True)
    assert {name: str(dtype) for name, dtype in history.dtypes.items()} == {
        "account": "str",
        "created_month": "str",
        **STOPS.dtypes,
    }
    assert known <= set(history["id"]), "a committed row is gone"
    if not info.complete:
        assert counts.removed == 0
        assert set(read_stops(root)["id"]) >= standing
    numbers = {*read_stops(root)["phone_number"], *read_rejected(root)["phone_number"].dropna()}
    suppressed = read_suppression_list(root).set_index("phone_number")["origin"]
    assert set(suppressed[suppressed != "found in text"].index) == numbers
    read_stops_per_day(root)


FEWEST_AT_RANDOM = 500


def fuzz(examples: int, ends: Callable[[Fuzzed], Ending], figures: Figures) -> tuple[Counter[Ending], Counter[str]]:
    """Try so many responses; how they ended, and of which kinds they were."""
    endings: Counter[Ending] = Counter()
    kinds: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=examples < FEWEST_AT_RANDOM,  # of few at random, all can be of one kind
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(RESPONSES)
    def each(fuzzed: Fuzzed) -> None:
        kinds[fuzzed.kind] += 1
        endings[ends(fuzzed)] += 1

    try:
        each()
    finally:
        tried = kinds.total()
        figures.add("responses fuzzed", tried=tried, lost=tried - endings.total())
    return endings, kinds


@pytest.mark.parametrize("examples", [60, pytest.param(1_000, marks=pytest.mark.slow)])
def test_any_response_is_parsed_into_rows_that_add_up_or_is_a_plain_error(examples: int, figures: Figures) -> None:
    endings, kinds = fuzz(examples, parsed, figures)
    assert endings.total() >= examples
    assert min(endings["success"], endings["error"]) > examples // 10, "most responses are of one kind"
    assert len(kinds) > 2


@pytest.mark.parametrize("examples", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_any_response_makes_a_sync_that_adds_up_or_changes_nothing(examples: int, base: Path, figures: Figures) -> None:
    endings, _ = fuzz(examples, lambda fuzzed: synced(base, fuzzed), figures)
    assert endings.total() >= examples
    assert min(endings["success"], endings["error"]) > examples // 10, "most responses are of one kind"


@pytest.mark.parametrize("fuzzed", SPECIAL, ids=lambda fuzzed: fuzzed.kind)
def test_responses_known_to_break_parsers_end_well(fuzzed: Fuzzed) -> None:
    ending = parsed(fuzzed)
    if fuzzed.kind in ("entity bomb", "external entity", "blank", "two documents", "other format"):
        assert ending == "error"


ONE_OF_EACH_KIND = [next(fuzzed for fuzzed in SPECIAL if fuzzed.kind == kind) for kind in {f.kind: 0 for f in SPECIAL}]


@pytest.mark.parametrize(
    "fuzzed",
    [
        pytest.param(fuzzed, marks=[] if any(fuzzed is one for one in ONE_OF_EACH_KIND) else pytest.mark.slow)
        for fuzzed in SPECIAL
    ],
    ids=lambda fuzzed: fuzzed.kind,
)
def test_responses_known_to_break_parsers_end_well_in_a_sync(fuzzed: Fuzzed, base: Path) -> None:
    synced(base, fuzzed)


@pytest.mark.parametrize(
    "fuzzed",
    [pytest.param(fuzzed, marks=pytest.mark.slow if number % 5 else []) for number, fuzzed in enumerate(GIANTS)],
    ids=lambda fuzzed: f"{fuzzed.format} {fuzzed.kind}",
)
def test_strings_of_10_mb_end_well_in_a_sync(fuzzed: Fuzzed, base: Path) -> None:
    synced(base, fuzzed)


@pytest.mark.slow
@pytest.mark.parametrize("response_format", ["json", "xml"])
def test_a_response_cut_at_any_byte_changes_nothing(response_format: Format, base: Path) -> None:
    around = {"success": True, "code": 200, "nbData": None}
    listed = DOCUMENTS[:4]
    body = as_xml(listed, around) if response_format == "xml" else as_json(listed, around)
    for end in range(len(body)):
        assert synced(base, Fuzzed("cut", response_format, body[:end])) == "error"


# Memory

FIFTY_MB = "7" * 50_000_000
MEMORY_BOUND = 1000
"""MB that a process may hold at most beyond its imports, for responses of up to 50 MB: twenty times their size."""

CHILD = """
import resource, sys
from pathlib import Path
from stop_pipeline.errors import StopPipelineError
from stop_pipeline_tests.support.syncing import Syncer
UNIT = 1 if sys.platform == "darwin" else 1024
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT / 1e6
root, body, response_format = sys.argv[1:]
Syncer(Path(root, "warm")).sync([])
before = peak()
try:
    Syncer(Path(root, "data")).sync(Path(body).read_bytes(), response_format=response_format)
    print("success", peak() - before)
except StopPipelineError as error:
    print("error", peak() - before, error)
"""


def ending_and_peak(folder: Path, body: Path, response_format: str) -> tuple[str, float]:
    """How a process of its own ends, and the MB that it held at most beyond its imports."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(body), response_format],
        env=clean_environment(PYTHONPATH=str(Path(__file__).parents[2])),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    ending, megabytes, *_ = done.stdout.split()
    return ending, float(megabytes)


def fifty_mb(response_format: Format, ending: Ending, of: str, body: Callable[[], bytes]) -> Any:
    return pytest.param(response_format, ending, body, id=f"50 MB {of}, {response_format}", marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("response_format", "ending", "body"),
    [
        pytest.param("xml", "error", bomb, id="entity bomb"),
        fifty_mb("json", "success", "phone number", lambda: response_body([DOCUMENTS[0] | {"phoneNumber": FIFTY_MB}])),
        fifty_mb("xml", "success", "phone number", lambda: xml_of(XML_ROW.replace(NUMBER, FIFTY_MB))),
        fifty_mb("json", "error", "of brackets", lambda: b"[" * 50_000_000),
        fifty_mb("xml", "error", "of elements", lambda: xml_of("<entry>" * 3_000_000 + "</entry>" * 3_000_000)),
        fifty_mb("json", "error", "message", lambda: as_json([], {"success": False, "code": 10, "message": FIFTY_MB})),
    ],
)
def test_a_response_of_50_mb_stays_within_the_bound(
    response_format: Format, ending: Ending, body: Callable[[], bytes], tmp_path: Path
) -> None:
    (tmp_path / "body").write_bytes(body())
    ended, megabytes = ending_and_peak(tmp_path, tmp_path / "body", response_format)
    assert ended == ending
    assert megabytes < MEMORY_BOUND
