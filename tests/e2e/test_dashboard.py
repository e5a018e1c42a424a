"""The dashboard in a real browser, beside a stack that has lived through the whole loop."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from crossfade.logreader import read_log
from crossfade.registry import Registry
from crossfade.requestlog import CsvRequestLog
from crossfade.serving.split import assign
from crossfade.stack import processes
from crossfade.stack.demo import tell
from crossfade.stack.services import embedded_services

selenium = pytest.importorskip("selenium")

from rich.console import Console  # noqa: E402 - after the look for selenium
from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

CHROMIUM, DRIVER = (
    next((path for name in names if (path := shutil.which(name))), None)
    for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",))
)

WIDE, NARROW = 1440, 390

AXE = "4.14.1"
"""Version of axe-core."""


def _eventually(holds: Callable[[], object], seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _registry(stack) -> Registry:
    return Registry(stack.settings.mlflow_tracking_uri, stack.settings.reg_model_name)


class Page:
    """The dashboard, as a person sees it."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, width: int = WIDE, theme: str = "light") -> None:
        """Open it in a window of a width, and wait until nothing is being looked for any more."""
        emulate = self.driver.execute_cdp_cmd
        emulate("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]})
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        emulate("Emulation.setDeviceMetricsOverride", size)
        self.driver.get(self.url)
        assert _eventually(lambda: self.text("cards") and self.has("#history svg.main-svg")), self.text("page")

    def text(self, name: str) -> str:
        """Return what is to be read in an element."""
        return str(self.script(f"return document.getElementById('{name}')?.innerText ?? ''"))

    def has(self, selector: str) -> bool:
        """Tell whether an element is there."""
        return bool(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def click(self, selector: str) -> None:
        """Click with the keyboard, as somebody without a mouse does."""
        self.driver.find_element(By.CSS_SELECTOR, selector).send_keys("\n")

    def choose(self, name: str, value: str) -> None:
        """Choose from a list."""
        self.script(
            f"const s = document.querySelector('#{name}'); s.value = '{value}';"
            "s.dispatchEvent(new Event('change', {bubbles: true}))"
        )

    def answer(self, yes: bool) -> str:
        """Answer the question that a control asks, and return it."""
        assert _eventually(self._is_asking)
        question = self.driver.switch_to.alert
        said = str(question.text)
        question.accept() if yes else question.dismiss()
        return said

    def answers_by_arm(self) -> dict[str, str]:
        """Return what the traffic table tells; in one step, for the page is drawn anew at any time."""
        rows = self.script(
            "return [...document.querySelectorAll('#traffic-table tbody tr')]"
            ".map(row => [...row.cells].slice(0, 2).map(cell => cell.innerText))"
        )
        return dict(rows)

    def script(self, code: str) -> Any:
        """Run a script."""
        return self.driver.execute_script(code)

    def _is_asking(self) -> bool:
        from selenium.common.exceptions import NoAlertPresentException

        try:
            return bool(self.driver.switch_to.alert)
        except NoAlertPresentException:
            return False


@pytest.fixture(scope="module")
def lived(stack) -> None:
    """Let the stack live through drift, retraining, an experiment and a promotion, unless it has."""
    history = stack.crossfade("history", "--last", "1000").stdout
    if "promote" in history:
        return
    if _registry(stack).at("prod") is not None:  # the story does not begin anew: it was told, and ended otherwise
        pytest.skip(f"the stack has trained, but nothing was promoted: {history}")
    story = tell(stack.settings, Console(quiet=True), rows=1000, users=400)
    assert story.promoted, story.evaluation["reasons"]


@pytest.fixture(scope="module")
def page(stack, lived) -> Iterator[Page]:
    """The page in headless Chromium."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium and chromedriver on PATH: apt-get install chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    # What is not this machine cannot be reached: the page has to do without.
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield Page(driver, f"http://127.0.0.1:{stack.settings.dashboard_port}/")
    finally:
        driver.quit()


def test_every_panel_has_data(page):
    """Cards, charts, tables and services; and nothing went wrong in the browser."""
    page.open()
    assert page.text("services").count(" up") == 5
    assert "version" in page.text("cards")
    charts = ("traffic-rate", "traffic-latency", "experiment-accuracy", "experiment-chi2", "experiment-evidence")
    charts += ("drift-psi", "drift-trend", "drift-distribution", "history-axis")
    for chart in charts:
        assert _eventually(lambda chart=chart: page.has(f"#{chart} svg.main-svg")), chart
        points = page.script(f"return document.querySelector('#{chart} .js-plotly-plot').data.some(t => t.x.length)")
        assert points, chart
    for table in ("traffic-table", "experiment-arms", "experiment-pairs", "experiment-checks", "history-list"):
        assert page.has(f"#{table} td"), table
    assert "promotion" in page.text("history-list")
    links = page.script("return [...document.querySelectorAll('#history-list a')].map(a => a.href)")
    assert links
    assert requests.get(links[0], timeout=30).ok
    severe = [entry for entry in page.driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert not severe


def test_first_data_come_soon(page):
    """Once the browser has the scripts."""
    page.driver.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument",
        {
            "source": "new MutationObserver((_, o) => { if (document.querySelector('#cards .main')) "
            "{ window.firstData = performance.now(); o.disconnect(); } }).observe(document, {childList: true, "
            "subtree: true});"
        },
    )
    took = []
    for _ in range(3):
        page.open()
        took.append(page.script("return window.firstData"))
    assert min(took) < 5000, took  # a fifth of that when nothing else runs


def test_a_feature_can_be_chosen(page):
    """The distribution shown is that of the chosen one."""
    page.open()
    assert _eventually(lambda: page.has("#feature-choice option"))
    page.choose("feature-choice", "prediction")
    assert _eventually(lambda: page.text("distribution").startswith("prediction"))


def test_the_split_control_changes_the_routers_config(stack, page):
    """It asks first; no is no, and yes is in force when it says so, and told in the history."""
    page.open()
    config, before = f"{stack.settings.router_url}/config", 0.5
    stack.set_split(before)
    page.driver.find_element(By.ID, "share").send_keys("25")
    page.click("#split-button")
    assert "25 %" in page.answer(yes=False)
    assert requests.get(config, timeout=60).json() == {"ab_split_b": before}
    page.click("#split-button")
    page.answer(yes=True)
    assert _eventually(lambda: "25 % of the users now" in page.text("result")), page.text("result")
    assert requests.get(config, timeout=60).json() == {"ab_split_b": 0.25}
    assert _eventually(lambda: "split: B 50% -> 25%" in page.text("history-list"))
    stack.set_split(before)


def test_the_share_of_b_follows_the_split_control(stack, page):
    """What was set on the page splits the traffic after it, user by user, in the log and in the traffic panel."""
    experiment = _open_an_experiment(stack)
    stack.set_split(0.5)
    page.open()
    page.driver.find_element(By.ID, "share").send_keys("25")
    page.click("#split-button")
    page.answer(yes=True)
    assert _eventually(lambda: "25 % of the users now" in page.text("result")), page.text("result")
    users = [f"share-{number}" for number in range(400)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda user: stack.predict(user_id=user, features=[5.1, 3.5, 1.4, 0.2]), users))
    assert [answer["variant"] for answer in answers] == [assign(experiment, user, 0.25) for user in users]
    share = sum(answer["variant"] == "B" for answer in answers) / len(users)
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / len(users)) ** 0.5

    log = CsvRequestLog(stack.settings.request_log, stack.settings.labels_log)
    rows = read_log(log, ("variant", "ab_split_b")).rows
    mine = rows[rows["request_id"].isin([answer["request_id"] for answer in answers])]
    assert mine["ab_split_b"].tolist() == [0.25] * len(users)
    assert (mine["variant"] == "B").mean() == share
    page.choose("span-choice", "24h")
    logged = {arm: f"{count:,}" for arm, count in Counter(rows["variant"]).items()}
    assert _eventually(lambda: page.answers_by_arm() == logged), (page.answers_by_arm(), logged)
    assert "B 25%" in page.text("cards")
    stack.set_split(0.5)


def _open_an_experiment(stack) -> str:
    """Have B serve another version than A, whatever the stack has lived through; return the experiment's name."""
    registry = _registry(stack)
    prod, staging = registry.at("prod"), registry.at("staging")
    assert prod is not None
    if staging is None or staging.number == prod.number:
        other = next(version for version in registry.versions() if version.number != prod.number)
        registry.move("staging", other.number, expected=staging.number if staging else None)
        requests.post(f"{stack.settings.router_url}/reload", timeout=60)
    assert _eventually(lambda: all(worker["staging"] for worker in stack.health()["workers"]))
    return str(stack.health()["experiment_id"])


def test_what_cannot_be_is_not_even_asked(page):
    """More than everybody is no share."""
    page.open()
    page.driver.find_element(By.ID, "share").send_keys("250")
    page.click("#split-button")
    assert _eventually(lambda: "0 to 100" in page.text("result"))


@pytest.mark.parametrize(("width", "theme"), [(WIDE, "dark"), (NARROW, "light"), (NARROW, "dark")])
def test_it_holds_in_the_dark_and_in_a_narrow_window(width, theme, page):
    """Nothing is wider than the window, charts have the theme's colours, and everything is within reach."""
    page.open(width, theme)
    assert page.script("return document.documentElement.scrollWidth") <= width
    assert _eventually(lambda: page.has("#traffic-rate svg.main-svg"))
    colour = page.script("return document.querySelector('#traffic-rate .js-plotly-plot').data[0].line.color")
    assert colour == {"light": "#0072b2", "dark": "#56b4e9"}[theme]
    assert (
        page.script("return getComputedStyle(document.body).backgroundColor")
        == {
            "light": "rgb(244, 246, 248)",
            "dark": "rgb(20, 24, 29)",
        }[theme]
    )
    small = page.script(
        "return [...document.querySelectorAll('button, select')]"
        ".filter(e => e.getBoundingClientRect().height < 44).length"
    )
    assert small == 0


def test_every_control_and_chart_has_a_name(page):
    """What a screen reader would say: labels of fields, names of charts and regions."""
    page.open()
    nameless = page.script(
        "const named = e => e.getAttribute('aria-label') || (e.id && document.querySelector(`label[for=\"${e.id}\"]`))"
        " || e.innerText.trim();"
        "return [...document.querySelectorAll('input, select, button, [role=img], [role=region]')]"
        ".filter(e => !named(e)).map(e => e.outerHTML)"
    )
    assert nameless == []
    assert page.script("return document.documentElement.lang") == "en"


@pytest.fixture(scope="module")
def axe(request) -> str:
    """axe-core's script, by npm, once for all runs of the tests."""
    folder = Path(request.config.cache.mkdir(f"axe-core-{AXE}"))
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not script.is_file():
        if shutil.which("npm") is None:
            pytest.skip("npm is not installed (Debian: apt-get install npm)")
        command = ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run([*command, f"axe-core@{AXE}"], capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            pytest.skip(f"npm cannot install axe-core {AXE}: {done.stderr[-300:]}")
    return script.read_text()


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_violation(width, theme, page, axe):
    """None at all, serious or not, with every panel filled."""
    page.open(width, theme)
    assert _eventually(lambda: page.has("#drift-distribution svg.main-svg"))
    page.script(axe)
    found = page.driver.execute_async_script(
        "const done = arguments[0]; axe.run().then(r => done(r.violations.map("
        "v => `${v.impact} ${v.id}: ${v.nodes.map(n => n.html.slice(0, 200)).join(' | ')}`)), e => done([String(e)]))"
    )
    assert found == []


def test_the_page_stands_whatever_is_gone(stack, page):
    """MLflow, Airflow, the log: the page says what is stale and since when, keeps the rest, and heals by itself."""
    home, log = stack.settings.crossfade_home, stack.settings.request_log
    page.open()
    assert _eventually(lambda: page.text("services").count(" up") == 5), page.text("services")

    with log.open("ab") as file:
        file.write(b"2026-11-21T12:00:01+00:00,half a r")
    assert _eventually(lambda: "lines of the log are torn" in page.text("traffic")), page.text("traffic")
    assert "Request log up" in page.text("services")
    size = log.stat().st_size - len(b"2026-11-21T12:00:01+00:00,half a r")
    os.truncate(log, size)

    log.rename(log.with_suffix(".away"))
    services = {service.name: service for service in embedded_services(stack.settings)}
    processes.stop(services["mlflow"], home)
    airflow = [process for process in processes.find(services["airflow"], home) if _listens(process)]
    for process in airflow:  # silent, and not gone: that is the harder case, and done with at once
        process.suspend()
    try:
        for name in ("MLflow", "Airflow", "Request log"):
            told = f"{name} stale, seen "
            assert _eventually(lambda told=told: told in page.text("services"), 120), page.text("services")
        assert re.search(r"request log: stale since \d\d:\d\d:\d\d", page.text("traffic"))
        assert re.search(r"MLflow: stale since \d\d:\d\d:\d\d", page.text("history"))
        page.open()  # anew, too: it shows what was seen last
        assert "version" in page.text("cards")
        for chart in ("traffic-rate", "drift-psi", "history-axis"):
            assert _eventually(lambda chart=chart: page.has(f"#{chart} svg.main-svg")), chart
    finally:
        for process in airflow:
            process.resume()
        log.with_suffix(".away").rename(log)
        stack.crossfade("up")
    assert _eventually(lambda: page.text("services").count(" up") == 5, 120), page.text("services")
    assert _eventually(lambda: "stale" not in page.text("traffic") + page.text("history")), page.text("traffic")


def _listens(process: psutil.Process) -> bool:
    return any(connection.status == psutil.CONN_LISTEN for connection in process.net_connections("inet"))
