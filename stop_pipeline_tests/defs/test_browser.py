"""The operator's way through the Dagster UI in a real browser, and the alert that reaches them meanwhile.

Screenshots of every page are in the test's temporary folder.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from stop_pipeline import read_stops
from stop_pipeline.defs.checks import specs_of
from stop_pipeline.smspartner.sandbox import Sandbox
from stop_pipeline_tests.support.commands import wait_until
from stop_pipeline_tests.support.loopback import Loopback, reply
from stop_pipeline_tests.support.serving import dev

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PAGE_MS, RUN_MS = 60_000, 180_000
NEVER = "0 5 29 2 *"

pytestmark = pytest.mark.browser


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """A page of a browser that was never used before."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            tmp_path / "browser", executable_path=CHROMIUM, args=FLAGS, viewport={"width": 1280, "height": 860}
        )
        browser.set_default_timeout(PAGE_MS)
        yield browser.pages[0]
        browser.close()


@dataclass(frozen=True)
class Ui:
    """The Dagster UI as its operator moves through it."""

    page: Page
    url: str
    screenshots: Path

    def materialize_all(self, *, ends: str, runs: int) -> None:
        """Press the button under Lineage, and wait until so many runs are listed and the newest has ended so."""
        self.page.goto(f"{self.url}/asset-groups")
        self.page.get_by_text("Materialize all").click()
        expect(self.page.get_by_text("Launched run")).to_be_visible()
        self.page.goto(f"{self.url}/runs")
        newest = self.page.locator("a[href^='/runs/']").nth(0)
        expect(newest).to_be_visible()
        expect(self.page.get_by_text("5 assets")).to_have_count(runs)
        expect(self.page.get_by_text(ends, exact=True)).to_be_visible(timeout=RUN_MS)

    def open(self, path: str) -> None:
        self.page.goto(f"{self.url}/{path}")

    def figure(self, name: str) -> str:
        """A value in the asset's table of metadata."""
        row = self.page.locator("tr", has=self.page.get_by_text(name, exact=True))
        return row.last.locator("td").last.inner_text().strip()

    def see_charts(self, count: int) -> None:
        """Wait until so many charts are on the page, without a click, in their full size."""
        charts = self.page.locator("img[src^='data:image/svg']")
        expect(charts).to_have_count(count)
        for chart in charts.all():
            chart.scroll_into_view_if_needed()
            assert chart.evaluate("image => [image.naturalWidth, image.clientWidth]") == [294, 294]

    def keep(self, name: str) -> None:
        self.page.screenshot(path=self.screenshots / f"{name}.png")


def test_the_ui_shows_a_sync_its_charts_and_checks_and_then_a_failure_with_its_sentence(
    tmp_path: Path, page: Page
) -> None:
    with (
        Sandbox() as sandbox,
        Loopback(reply(200, b"ok")) as webhook,
        dev(
            tmp_path,
            SMSPARTNER_BASE_URL=sandbox.base_url,
            SMSPARTNER_API_KEY=sandbox.api_key,
            STOP_PIPELINE_CRON=NEVER,
            STOP_PIPELINE_ALERT_WEBHOOK=webhook.base_url,
        ) as url,
    ):
        ui = Ui(page, url, tmp_path)
        ui.materialize_all(ends="Success", runs=1)
        ui.open("asset-groups")
        expect(page.get_by_role("img", name="run_success")).to_have_count(5)
        ui.keep("graph")

        ui.open("assets/stops")
        stops = read_stops(tmp_path / "data")
        expect(page.get_by_text("Every opt-out ever listed")).to_be_visible()
        ui.see_charts(1)
        ui.keep("stops")
        assert ui.figure("listed") == ui.figure("new") == str(len(stops))
        assert ui.figure("removed") == ui.figure("withheld") == "0"
        assert "Last verified" in ui.figure("health")
        assert not any(number in page.content() for number in stops["phone_number"])
        ui.open("assets/stops?view=checks")
        expect(page.get_by_text("Succeeded", exact=True)).to_have_count(len(specs_of("stops")))
        ui.keep("checks")
        ui.open("assets/stops_per_day")
        ui.see_charts(2)
        ui.keep("stops_per_day")

        sandbox.close()
        ui.materialize_all(ends="Failure", runs=2)
        page.locator("a[href^='/runs/']").first.click()
        page.get_by_text("Errored (1)").wait_for()
        expect(page.get_by_text("SMS Partner could not be reached at").last).to_be_visible()
        ui.keep("failed_run")
        page.get_by_placeholder("Filter…").fill("SMS Partner")
        expect(page.get_by_text("SMS Partner could not be reached at").first).to_be_visible()
        ui.keep("failure")

        (alert,) = wait_until(lambda: webhook.requests, "a post to the webhook")
        assert "STOP list of main: raw_stop_list failed" in alert.body.decode()
