# SPDX-License-Identifier: MIT
"""The report's page in a real browser: what it does, on a phone and on a desk, by mouse and by keys, read aloud."""

import pytest

from quantize.escape import shown
from tests.browser.chromium import show

DESK, PHONE, SHEET = 1440, 390, 1047  # A4 on its side, less its margins
PATIENCE = 180  # seconds, on a machine that does other things as well


def problems(browser):
    """What the console says."""
    return [entry["message"] for entry in browser.get_log("browser")]


def names(browser):
    """The layers in the table, as they stand."""
    return browser.execute_script("return [...document.querySelectorAll('#table tbody tr')].filter(r => !r.hidden)"
                                  ".map(r => r.cells[0].textContent.trim())")


def wait(browser, script, seconds=PATIENCE):
    """Until a script gives something true, which is returned."""
    from selenium.webdriver.support.ui import WebDriverWait
    return WebDriverWait(browser, seconds).until(lambda driver: driver.execute_script("return " + script))


def elements(browser, selector):
    from selenium.webdriver.common.by import By
    return browser.find_elements(By.CSS_SELECTOR, selector)


def click(browser, element):
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", element)
    element.click()


def chosen_everywhere(browser):
    """(table, drawing, chooser, panel): which layer each of them shows as chosen."""
    return browser.execute_script("""
        const one = (selector) => [...document.querySelectorAll(selector)].map(
            (e) => e.dataset.node || e.dataset.choose);
        return [one("tr.chosen"), one(".node.chosen"), [document.getElementById("which").value],
                [document.getElementById("layer-title").textContent]]""")


def test_it_renders_and_does_what_it_offers(browser, page):
    show(browser, page, DESK)
    wait(browser, "document.querySelector('tr.chosen')")
    first = names(browser)
    # sorting by a number: up, down, as it was
    header = next(button for button in elements(browser, "#table thead button") if button.text.strip() == "MACs")
    values = "[...document.querySelectorAll('#table tbody tr')].map(r => Number(r.cells[3].dataset.value))"
    orders = []
    for state in ("ascending", "descending", "none"):
        click(browser, header)
        assert browser.execute_script("return arguments[0].closest('th').getAttribute('aria-sort')", header) == state
        orders.append(browser.execute_script("return " + values))
    assert orders[0] == sorted(orders[0]) and orders[1] == orders[0][::-1] and names(browser) == first
    # filtering
    box = elements(browser, "#filter")[0]
    box.send_keys("innerprod")
    assert names(browser) == ["features.12", "output"]
    assert elements(browser, "#count")[0].text == "2 of 5 layers"
    box.clear()
    box.send_keys(" ")
    assert names(browser) == first
    # a layer that is clicked is shown everywhere
    button = next(button for button in elements(browser, "#table .layer-link") if button.text == "features.8")
    click(browser, button)
    assert chosen_everywhere(browser) == [["features.8"]] * 4
    assert "73.7 k" in elements(browser, "#facts")[0].text
    browser.execute_script("document.getElementById('layer-charts').scrollIntoView()")
    wait(browser, "document.querySelectorAll('#layer-charts svg').length >= 2")
    assert problems(browser) == []


@pytest.mark.slow
def test_names_from_files_are_text(browser, hostile):
    from tests.browser.conftest import HOSTILE, LAYER
    show(browser, hostile, DESK)
    wait(browser, "document.querySelector('tr.chosen')")
    title = shown(HOSTILE)  # marks that turn the direction of writing are written out
    name = LAYER + title
    assert name in names(browser) and elements(browser, "h1")[0].text == title
    click(browser, next(button for button in elements(browser, "#table .layer-link")
                        if button.get_attribute("textContent") == name))
    assert chosen_everywhere(browser) == [[name]] * 4
    assert title in elements(browser, ".origin")[0].get_attribute("textContent")
    for group in elements(browser, "details"):
        browser.execute_script("arguments[0].open = true", group)
    # the charts that carry names are drawn, too, and still nothing of them has run
    browser.execute_script("document.querySelector('#chart-sqnr').scrollIntoView()")
    wait(browser, "document.querySelector('#chart-sqnr svg')")
    assert browser.execute_script("return window.hacked === undefined")
    assert browser.execute_script("return [...document.images].every((image) => image.src.startsWith('data:'))")
    assert browser.execute_script("return document.scripts.length") == 3
    assert not browser.execute_script("return document.body.textContent.includes('49}}') ")
    # a name that turns the direction of writing does not turn what stands behind it
    for wrapper in ("h1 bdi", ".warnings bdi", "#table .layer-link bdi"):
        assert elements(browser, wrapper)
    assert problems(browser) == []


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_it_fits_and_can_be_read_by_everybody(browser, page, hostile, axe, width, dark):
    for path in (page, hostile):
        show(browser, path, width, dark=dark)
        for place in elements(browser, ".chart.used, #layer-charts > div"):
            browser.execute_script("arguments[0].scrollIntoView()", place)
            wait(browser, "document.querySelector('.chart svg') !== null")
        wait(browser, "[...document.querySelectorAll('.chart.used, #layer-charts > div')].every("
                      "(e) => e.querySelector('svg'))")
        assert browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]") == [width, width]
        for group in elements(browser, "details"):
            browser.execute_script("arguments[0].open = true", group)
        browser.execute_script(axe)
        browser.set_script_timeout(PATIENCE)
        found = browser.execute_async_script(
            "const done = arguments[0]; axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa',"
            " 'best-practice']}).then((r) => done([r.passes.length, r.violations.map((v) => [v.id, v.nodes.length,"
            " v.nodes.slice(0, 3).map((n) => n.html.slice(0, 200))])]))")
        assert found[0] > 25 and found[1] == []
        assert problems(browser) == []


