"""The key and the numbers stay inside: a sentinel key is run through every failure, then searched for everywhere.

At log level DEBUG, with every logger handed to Dagster: whatever a library says of a request is kept, and searched.
"""

import gzip
import html
import io
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
from dagster_graphql.client.query import METADATA_ENTRY_FRAGMENT, RUN_EVENTS_QUERY

from stop_pipeline_tests.conftest import Figures
from stop_pipeline_tests.support.commands import COMMAND, clean_environment, wait_until
from stop_pipeline_tests.support.loopback import Exchange, Loopback, Script, reply, reply_json
from stop_pipeline_tests.support.syncing import response_body

KEY = "S3ntinel/Kx7qz+öäWvb&=Tj4mPh%Yd9fGc"
PART_LENGTH = 8
"""A piece of the key of so many characters is as much a leak as the key: eight fit no other word here."""

LISTED = {"id": 1, "phoneNumber": "+33639982741", "createdAt": "2025-06-01 10:00:00"}
NATIONAL = {"id": 2, "phoneNumber": "06 39 98 53 17", "createdAt": "2025-06-02 10:00:00"}
MALFORMED = {"id": 0, "phoneNumber": "00 33 6 39 98 86 42", "createdAt": "2025-06-03 10:00:00"}
RESPONSE = response_body([LISTED, NATIONAL, MALFORMED])
NUMBERS = [
    b"+33639982741",
    b"639982741",
    b"639985317",
    b"06 39 98 53 17",
    b"39 98 53 17",
    b"639988642",
    b"00 33 6 39 98 86 42",
    b"39 98 86 42",
]
TABLES_WITH_NUMBERS = {"raw", "snapshot", "stops", "rejected", "suppression_list"}

EVERYTHING_IS_LOGGED = """\
telemetry: {enabled: false}
nux: {enabled: false}
python_logs: {managed_python_loggers: [root], python_log_level: DEBUG}
"""

# Where to look


def spellings(key: str) -> set[bytes]:
    """The key as a text, a URL, JSON, HTML, a repr, and a URL within a URL may spell it, in lower case."""
    texts = {key, quote(key), quote(key, safe=""), quote_plus(key)}
    texts |= {quote(text, safe="") for text in texts}
    texts |= {json.dumps(text)[1:-1] for text in texts} | {html.escape(text) for text in texts}
    texts |= {ascii(text)[1:-1] for text in texts}
    return {text.encode().lower() for text in texts} | {key.encode("latin-1").lower()}


def parts(key: str) -> tuple[set[bytes], set[bytes]]:
    """Every part of a leak's length, and shorter pieces of which each such part holds at least one."""
    short = PART_LENGTH // 2 + 1
    forms = spellings(key)
    return (
        {form[i : i + PART_LENGTH] for form in forms for i in range(len(form) - PART_LENGTH + 1)},
        {form[i : i + short] for form in forms for i in range(0, len(form) - short + 1, PART_LENGTH - short + 1)},
    )


PARTS, PIECES = parts(KEY)


def key_in(data: bytes) -> str | None:
    """The part of the key that is in `data`, whatever its case."""
    lower = data.lower()
    if not any(piece in lower for piece in PIECES):
        return None
    return next((part.decode("latin-1") for part in sorted(PARTS) if part in lower), None)


def number_in(data: bytes) -> str | None:
    return next((number.decode() for number in NUMBERS if number in data), None)


def contents(path: Path) -> Iterator[bytes]:
    """A file's bytes, and what they hold once decompressed or read as the tables that they are."""
    data = path.read_bytes()
    yield data
    if path.suffix == ".zst":
        yield pa.input_stream(io.BytesIO(data), compression="zstd").read()
    if path.suffix == ".parquet":
        table = pq.read_table(path, partitioning=None)
        yield repr((table.schema.metadata, table.to_pylist())).encode("utf-8", "surrogateescape")
    if data.startswith(b"SQLite format 3\0"):
        yield from _values(path)


