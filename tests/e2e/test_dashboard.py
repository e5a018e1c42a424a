"""The dashboard in a real browser, beside a stack that has lived through the whole loop."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator

import pytest
import requests

from crossfade.stack.demo import tell

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


def _eventually(holds: Callable[[], object], seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


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

    def answer(self, yes: bool) -> str:
        """Answer the question that a control asks, and return it."""
        assert _eventually(self._is_asking)
        question = self.driver.switch_to.alert
        said = str(question.text)
        question.accept() if yes else question.dismiss()
        return said

    def script(self, code: str) -> object:
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
    if "promote" not in history:
        tell(stack.settings, Console(quiet=True), rows=1000, users=400)


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


def test_first_data_come_within_a_second(page):
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
    assert min(took) < 1000, took


def test_a_feature_can_be_chosen(page):
    """The distribution shown is that of the chosen one."""
    page.open()
    assert _eventually(lambda: page.has("#feature-choice option"))
    page.script(
        "const s = document.querySelector('#feature-choice'); s.value = 'prediction';"
        "s.dispatchEvent(new Event('change', {bubbles: true}))"
    )
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