@pytest.mark.slow
def test_everything_is_reached_by_keys(browser, page):
    from selenium.webdriver import ActionChains, Keys
    show(browser, page, DESK)
    wait(browser, "document.querySelector('tr.chosen')")

    def press(*keys):
        ActionChains(browser).send_keys(*keys).perform()

    def focused(script):
        return browser.execute_script(f"return document.activeElement.{script}")
    press(Keys.TAB)
    assert focused("className") == "skip"
    seen = []
    for _ in range(60):
        press(Keys.TAB)
        seen.append(focused("getAttribute('data-choose')") or focused("id") or focused("tagName"))
        visible = browser.execute_script("""
            const at = document.activeElement, rect = at.querySelector("rect");
            return getComputedStyle(at).outlineStyle !== "none" || getComputedStyle(rect || at).strokeWidth === "4px"
        """)
        assert visible, f"nothing shows where the focus is: {seen}"
        if seen[-1] == "which":
            break
    assert "filter" in seen and seen[-1] == "which" and {"features.0", "output"} <= set(seen)
    # a layer of the drawing by Enter, one by Space, one by the chooser
    for key, layer in ((Keys.ENTER, "features.0"), (Keys.SPACE, "output")):
        browser.execute_script("document.querySelector(`.node[data-choose='${arguments[0]}']`).focus()", layer)
        press(key)
        assert chosen_everywhere(browser) == [[layer]] * 4 and focused("id") == "layer-title"
    browser.execute_script("document.getElementById('which').focus()")
    press("features.8")
    wait(browser, "document.getElementById('layer-title').textContent === 'features.8'")
    assert chosen_everywhere(browser) == [["features.8"]] * 4
    browser.execute_script("document.querySelector('#table thead button').focus()")
    press(Keys.ENTER)
    assert names(browser) == ["features.0", "features.4", "features.8", "features.12", "output"]
    assert problems(browser) == []


@pytest.mark.slow
def test_a_click_into_a_chart_chooses_its_layer(browser, page):
    from selenium.webdriver import ActionChains
    show(browser, page, DESK)
    browser.execute_script("document.querySelector('#chart-sqnr').scrollIntoView({block: 'center'})")
    wait(browser, "document.querySelectorAll('#chart-sqnr .mark-symbol path').length >= 4")
    points = elements(browser, "#chart-sqnr .mark-symbol[role=graphics-symbol] path, #chart-sqnr .mark-symbol path")
    before = chosen_everywhere(browser)
    for point in points:
        ActionChains(browser).move_to_element(point).click().perform()
        if chosen_everywhere(browser) != before:
            break
        browser.execute_script("document.querySelector('#chart-sqnr').scrollIntoView({block: 'center'})")
    after = chosen_everywhere(browser)
    assert after != before and after[0] == after[1] == after[2] == after[3]


@pytest.mark.slow
def test_on_paper_it_is_light_and_whole(browser, page):
    import base64
    show(browser, page, SHEET, dark=True, media="print")
    wait(browser, "document.querySelector('tr.chosen')")
    hidden = browser.execute_script("return ['nav', '.tools', '.skip'].every((s) => "
                                    "getComputedStyle(document.querySelector(s)).display === 'none')")
    tall = browser.execute_script("return ['.network', '.tall'].every((s) => "
                                  "getComputedStyle(document.querySelector(s)).maxHeight === 'none')")
    wide = browser.execute_script("return [...document.querySelectorAll('main *')].filter("
                                  "(e) => e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.tagName)")
    assert wide == []  # nothing is cut off at the edge
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert hidden and tall and paper == "rgb(255, 255, 255)"
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert pdf[:5] == b"%PDF-" and len(pdf) > 20000
    assert problems(browser) == []