def _values(database: Path) -> Iterator[bytes]:
    """Each value of each row, of a copy with its log: opening the original would tidy both up. Dagster uses zlib."""
    copy = database.with_name(f"{database.name}.copy")
    logs = [(Path(f"{database}{suffix}"), Path(f"{copy}{suffix}")) for suffix in ("", "-wal")]
    for source, target in logs:
        if source.exists():
            shutil.copyfile(source, target)
    try:
        with closing(sqlite3.connect(copy)) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (table,) in tables:
                for row in connection.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 – names of its own
                    for value in row:
                        data = value if isinstance(value, bytes) else str(value).encode()
                        yield data
                        if isinstance(value, bytes) and value[:1] == b"\x78":
                            yield zlib.decompress(value)
    finally:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{copy}{suffix}").unlink(missing_ok=True)


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@dataclass
class Tally:
    """How much was searched."""

    figures: Figures
    files: int = 0

    def assert_keyless(self, path: Path) -> None:
        self.files += 1
        found = [leak for leak in map(key_in, contents(path)) if leak]
        self.figures.add("files searched for the key", tried=1, lost=bool(found))
        assert not found, f"{path} holds a part of the key: {found}"

    def assert_nothing_leaked(self, folder: Path, data_root: Path) -> None:
        """No file holds the key; of the numbers, none outside the tables that are made of them."""
        for path in files_below(folder):
            self.assert_keyless(path)
            within_root = path.relative_to(data_root).parts if path.is_relative_to(data_root) else ("",)
            if within_root[0] in TABLES_WITH_NUMBERS and path.name != "latest.json":
                continue
            for data in contents(path):
                assert number_in(data) is None, f"{path} holds a phone number: {number_in(data)}"


def assert_private(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        mode = path.stat().st_mode & 0o777
        assert mode & 0o077 == 0, f"{path} has mode {mode:o}"
        assert mode in ({0o700} if path.is_dir() else {0o600}), f"{path} has mode {mode:o}"


@pytest.mark.parametrize(
    "leak",
    [KEY, KEY[5:14], quote(KEY), f"https://x/?apiKey={quote_plus(KEY)}&a=b", json.dumps(KEY), KEY.upper(), repr([KEY])],
)
def test_a_search_finds_a_leak_in_every_kind_of_file(leak: str, tmp_path: Path) -> None:
    text = f"before {leak} after +33639982741"
    (tmp_path / "log").write_text(text)
    (tmp_path / "a.zst").write_bytes(pa.compress(text.encode(), codec="zstd", asbytes=True))
    pq.write_table(pa.table({"raw": ["x", text]}), tmp_path / "a.parquet")
    for name, value in (("plain.db", text), ("zlib.db", zlib.compress(text.encode()))):
        with closing(sqlite3.connect(tmp_path / name)) as connection, connection:
            connection.execute("CREATE TABLE t (a, b)")
            connection.execute("INSERT INTO t VALUES (1, ?)", [value])
    with closing(sqlite3.connect(tmp_path / "wal.db")) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a)")
        connection.execute("INSERT INTO t VALUES (?)", [text])
        connection.commit()
        searched = files_below(tmp_path)
        found = {path.name: any(map(key_in, contents(path))) for path in searched}
        numbers = {path.name: any(map(number_in, contents(path))) for path in searched}
        assert files_below(tmp_path) == searched
    expected = {"log", "a.zst", "a.parquet", "plain.db", "zlib.db", "wal.db", "wal.db-wal"}
    assert {name for name, leaks in found.items() if leaks} == expected
    assert {name for name, leaks in numbers.items() if leaks} == expected


def test_a_search_finds_nothing_in_what_only_resembles_the_key() -> None:
    assert key_in(b"S3ntine Kx7qz SMSPARTNER_API_KEY apiKey=[redacted] +33 6\xe2\x80\xa2\xe2\x80\xa2") is None


# Every failure, by `run`


