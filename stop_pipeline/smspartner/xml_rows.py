"""XML responses: the document around the list, and the rows of the list, a block of text at a time.

All values are in `<entry>` elements and are told apart by their place alone.
"""

import re
from typing import Any
from xml.etree.ElementTree import Element, ParseError
from xml.parsers.expat import ErrorString

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from stop_pipeline.smspartner.envelope import Document, envelope_of_entries, whole_count
from stop_pipeline.smspartner.rows import FIELDS, Rows, check_rows

LIST_BEGINS = re.compile(rb"<result>\s*(?:<entry>[^<]*</entry>\s*){3}<entry>")
LIST_ENDS = b"</entry>"
SEPARATOR = b""

_UNTIL_LAST_ROW = re.compile(rb".*</entry>\s*</entry>", re.DOTALL)
_ENCODING = re.compile(rb"<\?xml[^>]*encoding\s*=\s*[\"']([^\"']+)")


def read_around(before: bytes, after: bytes) -> Document | None:
    """The document with a marker in place of its rows; None if the marker is not where the rows are."""
    encoding = _ENCODING.search(before)
    if encoding and encoding[1].lower() != b"utf-8":
        return None  # a block would be read without the declaration
    document = read_document(before + b"<entry>rows</entry>" + after)
    return document if document.rows == [["rows"]] else None


def last_cut(text: bytes) -> int:
    """Where the last row ends that is seen to end in a text; 0 if none is."""
    found = _UNTIL_LAST_ROW.match(text)
    return found.end() if found else 0


def read_block(block: bytes) -> Rows | None:
    """The rows of a block of the list's text; None if the block is not the content of an element by itself."""
    try:
        root = fromstring(b"<rows>" + block + b"</rows>", forbid_dtd=True)
        rows = [_row(row) for row in root]
    except (ParseError, RecursionError):
        return None
    return None if _text(root) else check_rows(rows)


def read_document(body: bytes) -> Document:
    """The whole document, or why it is not a list."""
    try:
        root = fromstring(body.lstrip(), forbid_dtd=True)  # a blank line of PHP's may come first
        entries = root.findall("entry")
        texts, lists = [_text(entry) for entry in entries], [[_row(row) for row in entry] for entry in entries[3:4]]
    except ParseError as error:
        problem = f"{ErrorString(error.code)} at line {error.position[0]:,}"
    except DefusedXmlException:
        problem = "it declares a document type, which may hide entities"
    except RecursionError:
        problem = "it is nested too deeply"
    except (LookupError, ValueError):
        problem = "its encoding is unknown"
    else:
        if root.tag == "result":
            return _document(texts, lists)
        problem = "its root is not <result>"
    return Document(problem=problem)


def _document(texts: list[str], lists: list[list[Any]]) -> Document:
    """The document whose entries have these texts, and whose fourth one, if any, has these rows."""
    envelope = envelope_of_entries(texts)
    if envelope.success is None:
        return Document(envelope, problem="its first entry is neither true nor false")
    if not lists or texts[3]:
        return Document(envelope, problem="its fourth entry is not a list")
    return Document(envelope, whole_count(texts[2]), lists[0])


def _row(element: Element) -> Any:
    """A row: its fields by name, or whatever is in it."""
    value = _value(element)
    if isinstance(value, list) and len(value) == len(FIELDS) == len(element):
        return dict(zip(FIELDS, value, strict=True))
    return value if isinstance(value, list) else [value] if value else []


def _value(element: Element) -> Any:
    """The text of an element, or the values of its elements, and its own text, if any, after them."""
    values, text = [_value(inner) for inner in element], _text(element)
    return [*values, text] if values and text else values or text


def _text(element: Element) -> str:
    """The text right inside an element, without white space around it."""
    return "".join([element.text or "", *(inner.tail or "" for inner in element)]).strip()
