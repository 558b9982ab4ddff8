"""The stand-in responds as the provider documents, its list changes from request to request, and it names nobody."""

import ast
import json
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests
from defusedxml import ElementTree

from stop_pipeline.smspartner import sandbox as sandbox_module
from stop_pipeline.smspartner.sandbox import API_KEY, Format, Sandbox, StopList, today
from stop_pipeline_tests.support.parsing import DATA

UNTIL = date(2026, 3, 1)
NOBODYS = re.compile(
    r"""( \+33 | 0033 | 0 ) ( 63998\d{4} | 700\d{6} )  # Arcep: fiction; begins fourteen-digit numbers only
    | \+447700900\d{3}                                  # Ofcom: drama
    | \+4670174 0 ( 60[5-9] | 6[1-9]\d )                # PTS: fiction
    | \+1 [2-9]\d\d 555 01\d\d                          # NANPA: fiction
    """,
    re.VERBOSE,
)

Row = dict[str, Any]


def body(stop_list: StopList, response_format: Format = "json", day: date | None = None) -> bytes:
    return stop_list.next_response(response_format, today=day)


def rows_of(response: bytes) -> list[Row]:
    rows: list[Row] = json.loads(response)["data"]
    return rows


def get(sandbox: Sandbox, **query: str) -> requests.Response:
    with requests.get(f"{sandbox.base_url}/stop-sms/list", params=query, timeout=10) as response:
        return response


def time_of(row: Row) -> datetime:
    return datetime.fromisoformat(row["createdAt"])


@cache
def history() -> list[list[Row]]:
    """What a client sees in 150 requests."""
    stop_list = StopList(500, seed=3, until=UNTIL)
    return [rows_of(body(stop_list)) for _ in range(150)]


def steps() -> Iterator[tuple[list[Row], list[Row], list[Row]]]:
    """For each two responses in a row: the rows of the first, those that joined, those that left."""
    for before, after in pairwise(history()):
        old, new = {row["id"] for row in before}, {row["id"] for row in after}
        yield before, [row for row in after if row["id"] not in old], [row for row in before if row["id"] not in new]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(rows=300) as sandbox:
        yield sandbox


def test_json_has_the_documented_shape_and_is_the_default(sandbox: Sandbox) -> None:
    response = get(sandbox, apiKey=sandbox.api_key)
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/json")
    document = response.json()
    assert {name: document[name] for name in document if name != "data"} == {
        "success": True,
        "code": 200,
        "nbData": 300,
    }
    assert len(document["data"]) == 300
    for row in document["data"]:
        assert [(name, type(value)) for name, value in row.items()] == [
            ("id", int),
            ("phoneNumber", str),
            ("createdAt", str),
        ]
        assert time_of(row).strftime("%Y-%m-%d %H:%M:%S") == row["createdAt"]


def test_xml_is_the_documented_sample_row_by_row(sandbox: Sandbox) -> None:
    response = get(sandbox, apiKey=sandbox.api_key, _format="xml")
    assert response.headers["Content-Type"].startswith("text/xml")
    masked = re.sub(r"CDATA\[\+\d+]", "CDATA[number]", re.sub(r"\d{4}-\d\d-\d\d [\d:]{8}", "time", response.text))
    assert re.sub(r"<entry>\d{10}<", "<entry>id<", masked).startswith(
        """<?xml version="1.0" encoding="UTF-8"?>
<result>
  <entry>true</entry>
  <entry>200</entry>
  <entry>300</entry>
  <entry>
    <entry>
      <entry>id</entry>
      <entry><![CDATA[number]]></entry>
      <entry><![CDATA[time]]></entry>
    </entry>
"""
    )
    assert len(ElementTree.fromstring(response.content)[3]) == 300


def test_both_formats_hold_the_same_rows_of_the_same_list() -> None:
    document = body(StopList(700), "xml")
    from_xml = [[entry.text for entry in row] for row in ElementTree.fromstring(document)[3]]
    assert from_xml == [[str(row["id"]), row["phoneNumber"], row["createdAt"]] for row in rows_of(body(StopList(700)))]


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ({}, '{"success": false, "code": 1, "message": "Clé API requise"}'),
        ({"apiKey": ""}, '{"success": false, "code": 1, "message": "Clé API requise"}'),
        ({"apiKey": "wrong"}, (DATA / "sample-error.json").read_text(encoding="utf-8").strip()),
        ({"apiKey": "wrong", "_format": "xml"}, (DATA / "sample-error.xml").read_text(encoding="utf-8").strip()),
    ],
)
def test_a_missing_or_wrong_key_is_refused_as_documented(sandbox: Sandbox, query: dict[str, str], body: str) -> None:
    response = get(sandbox, **query)
    assert (response.status_code, response.content.decode()) == (200, body)


