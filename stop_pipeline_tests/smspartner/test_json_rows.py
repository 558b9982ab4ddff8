"""Rows that Arrow reads are the rows that Python reads, and no block that could harm Arrow reaches it."""

import json
import math
import random
from typing import Any

import pandas as pd
import pytest

from stop_pipeline.schema import BAD_CREATED_AT
from stop_pipeline.smspartner.json_rows import read_block
from stop_pipeline.smspartner.rows import NumberText, Rows, check_rows, raw_of_fields
from stop_pipeline_tests.support.parsing import NOON, NUMBER


def plain(row_id: object = 1, number: str = NUMBER, created_at: str = NOON) -> str:
    return f'{{"id":{row_id},"phoneNumber":"{number}","createdAt":"{created_at}"}}'


def read_by_python(block: bytes) -> Rows | None:
    """What Python's parser says of a block; None if the block is not a list of rows by itself."""

    def as_float(text: str) -> float | NumberText:
        return float(text) if math.isfinite(float(text)) else NumberText(text)

    def as_object(pairs: list[tuple[str, Any]]) -> Any:
        """Of a key that comes twice, neither value is lost."""
        return dict(pairs) if len({key for key, _ in pairs}) == len(pairs) else [[key, value] for key, value in pairs]

    try:
        rows = json.loads(f"[{block.decode()}]", parse_constant=int, parse_float=as_float, object_pairs_hook=as_object)
    except (ValueError, RecursionError):
        return None
    return check_rows(rows) if rows else None


def read_by_arrow(rows: Rows | None) -> bool:
    """Whether a block was read without making an object of each row: `raw` is null then."""
    return rows is not None and bool(rows.usable["raw"].isna().all())


def rows_of(rows: Rows) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], frozenset[str]]:
    """The rows in a form that can be compared; a blank `createdAt` is malformed, whoever says so."""
    usable = list(rows.usable[["id", "spelling", "created_at_text", "raw"]].itertuples(index=False, name=None))
    full = [(*row[:3], raw_of_fields(*row[:3]) if pd.isna(row[3]) else row[3]) for row in usable]
    blank = [(raw, BAD_CREATED_AT, spelling) for _, spelling, text, raw in full if not text.strip()]
    records = rows.malformed.astype(object).where(rows.malformed.notna(), None)
    malformed = sorted([*records.itertuples(index=False, name=None), *blank], key=lambda row: row[:2])
    return [row for row in full if row[2].strip()], malformed, rows.extra_fields


def assert_same(block: bytes) -> Rows | None:
    """Both readers agree on a block."""
    read, expected = read_block(block), read_by_python(block)
    assert (read is None) == (expected is None), block
    if read is not None and expected is not None:
        assert rows_of(read) == rows_of(expected), block
        assert {name: str(dtype) for name, dtype in read.usable.dtypes.items()} == {
            "id": "int64",
            "spelling": "str",
            "created_at_text": "str",
            "raw": "str",
        }
    return read


# What Arrow reads, and what it never gets


@pytest.mark.parametrize("between", [",", ", "])
def test_rows_as_the_provider_writes_them_are_read_by_arrow(between: str) -> None:
    block = between.join(plain(number) for number in range(1, 200))
    rows = assert_same(block.encode())
    assert read_by_arrow(rows)
    assert rows is not None
    assert rows.usable["id"].tolist() == list(range(1, 200))


ODD = {
    "spaces after colons and commas": plain().replace(":", ": ").replace(",", ", "),
    "fields in another order": '{"createdAt":"","phoneNumber":"}","id":9223372036854775807}',
    "an opening brace in a string": plain(number="{"),
    "the end of a row in a string, half of it": plain(number="},"),
    "the end of the list in a string": plain(number="], [1"),
    "a null row first": f"null,{plain()}",
    "nothing but a null row": "null",
    "a null row last": f"{plain()},null",
    "a null row between": f"{plain()},null,{plain()}",
    "no comma": plain() + plain(),
    "other white space around a comma": f"{plain()} ,\t{plain()},\r {plain()}",
    "a newline in place of a comma": f"{plain()}\n{plain()}",
    "a space in place of a comma": f"{plain()} {plain()}",
    "a comma too many": f"{plain()},,{plain()}",
    "a comma at the end": f"{plain()},",
    "a comma at the beginning": f",{plain()}",
    "braces made up for by a string": f"{plain(number='}' + ',' + '{')}{plain()}",
    "the end of a row in a string": plain(number='"},{"'.replace('"', "'")),
    "the end of a row in a string, alone": plain(number="},{"),
    "the end of a row in a string, with spaces": plain(number="} , {"),
    "a newline in a string": plain(number="1\n2"),
    "a newline between rows": f"{plain()},\n{plain()}",
    "an escaped newline": plain(number="1\\n2"),
    "an escape": plain(number="\\u002b33639980012"),
    "half a surrogate pair": plain(number="\\ud800"),
    "a letter that is not ASCII, or not UTF-8": plain(number="é"),
    "a NUL": plain(number="\x00"),
    "a DEL": plain(number="\x7f"),
    "a repeated key": plain().replace('"id":1', '"id":1,"id":2'),
    "a repeated text key": plain().replace('"phoneNumber"', '"createdAt":"x","phoneNumber"'),
    "a nested object": plain().replace(f'"{NUMBER}"', '{"number":"' + NUMBER + '"}'),
    "a nested object in an unknown field": plain().replace('"id"', '"more":{},"id"'),
    "a nested list": plain().replace(f'"{NUMBER}"', f'["{NUMBER}"]'),
    "a row in a row": plain().replace(f'"{NUMBER}"', plain()),
    "two rows in a row": plain().replace(f'"{NUMBER}"', f"[{plain()},{plain()}]"),
    "an unknown field": plain().replace('"id"', '"more":1,"id"'),
    "a missing field": '{"id":1,"phoneNumber":"1"}',
    "an empty row": "{}",
    "empty rows": "{},{}",
    "a null in a field": plain(row_id="null"),
    "a null number": plain().replace(f'"{NUMBER}"', "null"),
    "a number as an integer": plain().replace(f'"{NUMBER}"', "33639980012"),
    "an id of 0": plain(0),
    "a negative id": plain(-1),
    "a negative zero": plain("-0"),
    "an id out of range": plain(2**63),
    "an id far out of range": plain(10**30),
    "a float id": plain("1.0"),
    "an id with an exponent": plain("1e2"),
    "an id with a leading zero": plain("01"),
    "an id with a plus": plain("+1"),
    "a hexadecimal id": plain("0x1"),
    "NaN": plain("NaN"),
    "an id as text": plain('"1"'),
    "a true id": plain("true"),
    "a blank number": plain(number=" "),
    "an empty number": plain(number=""),
    "white space around a number": plain(number=f" {NUMBER} "),
    "white space around a number of many rows": f"{plain()},{plain(2, number=f' {NUMBER}')},{plain(3)}",
    "a comment": f"/**/{plain()}",
    "a quotation mark missing": plain().replace('"createdAt', "createdAt"),
    "a bracket after a row": f"{plain()}]",
    "a list after a row": f"{plain()},[]",
    "a row, a list, a row": f"{plain()},[{{}}],{plain()}",
    "the end of the list and another": f"{plain()}],[{plain()}",
    "single quotation marks": plain().replace('"', "'"),
    "blank": "",
    "a byte order mark": f"\ufeff{plain()}",
    "a number": "1",
    "a string": '"{}"',
    "a string that ends like a row": '{"id":1},"}',
}


