# SPDX-License-Identifier: MIT
"""A headless Chromium, driven by Selenium: opened on a file, as wide as is wanted, light or dark."""

import contextlib
import pathlib
import shutil

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PORTS = ("--no-sandbox", "--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
         "--force-color-profile=srgb", "--no-first-run", "--disable-background-networking")


def missing():
    """Why no browser can be driven here; empty where one can."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed (tests/requirements.txt)"
    if not any(map(shutil.which, PROGRAMS)):
        return "no chromium (apt-get install chromium chromium-driver)"
    return "" if shutil.which("chromedriver") else "no chromedriver (apt-get install chromium-driver)"


@contextlib.contextmanager
def chromium():
    """A driver, which is ended with its browser."""
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, map(shutil.which, PROGRAMS)))
    for option in PORTS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def show(driver, path, width=1440, height=1000, dark=False, media=""):
    """Open a file without a network, in a window of a width (phones: a touch screen), in light or dark colours."""
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", {
        "offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0})
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": [
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
        {"name": "prefers-reduced-motion", "value": "reduce"}]})
    driver.get(pathlib.Path(path).resolve().as_uri())


def drawn(driver, seconds=180):
    """Wait until all charts of a page are there that its window shows."""
    from selenium.webdriver.support.ui import WebDriverWait
    WebDriverWait(driver, seconds).until(lambda driver: driver.execute_script(
        "return [...document.querySelectorAll('.chart.used, #layer-charts > div')].every((place) => "
        "place.getBoundingClientRect().top > innerHeight || place.querySelector('svg'))"))


def picture(driver, height):
    """A PNG of the first `height` pixels of the page."""
    import base64
    width = driver.execute_script("return innerWidth")
    found = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True, "clip": {
        "x": 0, "y": 0, "width": width, "height": height, "scale": 1}})
    return base64.b64decode(found["data"])