def echo_page(status: int) -> Script:
    """A web page that shows the address that was asked for, as written and as understood."""

    def script(exchange: Exchange) -> None:
        key = exchange.request.query["apiKey"]
        page = f"<html><title>{exchange.request.target}</title><p>{html.escape(key)} {key} {json.dumps(key)}</p></html>"
        reply(status, page.encode(), {"Content-Type": "text/html; charset=utf-8"})(exchange)

    return script


def echo_refusal(code: int, status: int = 200) -> Script:
    """A refusal as documented, whose message shows the key."""

    def script(exchange: Exchange) -> None:
        message = f"{exchange.request.query['apiKey']} – {exchange.request.target}"
        reply_json({"success": False, "code": code, "message": message}, status)(exchange)

    return script


def redirect(base_url: str) -> Script:
    def script(exchange: Exchange) -> None:
        reply(302, b"moved", {"Location": base_url + exchange.request.target})(exchange)

    return script


def broken_headers(exchange: Exchange) -> None:
    """A complete response after malformed headers that show the address: urllib3 warns of them and quotes them."""
    exchange.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + exchange.request.raw + b"\r\n\r\n" + RESPONSE)


IMPATIENT = (
    "from stop_pipeline.smspartner.client import StopListClient\n"
    "StopListClient.__init__.__kwdefaults__.update(backoff_seconds=0, timeout_seconds=(10, 0.3), retries=2)\n"
    "from stop_pipeline.cli import main\n"
    "main(['run'], prog_name='stop-pipeline')\n"
)
"""`stop-pipeline run` that does not wait between its tries."""

BUSY = {"Retry-After": "0"}
LOCAL = "loopback"


@dataclass(frozen=True)
class Scenario:
    """What the provider does, and words of the one sentence that says so."""

    words: str
    script: Script = Exchange.hang
    base_url: str = LOCAL
    waits: bool = False
    """Whether the client tries again, so that its patience is cut short."""


FAILURES = {
    "a refused connection": Scenario("connection refused", base_url="http://127.0.0.1:1/v1", waits=True),
    "a name that does not resolve": Scenario("resolved", base_url="https://nonexistent.invalid/v1", waits=True),
    "no response in time": Scenario("in time", Exchange.hang, waits=True),
    "a reset connection": Scenario("reset", Exchange.reset, waits=True),
    "401": Scenario("HTTP 401", echo_page(401)),
    "403": Scenario("HTTP 403", echo_refusal(40, 403)),
    "404": Scenario("HTTP 404", echo_page(404)),
    "429": Scenario("HTTP 429", reply(429, b"slow down", BUSY), waits=True),
    "500": Scenario("HTTP 500", echo_page(500), waits=True),
    "a redirect to another host": Scenario("elsewhere.example", redirect("https://elsewhere.example")),
    "a redirect to plain http": Scenario("api.smspartner.fr", redirect("http://api.smspartner.fr")),
    "a truncated body": Scenario("truncated", reply(200, RESPONSE, {"Content-Length": "9999"})),
    "a truncated document": Scenario("cut", reply(200, RESPONSE[:-9])),
    "code 1": Scenario("code 1", echo_refusal(1)),
    "code 10": Scenario("code 10", echo_refusal(10)),
    "code 96": Scenario("code 96", echo_refusal(96, 403)),
    "a web page that shows the address": Scenario("not a list", echo_page(200)),
}


@dataclass(frozen=True)
class Outcome:
    """What a run did, and the folder that it ran in."""

    folder: Path
    done: subprocess.CompletedProcess[bytes]
    requested: tuple[str, ...]

    @property
    def sentences(self) -> list[str]:
        """The lines on stderr that are not progress."""
        return [line for line in self.done.stderr.decode().splitlines() if not line.startswith("Account ")]


def run_in(folder: Path, scenario: Scenario, **variables: str) -> Outcome:
    """Run the command with the sentinel key; its home logs everything."""
    folder.mkdir()
    with Loopback(scenario.script) as server:
        base_url = server.base_url if scenario.base_url == LOCAL else scenario.base_url
        environment = {"SMSPARTNER_API_KEY": KEY, "SMSPARTNER_BASE_URL": base_url} | variables
        done = subprocess.run(
            [sys.executable, "-c", IMPATIENT] if scenario.waits else [COMMAND, "run"],
            cwd=folder,
            env=clean_environment(**environment),
            capture_output=True,
            timeout=120,
            check=False,
        )
        return Outcome(folder, done, tuple(request.query.get("apiKey", "") for request in server.requests))


