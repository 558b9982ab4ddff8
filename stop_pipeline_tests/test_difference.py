"""An answer of which only what differs is parsed leaves, to the byte, what it leaves when all of it is parsed."""

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stop_pipeline import engine, frames, pieces, snapshot
from stop_pipeline.difference import difference, shared_pieces
from stop_pipeline.layout import snapshot_file
from stop_pipeline.model import Format, Landed, Snapshot, SnapshotChange
from stop_pipeline.schema import LISTED
from stop_pipeline.store import Store
from stop_pipeline_tests.ticking import IN_MEMORY, Row, Ticker, answer_body, rows, tree

LATE = "2026-01-03 16:30:00"
"""Too late to be believed by the first four ticks."""


@contextmanager
def small_pieces(piece_bytes: int = 4 << 20) -> Iterator[None]:
    """A piece begins with every row whose id ends in 0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "_ROUND", b"0")
        patch.setattr(pieces, "PIECE_BYTES", piece_bytes)
        yield


@contextmanager
def all_parsed() -> Iterator[None]:
    """Every answer is parsed as if no piece of it were known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "shared_pieces", lambda _before, _now: frozenset())
        yield


class Parses:
    """Watches how many rows each parse gave, and how many bytes it was given to read."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Snapshot:
        parsed = snapshot.parse(*args, **kwargs)
        self.rows.append(parsed.rows)
        return parsed


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> Parses:
    watch = Parses()
    monkeypatch.setattr(engine, "parse", watch)
    return watch


# Any answers, in any order.


def _row(number: int, kind: str) -> str:
    good: dict[str, Any] = Row(number, f"+33639980{number:03}", f"2025-{1 + number % 3:02}-01 10:00:00").document()
    by_kind: dict[str, Any] = {
        "plain": good,
        "altered": good | {"phoneNumber": f"+33639990{number:03}"},
        "moved": good | {"createdAt": f"2025-{4 + number % 3:02}-01 10:00:00"},
        "late": good | {"createdAt": LATE},
        "misdated": good | {"createdAt": "0000-00-00 00:00:00"},
        "more": good | {"note": "x"},
        "other": good | {"origin": "y", "note": None},
        "null": None,
        "nested": good | {"more": [good]},
        "same id": good | {"id": 7},
        "unreadable number": good | {"phoneNumber": ""},
    }
    return json.dumps(by_kind[kind])


def _xml_row(number: int, kind: str) -> str:
    """The same in XML, where a row without exactly three entries is malformed."""
    row = json.loads(_row(number, kind)) or {}
    return f"<entry>{''.join(f'<entry>{value}</entry>' for value in row.values())}</entry>"


def _body(form: Format, texts: Sequence[str], nb_data: int) -> bytes:
    if form == "json":
        return f'{{"success": true, "code": 200, "nbData": {nb_data}, "data": [{", ".join(texts)}]}}'.encode()
    entries = f"<entry>true</entry><entry>200</entry><entry>{nb_data}</entry>"
    return f"<result>{entries}<entry>\n{chr(10).join(texts)}\n</entry></result>".encode()


IDS = st.integers(1, 150)
PLAIN = st.just("plain")
HARMLESS = st.sampled_from(["plain", "altered", "moved", "misdated", "null", "unreadable number"])
ANY = st.sampled_from(["plain", "altered", "more", "other", "late", "same id", "nested", "misdated"])


@st.composite
def answers(draw: st.DrawFn) -> list[tuple[Format, bytes]]:
    """Some answers, each like the one before but for a few rows, and now and then for its form."""
    form: Format = draw(st.sampled_from(["json", "json", "xml"]))
    kinds = draw(st.sampled_from([PLAIN, HARMLESS, HARMLESS, ANY]))
    listed = dict.fromkeys(range(1, 151), "plain") | draw(st.dictionaries(IDS, kinds, max_size=4))
    place = dict(enumerate(draw(st.sampled_from([range(151), range(151, 0, -1)]) | st.permutations(range(151)))))
    bodies: list[tuple[Format, bytes]] = []
    for _ in range(draw(st.integers(2, 5))):
        if draw(st.integers(0, 19)) == 19:
            form = "xml" if form == "json" else "json"
        write = {"json": _row, "xml": _xml_row}[form]
        copies = draw(st.dictionaries(IDS, st.integers(2, 3), max_size=2))
        texts = [
            write(number, listed[number])
            for number in sorted(listed, key=place.__getitem__)
            for _ in range(copies.get(number, 1))
        ]
        twice = texts[:1] if draw(st.integers(0, 9)) == 9 else []
        nb_data = len(texts) + len(twice) + (draw(st.integers(0, 4)) == 4)
        bodies.append((form, _body(form, [*texts, *twice], nb_data)))
        listed = listed | draw(st.dictionaries(IDS, kinds, max_size=2))
        for number in draw(st.lists(IDS, max_size=2)):
            listed.pop(number, None)
    return bodies


def _ticked(bodies: Sequence[tuple[Format, bytes]], folder: str) -> dict[str, bytes]:
    ticker = Ticker(Path(folder))
    for form, body in bodies:
        ticker.tick(body, accept_removals=150, answer_format=form)
    return tree(Path(folder))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bodies=answers(), piece_bytes=st.sampled_from([100, 500, 4 << 20]))
@example(bodies=[("json", answer_body(rows(count))) for count in (60, 61, 62)], piece_bytes=4 << 20)
@example(
    bodies=[("xml", _body("xml", [_xml_row(n, "plain") for n in range(1, last)], last - 1)) for last in (90, 95, 93)],
    piece_bytes=4 << 20,
)
def test_what_differs_from_the_answer_before_gives_what_the_whole_answer_gives(
    bodies: list[tuple[Format, bytes]], piece_bytes: int
) -> None:
    with (
        tempfile.TemporaryDirectory(dir=IN_MEMORY) as one,
        tempfile.TemporaryDirectory(dir=IN_MEMORY) as other,
        small_pieces(piece_bytes),
    ):
        differences = _ticked(bodies, one)
        with all_parsed():
            assert differences == _ticked(bodies, other)


ALL = rows(200)
NEW = Row(201, "+33639980201", "2025-06-30 10:00:00")
ALTERED = dataclasses.replace(ALL[104], phone_number="+33639989999")
MALFORMED = {"id": "x", "phoneNumber": "+33639980300"}
"""Without a date."""


def _wrapped(first: int, last: int) -> str:
    """Some of `ALL` as no rows of the list, but within one."""
    texts = [json.dumps(row.document()) for row in ALL]
    wrapping = json.dumps(Row(999).document() | {"more": 0}).removesuffix("0}")
    within = [f"{wrapping}[{', '.join(texts[first:last])}, null]}}"]
    data = ", ".join([*texts[:first], *within, *texts[last:]])
    return f'{{"success": true, "code": 200, "nbData": {len(ALL) + 1 - (last - first)}, "data": [{data}]}}'


def _texts(listed: Sequence[Row]) -> list[str]:
    return [json.dumps(row.document()) for row in listed]


def _with_header(header: list[str], data: list[str], nb_data: int) -> bytes:
    """An answer that has rows, or what looks like some, before its list as well."""
    return (
        f'{{"header": [{", ".join(header)}], "success": true, "code": 200, "nbData": {nb_data}, '
        f'"data": [{", ".join(data)}]}}'
    ).encode()


def _with_number(number: str) -> bytes:
    """An answer with one malformed row, or two whose raw texts are the same though the rows differ."""
    malformed = [f'{{"id": 505, "phoneNumber": {text}, "createdAt": "bad"}}' for text in ('"1e999"', number) if text]
    texts = _texts(ALL)
    data = ", ".join(
        [*texts[:50], malformed[0], *texts[50:], *malformed[1:], texts[0].replace('"id": 1,', '"id": 999,')]
    )
    return f'{{"success": true, "code": 200, "nbData": {201 + len(malformed)}, "data": [{data}]}}'.encode()


def _sequences() -> dict[str, list[bytes]]:
    header, data = _texts(ALL[:30]), _texts(ALL[100:])
    noted: list[Any] = [row.document() | ({"note": "x"} if row.id in (104, 144) else {}) for row in ALL]
    less_noted: list[Any] = [row.document() | ({"note": "x"} if row.id == 144 else {}) for row in ALL]
    twice: list[Any] = [*ALL[:50], MALFORMED, *ALL[50:150], MALFORMED, *ALL[150:]]
    return {
        "a piece becomes part of a row": [answer_body(ALL), _wrapped(109, 119).encode(), answer_body(ALL)],
        "a field is gone": [answer_body(less_noted), answer_body(ALL), answer_body(ALL[1:])],
        "a field is gone from one of two rows": [answer_body(noted), answer_body(less_noted), answer_body(ALL)],
        "a malformed row comes a second time, and one of the two goes": [
            answer_body([*ALL[:50], MALFORMED, *ALL[50:]]),
            answer_body(twice),
            answer_body([*ALL[:150], MALFORMED, *ALL[150:]]),
            answer_body(ALL),
        ],
        "a row comes a second time elsewhere, and one of the two goes": [
            answer_body(ALL),
            answer_body([*ALL[:50], ALL[150], *ALL[50:]]),
            answer_body([*ALL[:50], ALL[150], *ALL[50:150], *ALL[151:]]),
            answer_body([*ALL[:150], *ALL[151:]]),
        ],
        "a row stands three times, in two places, and goes from one": [
            answer_body([*ALL[:50], ALL[150], ALL[150], *ALL[50:]]),
            answer_body(ALL),
        ],
        "a row stands twice in one place, then once, then not": [
            answer_body([*ALL[:150], ALL[150], *ALL[150:]]),
            answer_body(ALL),
            answer_body([*ALL[:150], *ALL[151:]]),
        ],
        "rows of one id stand together, and the one that was kept goes": [
            answer_body([*ALL[:104], ALTERED, *ALL[104:]]),
            answer_body(ALL),
            answer_body([*ALL[:104], ALTERED, *ALL[105:]]),
        ],
        "a malformed row stands twice in one place, then once": [
            answer_body([*ALL[:50], MALFORMED, MALFORMED, *ALL[50:]]),
            answer_body([*ALL[:50], MALFORMED, *ALL[50:]]),
            answer_body(ALL),
        ],
        "rows from before the list come into it": [
            _with_header(header, data, 100),
            _with_header([*header[:9], *header[19:]], [*data[:49], *header[9:19], *data[49:]], 110),
        ],
        "rows of the list come before it": [
            _with_header(header[:9] + header[19:], [*data[:49], *header[9:19], *data[49:]], 110),
            _with_header(header, data, 100),
        ],
        "a malformed row comes that only looks like one that is there": [_with_number(""), _with_number("1e999")],
        "the list becomes empty, and is back": [answer_body(ALL), answer_body([]), answer_body(ALL)],
        "an answer, another, and the first again": [answer_body(ALL), answer_body([*ALL, NEW]), answer_body(ALL)],
    }


@pytest.mark.parametrize("name", _sequences())
def test_these_answers_in_a_row_give_what_they_give_when_each_is_parsed_whole(tmp_path: Path, name: str) -> None:
    bodies = _sequences()[name]
    with small_pieces():
        differences = _ticked([("json", body) for body in bodies], str(tmp_path / "one"))
        with all_parsed():
            assert differences == _ticked([("json", body) for body in bodies], str(tmp_path / "other"))


# How much is parsed.


def _tick_in_small_pieces(ticker: Ticker, listed: Sequence[Row | dict[str, Any]] | bytes, **kwargs: Any) -> None:
    with small_pieces():
        ticker.tick(listed, **kwargs)


@pytest.mark.parametrize(
    "listed",
    [
        [*ALL, NEW],
        [NEW, *ALL],
        [*ALL[:104], NEW, *ALL[104:]],
        [*ALL[:104], *ALL[105:]],
        [*ALL[:104], ALTERED, *ALL[105:]],
        [*ALL[:109], *ALL[110:]],  # its id was round
        [*ALL[109:139], *ALL[:109], *ALL[139:]],  # pieces in another order
        [*ALL[:104], ALL[103], *ALL[104:]],
    ],
    ids=[
        "new at the end",
        "new at the beginning",
        "new between",
        "gone",
        "altered",
        "gone where a piece began",
        "moved",
        "a row twice, one right after the other",
    ],
)
def test_of_a_list_that_hardly_differs_a_few_pieces_are_parsed(
    tmp_path: Path, parses: Parses, listed: list[Row]
) -> None:
    ticker = Ticker(tmp_path)
    _tick_in_small_pieces(ticker, ALL)
    assert parses.rows == [200]
    _tick_in_small_pieces(ticker, listed)
    assert max(parses.rows[1:]) <= 42
    assert sorted(
        ticker.store.tables.stops_columns("main", ["id", "removed_at"])
        .filter(pa.compute.field("removed_at").is_null())["id"]
        .to_pylist()
    ) == sorted({row.id for row in listed})
    _tick_in_small_pieces(ticker, ALL)
    assert max(parses.rows[1:]) <= 42


def test_of_an_xml_list_too_a_few_pieces_are_parsed(tmp_path: Path, parses: Parses) -> None:
    ticker = Ticker(tmp_path)
    for last in (200, 201):
        texts = [_xml_row(number, "plain") for number in range(1, last + 1)]
        _tick_in_small_pieces(ticker, _body("xml", texts, last), answer_format="xml")
    assert parses.rows[0] == 200
    assert max(parses.rows[1:]) <= 42
    assert ticker.store.state("main").counts.new == 1


def test_no_month_is_made_anew_but_those_of_rows_that_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[set[str]]()

    def watched(*args: Any) -> SnapshotChange:
        change = difference(*args)
        made.append(set(change.months))
        return change

    monkeypatch.setattr(engine, "difference", watched)
    over_three_months = [dataclasses.replace(row, created_at=f"2025-{1 + row.id % 3:02}-01 10:00:00") for row in ALL]
    ticker = Ticker(tmp_path)
    _tick_in_small_pieces(ticker, over_three_months)
    _tick_in_small_pieces(ticker, [*over_three_months, NEW])
    _tick_in_small_pieces(ticker, [*over_three_months[1:], NEW])
    assert made == [{"2025-06"}, {"2025-02"}]


def test_a_malformed_row_does_not_make_the_rest_be_parsed_again(tmp_path: Path, parses: Parses) -> None:
    ticker = Ticker(tmp_path)
    _tick_in_small_pieces(ticker, [*ALL[:50], MALFORMED, *ALL[50:]])
    _tick_in_small_pieces(ticker, [*ALL[:50], MALFORMED, *ALL[50:], NEW])
    assert max(parses.rows[1:]) <= 22
    assert ticker.store.tables.read_malformed("main").num_rows == 1


@pytest.mark.parametrize(
    "other",
    [
        [*ALL[:50], ALL[100], *ALL[50:], NEW],
        [*ALL, dataclasses.replace(NEW, id=120)],
        [*ALL, dataclasses.replace(NEW, created_at=LATE)],
        ALL[::-1],
    ],
    ids=["a row twice", "an id twice", "a late row", "another order"],
)
def test_an_answer_that_pieces_do_not_tell_is_parsed_whole_and_so_is_the_next(
    tmp_path: Path, parses: Parses, other: list[Row]
) -> None:
    ticker = Ticker(tmp_path)
    _tick_in_small_pieces(ticker, ALL)
    _tick_in_small_pieces(ticker, other)
    assert parses.rows[-1] == len(other)
    if other != ALL[::-1]:
        _tick_in_small_pieces(ticker, [*other, dataclasses.replace(NEW, id=202)])
        assert parses.rows[-1] == len(other) + 1


def test_what_another_version_of_phonenumbers_read_is_read_again(
    tmp_path: Path, parses: Parses, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticker = Ticker(tmp_path)
    _tick_in_small_pieces(ticker, ALL)
    for room in (engine, snapshot):
        monkeypatch.setattr(room, "READER", "another")
    _tick_in_small_pieces(ticker, [*ALL, NEW])
    assert parses.rows[1:] == [201]


def test_a_snapshot_that_is_not_of_the_answer_before_is_not_built_on(tmp_path: Path, parses: Parses) -> None:
    ticker = Ticker(tmp_path)
    _tick_in_small_pieces(ticker, ALL)
    with small_pieces():
        ticker.fetch(answer_body([*ALL, NEW]))  # and killed before it is parsed
    del parses.rows[:]
    listed = [*ALL, NEW, dataclasses.replace(NEW, id=202)]
    _tick_in_small_pieces(ticker, listed)
    assert parses.rows == [202]


def test_a_snapshot_that_another_process_parsed_meanwhile_is_not_built_on(tmp_path: Path, parses: Parses) -> None:
    ticker = Ticker(tmp_path)
    _tick_in_small_pieces(ticker, ALL)
    with small_pieces():
        ticker.fetch(answer_body([*ALL, NEW]))
        other = Store(tmp_path)
        info = other.snapshot_info("main")
        assert info
        listed = other.tables.read_listed("main", info, "2025-06")
        another = pa.Table.from_pylist(listed.slice(1).to_pylist(), LISTED.arrow)
        with other.locked("main"):
            change = SnapshotChange(
                None,
                dataclasses.replace(info, months={}, listed=199),
                {"2025-06": another},
                other.tables.read_malformed("main"),
            )
            other.tables.write_snapshot("main", change)
        ticker.apply()
    assert ticker.store.tables.months("main")["2025-06"].open_rows == 201


# What is kept of an answer.


def _landed(ticker: Ticker) -> Landed:
    landed = ticker.store.newest_answer(ticker.account)
    assert landed
    return landed


def _frames(ticker: Ticker) -> tuple[frames.Frame, ...]:
    with ticker.store.kept(ticker.account, _landed(ticker)) as known:
        assert known
        return known.frames


def test_an_answer_kept_in_pieces_is_a_file_that_any_program_unpacks(tmp_path: Path) -> None:
    ticker = Ticker(tmp_path)
    _tick_in_small_pieces(ticker, ALL)
    kept = _frames(ticker)
    assert len(kept) == 21
    path = tmp_path / "raw" / "account=main" / _landed(ticker).file
    with pa.input_stream(str(path), compression="zstd") as unpacked:
        assert unpacked.read() == answer_body(ALL)
    # One frame after the other, without the list: what a program sees that stops at the first frame it does not know.
    data = path.read_bytes()[: kept[-1].place[1]]
    with pa.input_stream(pa.BufferReader(data), compression="zstd") as unpacked:
        assert unpacked.read() == answer_body(ALL)


def test_pieces_known_already_are_copied_and_not_compressed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticker = Ticker(tmp_path)
    _tick_in_small_pieces(ticker, ALL)
    before = {frame.piece.name for frame in _frames(ticker)}
    read = list[pieces.Span]()

    def watched(file: Any, span: pieces.Span) -> bytes:
        read.append(span)
        return pieces.read(file, span)

    monkeypatch.setattr(frames, "read", watched)
    _tick_in_small_pieces(ticker, [*ALL, NEW])
    after = _frames(ticker)
    assert len(read) == 2 == len([frame for frame in after if frame.piece.name not in before])
    assert ticker.store.read_answer("main", _landed(ticker).file) == answer_body([*ALL, NEW])


def test_a_damaged_piece_is_not_handed_on(tmp_path: Path) -> None:
    ticker = Ticker(tmp_path)
    _tick_in_small_pieces(ticker, ALL)
    path = tmp_path / "raw" / "account=main" / _landed(ticker).file
    data = bytearray(path.read_bytes())
    data[_frames(ticker)[10].place[0] + 30] ^= 1
    path.write_bytes(data)
    _tick_in_small_pieces(ticker, [*ALL, NEW])
    assert ticker.store.read_answer("main", _landed(ticker).file) == answer_body([*ALL, NEW])
    assert ticker.store.tables.months("main")["2025-06"].open_rows == 201


@pytest.mark.parametrize("what", ["raw", "raw's last piece", "a month of the snapshot"])
def test_what_is_missing_or_damaged_of_the_answer_before_is_not_needed(
    tmp_path: Path, parses: Parses, what: str
) -> None:
    ticker = Ticker(tmp_path)
    month = tmp_path / snapshot_file("main", "2025-06")
    _tick_in_small_pieces(ticker, ALL[1:])
    older = month.read_bytes()
    _tick_in_small_pieces(ticker, ALL)
    raw = tmp_path / "raw" / "account=main" / _landed(ticker).file
    if what == "raw":
        raw.unlink()
    elif what == "a month of the snapshot":
        month.write_bytes(older)
    else:
        data = bytearray(raw.read_bytes())
        data[_frames(ticker)[-1].place[0] + 30] ^= 255
        raw.write_bytes(data)
    _tick_in_small_pieces(ticker, [*ALL, NEW])
    assert parses.rows[-1] == 201
    assert ticker.store.tables.months("main")["2025-06"].open_rows == 201


def test_a_file_that_an_older_version_kept_lists_no_pieces_and_is_replaced_by_one_that_does(
    tmp_path: Path, parses: Parses
) -> None:
    ticker = Ticker(tmp_path)
    _tick_in_small_pieces(ticker, ALL)
    path = tmp_path / "raw" / "account=main" / _landed(ticker).file
    path.write_bytes(pa.compress(answer_body(ALL), codec="zstd", asbytes=True))
    assert _frames(ticker) == ()
    _tick_in_small_pieces(ticker, [*ALL, NEW])
    assert parses.rows == [200, 201]
    assert len(_frames(ticker)) == 21


def test_a_piece_that_unpacks_to_something_else_is_not_taken_for_what_it_was(tmp_path: Path, parses: Parses) -> None:
    ticker = Ticker(tmp_path)
    _tick_in_small_pieces(ticker, ALL)
    original, damaged = tmp_path / "original", tmp_path / "damaged"
    original.write_bytes(answer_body(ALL))
    damaged.write_bytes(
        answer_body([*ALL[:108], dataclasses.replace(ALL[108], created_at="2025-02-01 10:00:00"), *ALL[109:]])
    )
    assert damaged.stat().st_size == original.stat().st_size
    with small_pieces():
        names = pieces.named(original, "json")
    path = tmp_path / "raw" / "account=main" / _landed(ticker).file
    path.unlink()
    frames.compress(damaged, names, None, path)
    _tick_in_small_pieces(ticker, [*ALL[:104], ALTERED, *ALL[105:]])
    assert parses.rows[-1] == 200
    assert sum(month.open_rows for month in ticker.store.tables.months("main").values()) == 200


def test_a_missing_month_of_the_snapshot_is_written_again(tmp_path: Path, parses: Parses) -> None:
    over_three_months = [dataclasses.replace(row, created_at=f"2025-{1 + row.id % 3:02}-01 10:00:00") for row in ALL]
    ticker = Ticker(tmp_path)
    _tick_in_small_pieces(ticker, over_three_months)
    month = tmp_path / snapshot_file("main", "2025-03")
    month.unlink()
    _tick_in_small_pieces(ticker, [*over_three_months, dataclasses.replace(NEW, id=101)])
    assert parses.rows[-1] == 201
    assert month.exists()
    assert ticker.store.tables.read_malformed("main").num_rows == 1


def test_a_snapshot_that_cannot_be_read_does_not_keep_an_answer_from_landing(tmp_path: Path) -> None:
    ticker = Ticker(tmp_path)
    _tick_in_small_pieces(ticker, ALL)
    (tmp_path / snapshot_file("main", "none")).write_bytes(b"no Parquet")
    with small_pieces():
        fetched = ticker.fetch(answer_body([*ALL, NEW]))
    assert fetched.changed
    assert ticker.store.read_answer("main", _landed(ticker).file) == answer_body([*ALL, NEW])


def test_pieces_are_whole_however_little_the_system_reads_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, start: pread(file, min(size, 70_000), start))
    ticker = Ticker(tmp_path)
    ticker.tick(rows(2_000))
    assert ticker.store.read_answer("main", _landed(ticker).file) == answer_body(rows(2_000))


def test_whatever_is_damaged_in_the_list_of_frames_there_is_none_then(tmp_path: Path) -> None:
    ticker = Ticker(tmp_path)
    _tick_in_small_pieces(ticker, ALL)
    size = _frames(ticker)[-1].place[1]
    data = (tmp_path / "raw" / "account=main" / _landed(ticker).file).read_bytes()
    for place in range(size + 8, len(data)):
        with pa.BufferReader(data[:place] + bytes([data[place] ^ 128]) + data[place + 1 :]) as file:
            assert frames.opened(file).frames == ()


@pytest.mark.parametrize("data", [b"", b"STOP", b"\xff\xff\xff\xffSTOP", b"x" * 60 + b"\1\0\0\0STOP"])
def test_bytes_that_list_no_frames_are_taken_for_none(data: bytes) -> None:
    with pa.BufferReader(data) as file:
        assert frames.opened(file).frames == ()


def test_pieces_are_shared_by_name_but_for_the_ends_and_for_what_comes_twice() -> None:
    before, now = [b"a", b"b", b"c", b"d", b"e"], [b"a", b"c", b"x", b"b", b"e"]
    assert shared_pieces(before, now) == {b"b", b"c"}
    assert shared_pieces(before, [b"b", b"c", b"d"]) == {b"c"}
    assert shared_pieces([*before, b"b"], now) == frozenset()
    assert shared_pieces(before, [*now, b"c", b"y"]) == frozenset()
    assert shared_pieces([], now) == shared_pieces(before, []) == frozenset()
