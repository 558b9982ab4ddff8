import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stop_pipeline.envelope import ERROR_CODES, Envelope, read_envelope, refusal
from stop_pipeline.errors import AccessRefusedError, ApiError, KeyRefusedError, TransientApiError
from stop_pipeline.model import Format

JSON_ERROR = '{"success": false, "code": 10, "message": "Clé API incorrecte"}'.encode()
XML_ERROR = """<?xml version="1.0" encoding="UTF-8"?>
<result>
  <entry>false</entry>
  <entry>10</entry>
  <entry><![CDATA[Clé API incorrecte]]></entry>
</result>
""".encode()
XML_LIST = b"""<?xml version="1.0" encoding="UTF-8"?>
<result>
  <entry>true</entry>
  <entry>200</entry>
  <entry>3</entry>
  <entry>
    <entry><entry>19</entry><entry>+33xxxxxxxxx</entry><entry>2015-07-20 10:19:45</entry></entry>
  </entry>
</result>
"""
BILLION_LAUGHS = b"""<!DOCTYPE result [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<result><entry>false</entry><entry>10</entry><entry>&b;</entry></result>"""


@pytest.mark.parametrize(("body", "answer_format"), [(JSON_ERROR, "json"), (XML_ERROR, "xml")])
def test_the_documented_error_is_read_alike_in_both_formats(body: bytes, answer_format: Format) -> None:
    assert read_envelope(body, answer_format) == Envelope(success=False, code=10, message="Clé API incorrecte")


def test_the_envelope_of_a_list_is_read_and_is_no_refusal() -> None:
    assert read_envelope(XML_LIST, "xml") == Envelope(success=True, code=200, message="3")
    envelope = read_envelope(b'{"success": true, "code": 200, "nbData": 0, "data": []}', "json")
    assert envelope == Envelope(success=True, code=200, message=None)
    assert not envelope.refused


def test_a_code_may_be_a_string_of_digits() -> None:
    assert read_envelope(b'{"success": false, "code": "10"}', "json") == Envelope(success=False, code=10, message=None)


@pytest.mark.parametrize("code", ["true", "10.0", '"1O"', "-1", '"\u00b2"', "[10]", "1234567", "9" * 4000])
def test_what_is_no_code_is_none(code: str) -> None:
    body = f'{{"success": false, "code": {code}, "message": "no"}}'.encode()
    assert read_envelope(body, "json") == Envelope(success=False, code=None, message="no")


def test_fields_of_another_type_count_as_not_given() -> None:
    body = b'{"success": "false", "code": 10, "message": {"text": "no"}}'
    assert read_envelope(body, "json") == Envelope(success=None, code=10, message=None)
    assert read_envelope(b"<result><entry>no</entry><entry>10</entry></result>", "xml") == Envelope(None, 10, None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>502 Bad Gateway</body></html>",
        b"[]",
        b"null",
        b'"false"',
        b"{}",
        b'{"error": "no"}',
        JSON_ERROR[:-1],
        JSON_ERROR + b"}",
        JSON_ERROR.decode().encode("latin-1"),
        JSON_ERROR.decode().encode("utf-16"),
        b"[" * 200_000,
        b'{"success": false, "code": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda body: repr(body[:30]),
)
def test_what_is_no_whole_json_document_of_that_kind_is_none(body: bytes) -> None:
    assert read_envelope(body, "json") is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        JSON_ERROR,
        b"<html><entry>false</entry><entry>10</entry></html>",
        b"<result></result>",
        b"<result><data/></result>",
        XML_ERROR[:-3],
        XML_ERROR + b"<more/>",
        XML_ERROR.decode().encode("latin-1"),
        b"<a>" * 50_000,
        BILLION_LAUGHS,
        b'<!DOCTYPE result SYSTEM "http://127.0.0.1/x.dtd"><result><entry>false</entry></result>',
        b'<!DOCTYPE result [<!ENTITY x SYSTEM "file:///etc/passwd">]><result><entry>&x;</entry></result>',
    ],
    ids=lambda body: repr(body[:30]),
)
def test_what_is_no_whole_harmless_xml_document_of_that_kind_is_none(body: bytes) -> None:
    assert read_envelope(body, "xml") is None


@given(st.binary() | st.text().map(str.encode), st.sampled_from(["json", "xml"]))
def test_reading_an_envelope_never_raises(body: bytes, answer_format: Format) -> None:
    read_envelope(body, answer_format)


_json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries({"success": _json_values, "code": _json_values, "message": _json_values}),
    st.none() | st.integers(100, 599),
)
def test_every_envelope_that_can_be_read_can_be_refused_in_one_line(document: object, status: int | None) -> None:
    envelope = read_envelope(json.dumps(document).encode(), "json")
    if envelope is not None:
        message = str(refusal(envelope, status=status))
        assert message.startswith("SMS Partner ")
        assert "\n" not in message
        assert len(message) < 400


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (1, KeyRefusedError),
        (10, KeyRefusedError),
        (20, AccessRefusedError),
        (30, AccessRefusedError),
        (40, AccessRefusedError),
        (90, AccessRefusedError),
        (96, AccessRefusedError),
        (500, TransientApiError),
    ],
)
@pytest.mark.parametrize("success", [False, True, None])
@pytest.mark.parametrize("status", [None, 200, 401, 503])
def test_a_documented_code_decides_whatever_success_and_status_say(
    *, code: int, error: type[ApiError], success: bool | None, status: int | None
) -> None:
    envelope = Envelope(success=success, code=code, message="no")
    assert envelope.refused
    assert code in ERROR_CODES
    refused = refusal(envelope, status=status)
    assert type(refused) is error
    assert f"code {code}" in str(refused)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, KeyRefusedError),
        (403, AccessRefusedError),
        (404, AccessRefusedError),
        (418, AccessRefusedError),
        (408, TransientApiError),
        (429, TransientApiError),
        (500, TransientApiError),
        (503, TransientApiError),
        (200, AccessRefusedError),
        (None, AccessRefusedError),
    ],
)
@pytest.mark.parametrize("code", [None, 7, 200])
def test_without_a_documented_code_the_status_decides(
    code: int | None, status: int | None, error: type[ApiError]
) -> None:
    assert type(refusal(Envelope(success=False, code=code, message=None), status=status)) is error


def test_the_message_gives_status_code_and_what_the_provider_said() -> None:
    envelope = read_envelope(JSON_ERROR, "json")
    assert envelope is not None
    assert str(refusal(envelope, status=403)) == (
        "SMS Partner does not accept the API key (HTTP 403, code 10, “Clé API incorrecte”): "
        "compare the API key with the one that your account there shows."
    )
    assert "HTTP" not in str(refusal(envelope, status=200))
    assert "HTTP" not in str(refusal(envelope))


def test_the_message_masks_phone_numbers_that_the_provider_mentions() -> None:
    refused = refusal(Envelope(success=False, code=None, message="no such number: +33612345678"))
    assert "+33612345678" not in str(refused)
    assert "no such number: +•••••••••••" in str(refused)