def make_home(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    (folder / "dagster.yaml").write_text(EVERYTHING_IS_LOGGED)
    (folder / "dagster.yaml").chmod(0o600)
    return folder


def logged(home: Path) -> bytes:
    """All that is in the databases of a home."""
    return b"\n".join(data for path in files_below(home) if path.suffix == ".db" for data in contents(path))


QUICK = {"a web page that shows the address"}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in FAILURES]
)
def test_a_failure_ends_in_one_plain_sentence_and_leaves_the_key_and_the_numbers_nowhere(
    kind: str, tmp_path: Path, figures: Figures
) -> None:
    scenario = FAILURES[kind]
    home = make_home(tmp_path / "home")
    outcome = run_in(tmp_path / "run", scenario, DAGSTER_HOME=str(home))
    assert outcome.done.returncode == 1
    assert outcome.done.stdout == b""
    (sentence,) = outcome.sentences
    assert sentence.startswith("main: ")
    assert scenario.words.lower() in sentence.lower()
    assert "Traceback" not in sentence
    assert key_in(outcome.done.stderr) is None

    data_root = outcome.folder / "data"
    Tally(figures).assert_nothing_leaked(tmp_path, data_root)
    assert_private(home)
    assert_private(data_root)
    if scenario.base_url == LOCAL:
        assert set(outcome.requested) == {KEY}, "the key was never sent, so nothing is shown"
        assert b"Starting new HTTP connection" in logged(home), "urllib3's records were not logged"


@pytest.mark.parametrize(
    ("script", "debug"),
    [
        pytest.param(reply(200, RESPONSE), False, id="logs as the command sets them", marks=pytest.mark.slow),
        pytest.param(broken_headers, True, id="at DEBUG, with headers that show the key"),
    ],
)
def test_a_success_leaves_the_key_nowhere_and_the_numbers_in_the_data_files(
    script: Script,
    debug: bool,  # noqa: FBT001 – a parameter of the test
    tmp_path: Path,
    figures: Figures,
) -> None:
    folder = tmp_path / "run"
    at_debug = {"DAGSTER_HOME": str(make_home(tmp_path / "home"))} if debug else {}
    outcome = run_in(folder, Scenario("", script), **at_debug)
    assert outcome.done.returncode == 0, outcome.sentences
    assert outcome.requested == (KEY,)
    assert [line.split(" failed. ")[0] for line in outcome.sentences] == ["Warning: main: check nothing_rejected"]
    for output in (outcome.done.stdout, outcome.done.stderr):
        assert key_in(output) is None
        assert number_in(output) is None

    tally = Tally(figures)
    tally.assert_nothing_leaked(tmp_path, folder / "data")
    assert tally.files > 10
    home = tmp_path / "home" if at_debug else folder / ".dagster_home"
    assert_private(home)
    assert_private(folder / "data")
    assert (b"Starting new HTTP connection" in logged(home)) == debug
    assert (b"Failed to parse headers" in logged(home)) == debug
    holders = {path for path in files_below(folder / "data") if any(map(number_in, contents(path)))}
    assert {path.relative_to(folder / "data").parts[0] for path in holders} == TABLES_WITH_NUMBERS