@pytest.mark.parametrize("block", ODD.values(), ids=ODD.keys())
def test_whatever_is_in_a_block_alone_or_between_plain_rows_arrow_and_python_agree_on_it(block: str) -> None:
    for text in (block, f"{plain()},{block},{plain(3)}"):
        for encoding in ("utf-8", "latin-1"):
            assert_same(text.encode(encoding, "replace"))


# Mutants of blocks as the provider writes them

PIECES = [
    *("null,", ",null", "}{", "},{", "} , {", "},\n{", '"},{"', "{}", "{},", "[]", "[", "]", "{", "}", '"', ",", ":"),
    *('"id":2,', '"more":1,', '"more":{},', '"a":{"b":[]},', "],[", '"}', ".0", "e5", "-", "+", "0", "9", "9" * 19),
    *("1" * 19, "9223372036854775807", "9223372036854775808", "true", "NaN", "Infinity", "/**/", "//"),
    *("\\", "\\n", "\\u0041", "\\ud800", "\n", "\r", "\t", " ", "\x00", "\x1f", "\x7f", "é", "\ufeff", "٣"),
    "2024-13-40 99:99:99",
]
NUMBERS = [NUMBER, "0639980012", "+33xxxxxxxxx", "},", "{", "", " ", "},{"]
BYTES = b'{}[]",:\\ \n\r\t\x00\x1f\x7f\xc3\xff0129-+.eEn'


def block_of(chance: random.Random) -> bytes:
    """Up to five rows, most of them plain."""
    written = [
        plain(
            chance.choice([1, 2, 3, 10**6, 2**63 - 1]),
            chance.choice(NUMBERS[: chance.choice([3, 3, 8])]),
            chance.choice([NOON, "2024-02-30 12:00:00", ""]),
        )
        for _ in range(chance.randint(1, 5))
    ]
    return chance.choice([",", ",", ", ", " ,", ",\r", ",\n"]).join(written).encode()


def mutant_of(block: bytes, chance: random.Random) -> bytes:
    """The block with up to three changes."""
    for _ in range(chance.randint(1, 3)):
        at = chance.randint(0, len(block))
        size = chance.choice([1, 1, 2, 5, 20, 80])
        after = block[at + size :]
        match chance.randint(0, 6):
            case 0:  # a byte in place of another
                block = block[:at] + bytes([chance.choice(BYTES)]) + block[at + 1 :]
            case 1:  # a part is missing
                block = block[:at] + after
            case 2:  # a part comes twice
                block = block[:at] + block[at : at + size] * 2 + after
            case 3:  # a piece in place of a part
                block = block[:at] + chance.choice(PIECES).encode() + after
            case 4 if b'"' in block:  # a piece where a value or a key begins or ends
                quotes = [place for place, byte in enumerate(block) if byte in b'",:{}']
                at = chance.choice(quotes) + chance.randint(0, 1)
                block = block[:at] + chance.choice(PIECES).encode() + block[at:]
            case 5 if b"," in block:  # a comma is missing
                commas = [place for place, byte in enumerate(block) if byte in b","]
                at = chance.choice(commas)
                block = block[:at] + block[at + 1 :]
            case _:  # a piece is put in
                block = block[:at] + chance.choice(PIECES).encode() + block[at:]
    return block


@pytest.mark.parametrize("mutants", [1_000, pytest.param(8_000, marks=pytest.mark.slow)])
def test_no_mutant_of_a_block_is_read_otherwise_by_arrow_than_by_python(mutants: int) -> None:
    chance = random.Random(mutants)  # noqa: S311 – not a secret
    by_arrow = by_python = 0
    for _ in range(mutants):
        rows = assert_same(mutant_of(block_of(chance), chance).strip(b" \t\n\r"))
        by_arrow += read_by_arrow(rows)
        by_python += rows is not None and not read_by_arrow(rows)
    assert by_arrow > mutants // 20
    assert by_python > mutants // 20
    assert by_arrow + by_python < mutants * 0.9
