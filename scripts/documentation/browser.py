"""A TensorBoard server, and a headless Chromium that opens its tabs as a user would.

It needs the Debian packages `chromium` and `chromium-driver`, and selenium from the extra `test`.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE = 120.0  # seconds, on a slow machine
BROWSER, DRIVER = "chromium", "chromedriver"
SHOWN = """
    const found = [];
    const walk = root => root.querySelectorAll("*").forEach(each => {
        if (each.matches(arguments[0]) && each.getClientRects().length) found.push(each);
        if (each.shadowRoot) walk(each.shadowRoot);
    });
    walk(document);
"""
"""Finds visible elements by a selector, also in the shadow trees that TensorBoard consists of."""
ELEMENTS = f"{SHOWN} return found;"
BOXES = f"""
    {SHOWN}
    return found.map(each => each.getBoundingClientRect()).map(box =>
        [box.top, box.bottom, box.left, box.right].map(edge =>
            Math.max(0, Math.round(edge * devicePixelRatio))));
"""
TEXT = """
    const texts = [];
    const walk = root => root.childNodes.forEach(each => {
        if (each.nodeType === Node.TEXT_NODE) texts.push(each.data);
        if (!each.matches || each.matches("style, script, noscript")) return;
        if (each.shadowRoot) walk(each.shadowRoot);
        walk(each);
    });
    walk(document.body);
    return texts.join(" ").replace(/\\s+/g, " ");
"""


@contextlib.contextmanager
def serve(logdir: Path, *flags: str) -> Iterator[str]:
    """A TensorBoard server that looks for new points every second; its address, ending in `/`.

    Raises:
        TimeoutError: It does not start.
    """
    # Our command, which loads no TensorFlow: TensorBoard alone takes ten seconds longer to start.
    command = [sys.executable, "-m", "vantage.scripts.main", "tensorboard", logdir.name, "--"]
    command += ["--port", "0", "--reload_interval", "1", *flags]
    with tempfile.TemporaryFile("w+") as output:
        # Started beside the folder, so that the page shows its name and not its path.
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=logdir.parent)
        try:
            yield _address(process, output)
        finally:
            process.terminate()
            process.wait()


def _address(process: subprocess.Popen, output: Any) -> str:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        output.seek(0)
        found = re.search(r"http://\S+:\d+/", output.read())
        if found:
            return found[0]
        time.sleep(0.1)
    output.seek(0)
    raise TimeoutError(f"TensorBoard must start. Received: {output.read()[-1000:]}")


def missing() -> str:
    """What must be installed for a browser; empty if nothing is missing."""
    if not shutil.which(BROWSER) or not shutil.which(DRIVER):
        return "the Debian packages chromium and chromium-driver"
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "the Python package selenium"
    return ""


@contextlib.contextmanager
def browse(width: int = 1480, height: int = 900, scale: float = 1) -> Iterator[Any]:
    """A headless Chromium, driven by selenium.

    Raises:
        ImportError: Chromium, its driver or selenium is not installed.
    """
    if missing():
        raise ImportError(f"This needs a browser. Received: none. Install {missing()}.")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which(BROWSER) or ""
    for word in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{word}")
    options.add_argument(f"--window-size={width},{height}")
    options.add_argument(f"--force-device-scale-factor={scale}")
    service = webdriver.ChromeService(shutil.which(DRIVER))  # critical: else one is downloaded
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.set_page_load_timeout(PATIENCE)
        driver.set_script_timeout(PATIENCE)
        yield driver
    finally:
        driver.quit()


def open_tab(driver: Any, url: str, tab: str, **state: str) -> None:
    """Opens a tab of TensorBoard from scratch; `state` is the part of its address after the tab."""
    driver.get(f"{url}data/environment")  # critical: tabs load only from another page
    driver.execute_script("localStorage.setItem('_ignoreYOutliers', 'false')")  # whole curves
    driver.get(f"{url}#{'&'.join([tab, *(f'{name}={text}' for name, text in state.items())])}")


def wait_for(driver: Any, condition: Callable[[], Any], what: str) -> Any:
    """Waits until the result of `condition` is true, and returns it.

    Raises:
        selenium.common.TimeoutException: It does not become true in time.
    """
    from selenium import common
    from selenium.webdriver.support.wait import WebDriverWait

    # A page may answer late while it draws, or change during the call.
    ignored = [common.StaleElementReferenceException, common.TimeoutException]
    waiting = WebDriverWait(driver, PATIENCE, 0.3, ignored)
    return waiting.until(lambda _: condition(), f"TensorBoard does not show {what}.")


def find(driver: Any, selector: str) -> list[Any]:
    """The visible elements."""
    return driver.execute_script(ELEMENTS, selector)


def read(driver: Any) -> str:
    """All text of the page."""
    return driver.execute_script(TEXT)


def wait_drawn(driver: Any, selector: str, count: int = 1) -> None:
    """Waits until at least this many elements show colours, fully or partly.

    Curves have colours; axes and empty elements do not.
    """

    def is_drawn() -> bool:
        page = _pixels(driver.get_screenshot_as_png())
        boxes = driver.execute_script(BOXES, selector)
        parts = (page[top:bottom, left:right] for top, bottom, left, right in boxes)
        return sum((np.ptp(part, axis=2) > 40).sum() > 20 for part in parts if part.size) >= count

    wait_for(driver, is_drawn, f"{count} × {selector}, drawn")


def _pixels(png: bytes) -> np.ndarray:
    """A screenshot as an array `[height, width, 3]`."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), np.int16)