@pytest.mark.slow
@pytest.mark.parametrize("in_a_file", [False, True], ids=["in variables", "in a file"])
def test_the_keys_of_several_accounts_are_no_less_hidden(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, *, in_a_file: bool
) -> None:
    file = tmp_path_factory.mktemp("keys") / "accounts.toml"
    file.touch(mode=0o600)
    file.write_text(f"[accounts]\nparis = {json.dumps(KEY)}\nlyon = {json.dumps(KEY[::-1])}\nnice = ''\n")
    in_variables = {
        "SMSPARTNER_ACCOUNTS": "paris,lyon,nice",
        "SMSPARTNER_API_KEY_PARIS": KEY,
        "SMSPARTNER_API_KEY_LYON": KEY[::-1],
    }
    outcome = run_in(
        tmp_path / "run",
        Scenario("", echo_refusal(10)),
        DAGSTER_HOME=str(make_home(tmp_path / "home")),
        **({"SMSPARTNER_ACCOUNTS_FILE": str(file)} if in_a_file else in_variables),
    )
    assert outcome.done.returncode == 1
    assert outcome.requested == (KEY, KEY[::-1])
    named = [f"SMSPARTNER_API_KEY_{account}" for account in ("PARIS", "LYON", "NICE")]
    named = ["SMSPARTNER_ACCOUNTS_FILE"] * 3 if in_a_file else named
    assert [name in sentence for name, sentence in zip(named, outcome.sentences, strict=True)] == [True] * 3
    reversed_key = KEY[::-1].encode().lower()
    for path in files_below(tmp_path):
        for data in (outcome.done.stderr, *contents(path)):
            assert key_in(data) is None, path
            assert reversed_key not in data.lower(), path


# By `dev`, over GraphQL

LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message stack }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""
RUN_STATUS = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
RUN_PAGE = (
    METADATA_ENTRY_FRAGMENT
    + """
query ($id: ID!) {
  runOrError(runId: $id) {
    ... on Run {
      status runConfig runConfigYaml tags { key value }
      stats { ... on RunStatsSnapshot { stepsFailed materializations } }
      stepStats { stepKey status }
      eventConnection { events { __typename ... on LogsCapturedEvent { fileKey logKey } } }
      assetMaterializations { label description metadataEntries { ...metadataEntryFragment } }
    }
  }
}"""
)
CAPTURED_LOGS = "query ($key: [String!]!) { capturedLogs(logKey: $key) { stdout stderr } }"
ASSET_PAGES = (
    METADATA_ENTRY_FRAGMENT
    + """
{
  assetNodes {
    assetKey { path } description jobNames metadataEntries { ...metadataEntryFragment }
    assetMaterializations(limit: 10) { runId metadataEntries { ...metadataEntryFragment } tags { key value } }
    assetChecksOrError {
      ... on AssetChecks {
        checks {
          name description
          executionForLatestMaterialization {
            status evaluation { description metadataEntries { ...metadataEntryFragment } }
          }
        }
      }
    }
  }
}"""
)
RESOURCES = """
query ($repository: RepositorySelector!) {
  allTopLevelResourceDetailsOrError(repositorySelector: $repository) {
    ... on ResourceDetailsList {
      results {
        name description resourceType
        configuredValues { key value type }
        configFields { name description defaultValueAsJson configType { key description } }
      }
    }
  }
}"""
INSTANCE = """
{ instance {
    id info executablePath
    daemonHealth { allDaemonStatuses { daemonType lastHeartbeatErrors { message stack } } }
} }"""
WORKSPACE = """
{ workspaceOrError { ... on Workspace { locationEntries {
    name loadStatus displayMetadata { key value }
    locationOrLoadError { __typename ... on PythonError { message stack } }
} } } }"""
REPOSITORY = {"repositoryLocationName": "stop_pipeline.definitions", "repositoryName": "__repository__"}


