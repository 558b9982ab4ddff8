"""The provider's codes: read in any format and encoding, and turned into the error that they stand for."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stop_pipeline.errors import ApiError, KeyRefusedError, TransientApiError
from stop_pipeline.smspartner.envelope import Envelope, read_envelope, refusal
from stop_pipeline_tests.support.parsing import DATA

JSON_ERROR, XML_ERROR = ((DATA / f"sample-error.{form}").read_bytes().strip() for form in ("json", "xml"))
XML_LIST = (DATA / "sample-list.xml").read_bytes()
BILLION_LAUGHS = b"""<!DOCTYPE result [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<result><entry>false</entry><entry>10</entry><entry>&b;</entry></result>"""


DOCUMENTED = Envelope(success=False, code=10, message="Clé API incorrecte")


@pytest.mark.parametrize("body", [JSON_ERROR, XML_ERROR], ids=["JSON", "XML"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "iso-8859-1", "iso-8859-15", "cp1252", "utf-16", "utf-16-be"]
)
def test_the_documented_error_is_read_alike_in_both_formats_and_any_encoding(body: bytes, encoding: str) -> None:
    assert read_envelope(body.decode().encode(encoding)) == DOCUMENTED


@pytest.mark.parametrize("encoding", ["cp437", "mac-roman", "utf-7"])
def test_an_encoding_that_cannot_be_told_costs_letters_of_the_message_only(encoding: str) -> None:
    envelope = read_envelope(JSON_ERROR.decode().encode(encoding)) or Envelope()
    assert (envelope.success, envelope.code) == (False, 10)


def test_a_notice_of_php_before_or_after_the_document_does_not_hide_a_refusal() -> None:
    notice = b"<br />\n<b>Deprecated</b>: strlen() in <b>/www/list.php</b> on line <b>7</b><br />\n"
    assert read_envelope(notice + JSON_ERROR) == DOCUMENTED
    assert read_envelope(JSON_ERROR + b"\n" + notice) == DOCUMENTED


def test_the_envelope_of_a_list_is_read_and_is_no_refusal() -> None:
    assert read_envelope(XML_LIST) == Envelope(success=True, code=200, message="3")
    envelope = read_envelope(b'{"success": true, "code": 200, "nbData": 0, "data": []}')
    assert envelope == Envelope(success=True, code=200, message=None)
    assert not envelope.refused


def test_a_code_may_be_a_string_of_digits() -> None:
    assert read_envelope(b'{"success": false, "code": "10"}') == Envelope(success=False, code=10, message=None)


@pytest.mark.parametrize("code", ["true", "10.0", '"1O"', "-1", '"\u00b2"', "[10]", "1234567", '"1234567"', "9" * 4000])
def test_what_is_no_code_is_none(code: str) -> None:
    body = f'{{"success": false, "code": {code}, "message": "no"}}'.encode()
    assert read_envelope(body) == Envelope(success=False, code=None, message="no")


def test_fields_of_another_type_count_as_not_given() -> None:
    body = b'{"success": "false", "code": 10, "message": {"text": "no"}}'
    assert read_envelope(body) == Envelope(success=None, code=10, message=None)
    assert read_envelope(b"<result><entry>no</entry><entry>10</entry></result>") == Envelope(None, 10, None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>502 Bad Gateway</body></html>",
        b"<html><style>p {color: red}</style></html>",
        b"[]",
        b"null",
        b'"false"',
        b"{}",
        b'{"error": "no"}',
        JSON_ERROR[:-1],
        b"[" * 200_000,
        b'{"a": ' * 200_000,
        b'{"success": false, "code": ' + b"9" * 5000 + b"}",
        b"<html><entry>false</entry><entry>10</entry></html>",
        b"<result></result>",
        b"<result><data/></result>",
        XML_ERROR[:-3],
        XML_ERROR + b"<more/>",
        b"<a>" * 50_000,
        BILLION_LAUGHS,
        b'<!DOCTYPE result SYSTEM "http://127.0.0.1/x.dtd"><result><entry>false</entry></result>',
        b'<!DOCTYPE result [<!ENTITY x SYSTEM "file:///etc/passwd">]><result><entry>&x;</entry></result>',
    ],
    ids=lambda body: repr(body[:30]),
)
def test_what_is_not_a_complete_harmless_document_of_that_kind_has_no_envelope(body: bytes) -> None:
    assert read_envelope(body) is None


@given(st.binary() | st.text().map(str.encode) | st.binary().map(lambda noise: XML_ERROR[:60] + noise + XML_ERROR[60:]))
def test_reading_an_envelope_never_raises(body: bytes) -> None:
    read_envelope(body)


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
    envelope = read_envelope(json.dumps(document).encode())
    if envelope is not None:
        message = str(refusal(envelope, status=status))
        assert message.startswith("SMS Partner ")
        assert "\n" not in message
        assert len(message) < 400


@pytest.mark.parametrize(
    ("code", "error", "says"),
    [
        (1, KeyRefusedError, "received no API key"),
        (10, KeyRefusedError, "does not accept the API key"),
        (20, ApiError, "has disabled this account"),
        (30, ApiError, "has blocked this account"),
        (40, ApiError, "denies this account access"),
        (90, ApiError, "says that the request is malformed"),
        (96, ApiError, "does not allow this machine's IP address"),
        (500, TransientApiError, "failed on its side"),
    ],
)
@pytest.mark.parametrize("success", [False, True, None])
@pytest.mark.parametrize("status", [None, 200, 401, 503])
def test_a_documented_code_decides_whatever_success_and_status_say(
    *, code: int, error: type[ApiError], says: str, success: bool | None, status: int | None
) -> None:
    envelope = Envelope(success=success, code=code, message="no")
    assert envelope.refused
    refused = refusal(envelope, status=status)
    assert type(refused) is error
    assert str(refused).startswith(f"SMS Partner {says} (")
    assert f"code {code}" in str(refused)


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (401, KeyRefusedError, "does not accept the API key"),
        (403, ApiError, "denies access"),
        (404, ApiError, "has no such page"),
        (418, ApiError, "refused the request"),
        (408, TransientApiError, "failed on its side"),
        (407, ApiError, "was not reached, because the proxy asks for a password"),
        (429, TransientApiError, "was asked too often"),
        (511, TransientApiError, "was not reached, because this network asks for a log-in"),
        (500, TransientApiError, "failed on its side"),
        (503, TransientApiError, "failed on its side"),
        (200, ApiError, "refused the request"),
        (None, ApiError, "refused the request"),
    ],
)
@pytest.mark.parametrize("code", [None, 7, 200])
def test_without_a_documented_code_the_status_decides(
    code: int | None, status: int | None, error: type[ApiError], says: str
) -> None:
    refused = refusal(Envelope(success=False, code=code, message=None), status=status)
    assert type(refused) is error
    assert str(refused).startswith(f"SMS Partner {says} (")


def test_the_message_gives_status_code_and_what_the_provider_said() -> None:
    assert str(refusal(DOCUMENTED, status=403)) == (
        "SMS Partner does not accept the API key (HTTP 403, code 10, “Clé API incorrecte”): "
        "compare it with the key shown in your SMS Partner account."
    )
    for status in (200, None):
        assert "API key (code 10, “Clé API incorrecte”)" in str(refusal(DOCUMENTED, status=status))


# END
