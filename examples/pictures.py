"""Make the pictures of the page in the README: generate a log, fold it, and look at its page.

Usage: python examples/pictures.py [FOLDER]
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, sync_playwright

_DESK: Final = {"viewport": {"width": 960, "height": 1250}}
_PHONE: Final = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
_PICTURES: Final = {
    "report-light": (_DESK, "light", 0),
    "report-dark": (_DESK, "dark", 0),
    "customers-light": (_DESK, "light", "#ranking"),
    "phone-dark": (_PHONE, "dark", 0),
}


def main() -> None:
    """Write pictures into a folder, by default `docs/pictures`."""
    default = Path(__file__).parents[1] / "docs/pictures"
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else default).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work, sync_playwright() as playwright:
        page = _page(Path(work))
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            chromium_sandbox=False,
            args=["--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        for name, (device, scheme, place) in _PICTURES.items():
            _picture(
                browser, page, folder / f"{name}.png", {**device, "color_scheme": scheme}, place
            )
        browser.close()


def _page(work: Path) -> str:
    """Return the address of the page of a generated log."""

    def processor(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "processor", *arguments], check=True, cwd=work)

    processor("generate", "--events", "24000", "--hours", "40", "--customers", "12", "--users",
              "400", "--seed", "5", "--output", "app.log")  # fmt: skip
    processor("run", "--once", "app.log")
    processor("report", "--format", "html", "--output", "report.html")
    return (work / "report.html").as_uri()


def _picture(
    browser: Browser, url: str, path: Path, options: dict[str, object], place: str | int
) -> None:
    context = browser.new_context(**options)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(url)
    if isinstance(place, str):
        page.locator(place).screenshot(path=path)
    else:
        page.screenshot(path=path)
    context.close()


if __name__ == "__main__":
    main()