def test_another_path_is_not_found_and_another_method_not_allowed(sandbox: Sandbox) -> None:
    with requests.Session() as session:
        assert session.get(f"{sandbox.base_url}/stop-sms/add", timeout=10).status_code == 404
        for method in ("HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            response = session.request(method, f"{sandbox.base_url}/stop-sms/list", data=b"x" * 99, timeout=10)
            assert (response.status_code, response.headers["Allow"]) == (405, "GET")


def test_a_refused_request_does_not_move_the_list(sandbox: Sandbox) -> None:
    for _ in range(20):
        get(sandbox, apiKey="wrong")
    assert get(sandbox, apiKey=API_KEY).json()["nbData"] == 300


def test_the_date_header_is_this_machines_time(sandbox: Sandbox) -> None:
    date_header = parsedate_to_datetime(get(sandbox, apiKey=API_KEY).headers["Date"])
    assert abs(datetime.now(UTC) - date_header) < timedelta(seconds=5)


def test_each_key_opens_its_own_list_and_lists_of_two_seeds_share_no_id() -> None:
    with Sandbox(rows=400, api_keys=["paris", "lyon"]) as sandbox:
        assert sandbox.api_key == "paris"
        paris, lyon = (get(sandbox, apiKey=key).json()["data"] for key in ("paris", "lyon"))
    assert (len(paris), len(lyon)) == (400, 400)
    assert not {row["id"] for row in paris} & {row["id"] for row in lyon}


@pytest.mark.parametrize("rows", [0, 1, 2, 10_001])
def test_the_first_response_holds_exactly_the_rows_asked_for(rows: int) -> None:
    document = json.loads(body(StopList(rows)))
    assert (document["nbData"], len(document["data"])) == (rows, rows)
    assert len(ElementTree.fromstring(body(StopList(rows), "xml"))[3]) == rows


def test_the_same_arguments_and_days_give_the_same_responses() -> None:
    days = [UNTIL + timedelta(days=n // 5) for n in range(30)]
    one, other, different = (StopList(800, seed, until=UNTIL) for seed in (7, 7, 8))
    documents = [body(one, day=day) for day in days]
    assert [body(other, day=day) for day in days] == documents
    assert body(different) != documents[0]


def test_another_process_makes_the_same_list() -> None:
    code = (
        "import sys; from stop_pipeline.smspartner.sandbox import StopList; "
        "sys.stdout.buffer.write(StopList().next_response('xml'))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == body(
        StopList(), "xml"
    )


def test_the_list_grows_by_a_few_rows_at_a_time() -> None:
    assert len(history()[-1]) > len(history()[0]) + 150
    assert all(len(joined) <= 6 for _, joined, _ in steps())


def test_now_and_then_nothing_changes_and_the_response_is_the_same_to_the_byte() -> None:
    stop_list = StopList(500, seed=3, until=UNTIL)
    documents = [body(stop_list) for _ in range(40)]
    unchanged = sum(before == after for before, after in pairwise(documents))
    assert 3 <= unchanged <= 20


def test_now_and_then_a_number_leaves_the_list_and_some_come_back_under_a_new_id() -> None:
    gone: dict[str, int] = {}
    returned = 0
    for _, joined, left in steps():
        returned += sum(row["id"] > gone.get(row["phoneNumber"], row["id"]) for row in joined)
        gone |= {row["phoneNumber"]: row["id"] for row in left}
    assert 10 <= len(gone) <= 60
    assert returned >= 3


def test_no_id_is_given_to_two_opt_outs() -> None:
    seen: dict[int, Row] = {}
    for document in history():
        for row in document:
            assert seen.setdefault(row["id"], row) == row


def test_a_row_can_join_late_with_an_old_date() -> None:
    lateness = [max(map(time_of, before)) - min(map(time_of, joined)) for before, joined, _ in steps() if joined]
    assert max(lateness) > timedelta(hours=6)


def test_a_row_that_joins_is_dated_in_the_48_hours_before_it_is_listed() -> None:
    stop_list = StopList(100, until=UNTIL)
    known = {row["id"] for row in rows_of(body(stop_list))}
    for days in range(0, 120, 3):
        day = UNTIL + timedelta(days=days)
        joined = [row for row in rows_of(body(stop_list, day=day)) if row["id"] not in known]
        assert all(time_of(row).date() == day - timedelta(days=1) for row in joined)
        known |= {row["id"] for row in joined}
    assert len(known) > 150


def test_the_list_ends_with_yesterday_and_reaches_back_for_years(sandbox: Sandbox) -> None:
    times = [time_of(row) for row in get(sandbox, apiKey=API_KEY).json()["data"]]
    assert today() - timedelta(days=30) < max(times).date() < today()
    assert min(times).year < today().year - 2


def test_opt_outs_grow_over_the_years_and_rest_at_night_and_on_sundays() -> None:
    times = [time_of(row) for row in rows_of(body(StopList(20_000, until=UNTIL)))]
    by_year = Counter((UNTIL - timedelta(days=1) - moment.date()).days // 365 for moment in times)
    assert [by_year[year] for year in range(5)] == sorted(by_year.values(), reverse=True)
    by_weekday = Counter(moment.weekday() for moment in times)
    assert by_weekday[6] * 5 < by_weekday[0]
    assert {moment.hour for moment in times} == set(range(7, 24))


def test_campaigns_stand_out() -> None:
    by_day = Counter(time_of(row).date() for row in rows_of(body(StopList(20_000, until=UNTIL))))
    assert max(by_day.values()) > 5 * sorted(by_day.values())[len(by_day) // 2]


def test_every_number_is_from_a_range_that_is_never_a_persons() -> None:
    rows = rows_of(body(StopList(30_000))) + [row for document in history() for row in document]
    numbers = {row["phoneNumber"] for row in rows}
    assert [number for number in numbers if not NOBODYS.fullmatch(number.replace(" ", ""))] == []
    assert any(number.startswith("+33700") for number in numbers)


def test_a_small_list_has_no_french_number_but_the_ones_kept_for_fiction() -> None:
    french = [row for row in rows_of(body(StopList())) if re.match(r"\+33|0", row["phoneNumber"])]
    assert all("63998" in row["phoneNumber"].replace(" ", "") for row in french)


def test_a_few_numbers_are_foreign_or_spelled_nationally() -> None:
    spellings = Counter(re.sub(r"\d", "9", row["phoneNumber"][:4]) for row in rows_of(body(StopList())))
    assert set(spellings) == {"+999", "9999", "99 9"}
    numbers = [row["phoneNumber"] for row in rows_of(body(StopList()))]
    for beginning in ("+44", "+46", "+1", "0033", "0639", "06 39"):
        assert 1 <= sum(number.startswith(beginning) for number in numbers) <= 60


def test_a_few_rows_stand_there_twice_and_a_few_numbers_opted_out_twice() -> None:
    rows = [tuple(row.values()) for row in rows_of(body(StopList()))]
    assert 1 <= len(rows) - len(set(rows)) <= 10
    ids_by_number = Counter(number for _, number, _ in set(rows) if number.startswith("+33"))
    assert 1 <= sum(count > 1 for count in ids_by_number.values()) <= 60
    assert len({row_id for row_id, _, _ in rows}) == len(set(rows))


def test_ids_lie_far_above_the_providers() -> None:
    assert min(row["id"] for row in history()[-1]) > 9_000_000_000


def test_a_long_list_comes_whole_with_its_length() -> None:
    with Sandbox(rows=50_000) as sandbox:
        for response_format in ("json", "xml"):
            response = get(sandbox, apiKey=API_KEY, _format=response_format)
            assert int(response.headers["Content-Length"]) == len(response.content) > 4_000_000
    assert response.content.endswith(b"</result>")


def test_clients_at_the_same_time_get_complete_responses_and_move_the_list_once_each() -> None:
    with Sandbox(rows=2_000, seed=4) as sandbox, ThreadPoolExecutor(4) as clients:
        documents = [document.json() for document in clients.map(lambda _: get(sandbox, apiKey=API_KEY), range(12))]
    assert all(document["nbData"] == len(document["data"]) for document in documents)
    alone = StopList(2_000, seed=4, until=today())
    assert sorted(document["nbData"] for document in documents) == sorted(
        json.loads(body(alone, day=today()))["nbData"] for _ in range(12)
    )


def test_a_closed_sandbox_serves_no_client_that_it_served_before() -> None:
    with requests.Session() as session:
        with Sandbox(rows=10) as sandbox:
            assert session.get(sandbox.base_url, timeout=10).status_code == 404
        with pytest.raises(requests.ConnectionError):
            session.get(sandbox.base_url, timeout=10)
    sandbox.close()  # again does nothing


def test_run_forever_blocks_until_the_sandbox_is_closed() -> None:
    sandbox = Sandbox(rows=10)
    runner = threading.Thread(target=sandbox.run_forever)
    runner.start()
    assert get(sandbox, apiKey=API_KEY).ok
    assert runner.is_alive()
    sandbox.close()
    runner.join(timeout=10)
    assert not runner.is_alive()


def test_a_port_can_be_chosen_and_one_that_is_taken_is_an_error(sandbox: Sandbox) -> None:
    port = int(sandbox.base_url.removesuffix("/v1").rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        Sandbox(rows=10, port=port)
    sandbox.close()
    with Sandbox(rows=10, port=port) as again:
        assert again.base_url == sandbox.base_url


def test_the_key_is_printed_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    with Sandbox(rows=50_000, api_keys=["a-secret-key"]) as sandbox:
        url = f"{sandbox.base_url}/stop-sms/list?apiKey=a-secret-key"
        assert requests.get(url, timeout=10).ok
        assert requests.post(url, timeout=10).status_code == 405
        assert requests.get(url.replace("list", "other"), timeout=10).status_code == 404
        assert requests.request("BREW", url, timeout=10).status_code >= 400
        with requests.get(url, timeout=10, stream=True) as hangs_up_early:
            next(hangs_up_early.iter_content(10))
    assert capfd.readouterr() == ("", "")


def test_it_shares_no_code_with_the_client_and_needs_no_library_but_numpy() -> None:
    imports = list(ast.walk(ast.parse(Path(str(sandbox_module.__file__)).read_text(encoding="utf-8"))))
    modules = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in imports if isinstance(node, ast.ImportFrom)}
    assert {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names} == {
        "numpy",
        "numpy.typing",
    }