class DagsterUi:
    """The webserver that `dev` started, asked as its pages ask; every response is kept."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.responses: list[bytes] = []

    def get(self, path: str) -> bytes:
        response = requests.get(f"{self.url}/{path}", timeout=30)
        self.responses.append(response.content)
        return response.content

    def ask(self, query: str, **variables: Any) -> Any:
        response = requests.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=60)
        self.responses.append(response.content)
        document = response.json()
        assert "errors" not in document, document
        return document["data"]

    def wait_until_loaded(self) -> None:
        def loaded() -> bool:
            try:
                entries = self.ask(WORKSPACE)["workspaceOrError"]["locationEntries"]
            except requests.RequestException:
                return False
            return bool(entries) and all(entry["loadStatus"] == "LOADED" for entry in entries)

        wait_until(loaded, "the code location")

    def launch(self, account: str | None = None) -> str:
        """Launch the job, for one account if there are several; gives the run's id."""
        tags = [{"key": "dagster/partition", "value": account}] if account else []
        params = {
            "selector": REPOSITORY | {"jobName": "sync"},
            "runConfigData": "{}",
            "executionMetadata": {"tags": tags},
        }
        launched = self.ask(LAUNCH, params=params)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def end_of(self, run_id: str) -> str:
        def ended() -> str | None:
            status = str(self.ask(RUN_STATUS, id=run_id)["runOrError"]["status"])
            return status if status in ("SUCCESS", "FAILURE", "CANCELED") else None

        return wait_until(ended, "the end of the run")

    def look_at(self, run_id: str) -> None:
        """Fetch all that the pages of a run show."""
        page = self.ask(RUN_PAGE, id=run_id)["runOrError"]
        events = self.ask(RUN_EVENTS_QUERY, runId=run_id, cursor=None, limit=1000)["logsForRun"]
        assert any(event["__typename"] == "LogMessageEvent" for event in events["events"])
        keys = {event["fileKey"] for event in page["eventConnection"]["events"] if event.get("fileKey")}
        assert keys
        for key in keys:
            self.ask(CAPTURED_LOGS, key=[run_id, "compute_logs", key])
        self.responses.append(gzip.decompress(self.get(f"download_debug/{run_id}")))


@pytest.mark.slow
def test_dev_shows_the_key_and_the_numbers_in_no_page_and_no_file(
    tmp_path: Path, free_port: int, figures: Figures
) -> None:
    home = make_home(tmp_path / "home")
    ui = DagsterUi(f"http://127.0.0.1:{free_port}")
    with Loopback(reply(200, RESPONSE), echo_refusal(10)) as server:
        environment = clean_environment(
            SMSPARTNER_ACCOUNTS="main,lyon",
            SMSPARTNER_API_KEY=KEY,  # none for lyon: its client cannot be made
            SMSPARTNER_BASE_URL=server.base_url,
            STOP_PIPELINE_CRON="0 0 29 2 *",
            DAGSTER_HOME=str(home),
        )
        with (tmp_path / "stdout").open("wb") as stdout, (tmp_path / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [COMMAND, "dev", "--port", str(free_port)],
                cwd=tmp_path,
                env=environment,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            ui.wait_until_loaded()
            good = ui.launch("main")
            assert ui.end_of(good) == "SUCCESS"
            refused, keyless = ui.launch("main"), ui.launch("lyon")
            assert (ui.end_of(refused), ui.end_of(keyless)) == ("FAILURE", "FAILURE")
            for run_id in (good, refused, keyless):
                ui.look_at(run_id)
            ui.ask(ASSET_PAGES)
            resources = json.dumps(ui.ask(RESOURCES, repository=REPOSITORY))
            ui.ask(INSTANCE)
            for path in ("", "server_info", f"runs/{good}", f"locations/{REPOSITORY['repositoryLocationName']}"):
                ui.get(path)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=90)
        assert [request.query["apiKey"] for request in server.requests] == [KEY, KEY]

    seen = b"\n".join(ui.responses)
    for shown in (b"3 rows = 2 kept + 0 duplicates collapsed + 1 rejected", b"code 10", b"SMSPARTNER_API_KEY_LYON"):
        assert shown in seen, "a run's events were not fetched"
    assert b"GET /v1/stop-sms/list?_format=json" in seen, "urllib3's records were not logged"
    assert '"name": "sms_partner"' in resources
    assert '"name": "store"' in resources
    leaks = [response for response in ui.responses if key_in(response) or number_in(response)]
    figures.add("GraphQL responses and pages searched for it", tried=len(ui.responses), lost=len(leaks))
    assert leaks == []
    Tally(figures).assert_nothing_leaked(tmp_path, tmp_path / "data")
    for folder in (home, tmp_path / "data"):
        assert_private(folder)
