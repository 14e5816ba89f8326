"""The report in a real browser, from files: search, filters, jumps, copies, keys, contrast, and that it stays alone."""

import base64
import dataclasses
import json
from importlib import resources
from pathlib import Path

import pytest

from parity_tests.harness.case import cases
from parity_tests.test_report import DETAILS, HOSTILE
from scripts import parity, report
from scripts.report import pages, screenshots
from scripts.report.screenshots import program, sized

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

pytestmark = [
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(
        not (program("chromium", "chromium-browser", "google-chrome") and program("chromedriver")),
        reason="no browser: install Debian's chromium and chromium-driver",
    ),
]
ROOT = Path(__file__).parent.parent
CHOSEN = ["resnet18", "crnn", "top_k", "pix2pix"]
RESNET = "classification/resnet.html"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Pages of four systems, one of them under a hostile name."""
    folder = tmp_path_factory.mktemp("site")
    models = report._chosen(CHOSEN)
    models = {
        name: dataclasses.replace(model, system=HOSTILE, title=HOSTILE) if model.family == "gan" else model
        for name, model in models.items()
    }
    known = {case.name: case.model for case in cases().values() if case.model in models}
    details = json.loads(json.dumps(DETAILS))
    details["answers"]["picture"] = base64.b64encode(picture()).decode()
    for path, text in pages.render(models, parity.saved(), {"resnet18": details}, known).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def picture() -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (80, 60), "teal").save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def browser():
    with screenshots.browser({"goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}) as started:
        yield started


@pytest.fixture
def page(browser, site):
    """Open a page; at the end, nothing was asked of a network and nothing was complained about."""
    browser.get_log("performance")
    browser.get_log("browser")

    def open_page(path, width=1440, height=1000, scheme="light"):
        sized(browser, width, height, scheme)
        browser.get("about:blank")
        browser.get(f"{site.as_uri()}/{path}")
        if browser.execute_script("const kept = localStorage.length; localStorage.clear(); return kept"):
            browser.refresh()  # what an earlier test chose
        return browser

    yield open_page
    asked = [
        message["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"] == "Network.requestWillBeSent"
    ]
    assert asked
    assert {url.split(":", 1)[0] for url in asked} <= {"file", "data", "about"}, asked
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def one(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def shown(browser, selector):
    return [element for element in browser.find_elements(By.CSS_SELECTOR, selector) if element.is_displayed()]


def press(browser, *keys):
    webdriver.ActionChains(browser).send_keys(*keys).perform()


def until(browser, condition):
    return WebDriverWait(browser, 5, 0.05).until(condition)


def select(browser, selector, value):
    script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change', {bubbles: true}))"
    browser.execute_script(script, one(browser, selector), value)


def focused(browser):
    return browser.switch_to.active_element


def test_search_and_filters(page):
    browser = page("index.html")
    everything = shown(browser, ".systems .name")
    assert len(everything) == len(CHOSEN)
    assert one(browser, "#count").text == "4 systems"
    one(browser, "#search").send_keys("shi RECOGNITION resnet")
    assert shown(browser, ".systems .name") == []
    assert one(browser, "#nothing").is_displayed()
    one(browser, "#clear").click()
    one(browser, "#search").send_keys("Residual learn")
    assert [link.text for link in shown(browser, ".systems .name")] == ["ResNet"]
    assert [heading.text.split()[0] for heading in shown(browser, ".family h2")] == ["classification"]
    assert one(browser, "#count").text == "1 system"
    browser.refresh()  # the address keeps the search
    assert [link.text for link in shown(browser, ".systems .name")] == ["ResNet"]
    press(browser, "/", Keys.ESCAPE)
    assert len(shown(browser, ".systems .name")) == 4
    select(browser, "#kind", "operator")
    assert [link.text for link in shown(browser, ".systems .name")] == ["Top-k"]
    select(browser, "#family", "ocr")
    assert shown(browser, ".systems .name") == []
    select(browser, "#kind", "")
    assert [link.text for link in shown(browser, ".systems .name")] == ["CRNN"]


def test_hostile_names_are_searched_and_shown(page):
    browser = page("index.html")
    one(browser, "#search").send_keys("alert(1)")
    (link,) = shown(browser, ".systems .name")
    assert link.text.startswith("<script>alert(1)</script>")
    link.click()
    assert one(browser, "h1").text.startswith("<script>alert(1)</script>")
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0


def test_keys(page):
    browser = page("index.html")
    press(browser, "/")
    assert focused(browser).get_attribute("id") == "search"
    press(browser, "e", Keys.ARROW_DOWN)
    assert focused(browser).text == "ResNet"
    press(browser, Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ARROW_UP, Keys.ARROW_UP)
    assert focused(browser).get_attribute("id") == "search"
    press(browser, Keys.ARROW_DOWN, Keys.ENTER)
    until(browser, lambda b: one(b, "h1").text == "ResNet")
    press(browser, "2")
    assert one(browser, "#proof").is_displayed() and not one(browser, "#source").is_displayed()
    press(browser, Keys.ARROW_RIGHT)
    assert one(browser, "#onnx").is_displayed()
    press(browser, "1", "j", "j")
    assert one(browser, ".row.here").get_attribute("id") == "def-imports"
    press(browser, "k")
    assert one(browser, ".row.here").get_attribute("id") == "def-docstring"
    press(browser, "s")
    assert one(browser, "#code").get_attribute("data-layout") == "stacked"
    press(browser, "?")
    assert one(browser, "#keys").is_displayed()
    press(browser, Keys.ESCAPE)
    assert not one(browser, "#keys").is_displayed()
    browser.execute_script("document.activeElement.blur()")
    press(browser, Keys.HOME)


def test_everything_is_reached_with_the_tabulator(page):
    browser = page("index.html")
    press(browser, Keys.TAB)
    assert focused(browser).text == "Skip to the content"
    assert focused(browser).rect["y"] >= 0
    seen = []
    for _ in range(16):
        press(browser, Keys.TAB)
        outline = browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"
        seen.append(focused(browser).accessible_name)
    assert {"Diptych", "Systems", "Idioms", "Keys", "Search systems, models, papers", "Family", "ResNet"} <= set(seen)


def test_the_trace_leads_to_the_lines_of_both_files(page):
    browser = page(f"{RESNET}#proof")
    assert one(browser, "#proof").is_displayed()
    (link,) = [a for a in shown(browser, ".trace .jump") if a.text == "layer1.0.conv2"]
    link.click()
    lit = until(browser, lambda b: b.find_elements(By.CSS_SELECTOR, ".l.lit"))
    assert ["self.conv2 =" in line.text for line in lit] == [True, True]
    assert [line.get_attribute("id")[:2] for line in lit] == ["tf", "pt"]
    for line in lit:
        assert 0 < line.rect["y"] - browser.execute_script("return scrollY") < 1000
    browser.back()
    press(browser, "2")
    row = one(browser, ".trace tbody tr:nth-child(3) .bars")  # the bar leads there, too
    row.click()
    until(browser, lambda b: "def call" in one(b, ".l.lit").text)


def test_lines_of_another_file_from_an_idiom(page):
    browser = page("idioms.html")
    one(browser, "#search").send_keys("biased variance")
    (note,) = shown(browser, ".idiom")
    assert "unbiased" in note.text
    note.find_element(By.CSS_SELECTOR, "figure.tf a").click()
    until(browser, lambda b: "normalization.py" in one(b, "h1").text)
    assert "unbiased = variance" in one(browser, ".l.lit").text


def test_gradients_sort(page):
    browser = page(f"{RESNET}#proof")

    def names():
        return [cell.text for cell in shown(browser, ".gradients tbody th")]

    given = names()
    header = one(browser, ".gradients thead th:nth-child(3) button")
    header.click()
    assert names() == ["layer1.0.conv2.weight", "conv1.weight", "fc.bias"]
    assert one(browser, ".gradients thead th:nth-child(3)").get_attribute("aria-sort") == "descending"
    header.click()
    assert names()[0] == "fc.bias"
    header.click()
    assert names() == given


def test_one_case_at_a_time(page):
    browser = page(f"{RESNET}#proof")
    assert [a.get_attribute("data-case") for a in shown(browser, "#proof article.case")] == ["resnet18"]
    assert "not run" not in one(browser, "#proof article.case").text.split("Loss terms")[1]
    select(browser, "#proof .case-picker", "resnet34")
    (article,) = shown(browser, "#proof article.case")
    assert article.get_attribute("data-case") == "resnet34"
    assert "not run" in article.text
    press(browser, "3")
    (article,) = shown(browser, "#onnx article.case")
    assert article.get_attribute("data-case") == "resnet34"


def test_files_are_copied_whole(page, browser):
    browser.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    page(RESNET)
    for side, panel in (("tf", "tf_impl"), ("pt", "torch_impl")):
        one(browser, f'.copy[data-side="{side}"]').click()
        until(browser, lambda b, side=side: one(b, f'.copy[data-side="{side}"]').text == "Copied")
        text = browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
        assert text == (ROOT / panel / "classification" / "resnet.py").read_text()


def test_definitions_stand_side_by_side_and_scroll_together(page):
    browser = page(RESNET)
    rows = (
        "return [...document.querySelectorAll('#code .row')]"
        ".map(row => [...row.children].map(cell => cell.getBoundingClientRect().{}))"
    )

    def places(edge):
        return browser.execute_script(rows.replace("{}", edge))

    assert all(left == right for left, right in places("top"))
    assert len({tuple(pair) for pair in places("left")}) == 1
    browser.execute_script("scrollTo(0, 3000)")
    assert all(left == right for left, right in places("top"))
    assert one(browser, "#code .heads").rect["y"] - browser.execute_script("return scrollY") == 48  # stays in sight
    (stack,) = [button for button in shown(browser, ".choice button") if button.text == "Stacked"]
    browser.execute_script("arguments[0].click()", stack)
    assert len({left for pair in places("left") for left in pair if left}) == 1  # what one side lacks is not shown


def test_narrow_screens_stack_and_nothing_overflows(page):
    for path in ("index.html", RESNET, f"{RESNET}#proof", f"{RESNET}#onnx", "idioms.html"):
        browser = page(path, width=390, height=844)
        for width in (320, 390, 768, 1024):
            sized(browser, width, 844)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width, (path, width)
    browser = page(RESNET, width=390, height=844)
    assert one(browser, "#code").get_attribute("data-layout") == "stacked"
    (beside,) = [button for button in shown(browser, ".choice button") if button.text == "Side by side"]
    beside.click()
    browser.execute_script("document.getElementById('code').scrollLeft = 200")
    lefts = browser.execute_script(
        "return [...document.querySelectorAll('#def-BasicBlock > *')].map(c => c.getBoundingClientRect().left)"
    )
    assert lefts[0] < 0 < lefts[1]  # one scroller for both
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


def test_colours_follow_the_system_and_the_button(page):
    browser = page("index.html", scheme="dark")
    colour = "return getComputedStyle(document.body).backgroundColor"
    dark = browser.execute_script(colour)
    press(browser, "t")
    light = browser.execute_script(colour)
    assert dark != light
    browser.refresh()
    assert browser.execute_script(colour) == light
    press(browser, "t", "t")
    assert browser.execute_script(colour) == dark


def test_printed_pages_show_all_parts(page):
    browser = page(RESNET)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert all(one(browser, part).is_displayed() for part in ("#source", "#proof", "#onnx"))
    assert not shown(browser, ".top, .tabs, .copy, .picker")
    assert len(shown(browser, "#proof article.case")) > 1
    assert all(bar.is_displayed() for bar in browser.find_elements(By.CSS_SELECTOR, "#proof svg.level"))
    assert browser.execute_script("return getComputedStyle(document.querySelector('rect.bar')).display") != "none"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "path", ["index.html", "layers/top-k.html", f"{RESNET}#proof", f"{RESNET}#onnx", "idioms.html"]
)
def test_axe_finds_nothing(page, path, scheme):
    """Contrast, labels, landmarks, roles; in both colour schemes, and once on a narrow screen."""
    axe = resources.files("axe_core_python").joinpath("axe.min.js").read_text()
    rules = "{runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'], resultTypes: ['violations']}"
    for width in (1440, 390) if scheme == "light" else (1440,):
        browser = page(path, width=width, scheme=scheme)
        browser.execute_script(axe)
        found = browser.execute_async_script(f"axe.run(document, {rules}).then(arguments[0])")
        assert [
            (violation["id"], node["html"][:120], node["failureSummary"][:200])
            for violation in found["violations"]
            for node in violation["nodes"][:3]
        ] == []
