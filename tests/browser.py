"""A headless Chromium driven over its DevTools pipe: no driver, no server, no package."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-pipe",
)


def browser_path() -> str | None:
    """Return where Chromium is; None if it is not installed."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One Chromium with a profile of its own; a context manager."""

    def __init__(self) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="chromium_", ignore_cleanup_errors=True)
        self._next_id = 0
        self._received = b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        # Chromium reads commands from descriptor 3 and writes to 4.
        (their_in, self._out), (self._in, their_out) = os.pipe(), os.pipe()
        command = [browser_path(), *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"]
        redirect = f'exec "$@" 3<&{their_in} 4>&{their_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", redirect, "bash", *command],
            pass_fds=(their_in, their_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": self._profile.name},
        )
        os.close(their_in)
        os.close(their_out)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call("Browser.close")
            self._process.wait(timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    def call(self, method: str, session: str | None = None, timeout_s: float = 60, **params: Any) -> dict[str, Any]:
        """Return the answer to a DevTools command."""
        self._next_id += 1
        message = {"id": self._next_id, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        deadline = time.monotonic() + timeout_s
        while True:
            for answer in self._messages(deadline):
                if answer.get("id") == message["id"]:
                    if "error" in answer:
                        raise RuntimeError(f"{method}: {answer['error']}")
                    return answer["result"]

    def _messages(self, deadline: float) -> list[dict[str, Any]]:
        """Read once; keep events, return answers."""
        if not select.select([self._in], [], [], max(0, deadline - time.monotonic()))[0]:
            raise TimeoutError("the browser does not answer")
        chunk = os.read(self._in, 1 << 20)
        if not chunk:
            raise OSError("the browser has gone")
        *whole, self._received = (self._received + chunk).split(b"\0")
        messages = [json.loads(one) for one in whole]
        self.events += [one for one in messages if "method" in one]
        return [one for one in messages if "id" in one]

    def page(self, width: int = 1600, height: int = 1000, dark: bool = False) -> Page:
        """Return a new, empty page."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime", "Network", "Log", "DOM", "Performance"):
            page.call(f"{domain}.enable")
        page.size(width, height)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        page.call("Emulation.setEmulatedMedia", features=scheme)
        return page


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self.browser = browser
        self.session = session
        self.target = target

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **params)

    def size(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, path: Path, fragment: str = "", wait_for: str = "document.documentElement?.dataset.ready") -> None:
        """Open a file and wait until it is usable."""
        self.call("Page.navigate", url="about:blank")
        self.browser.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri() + fragment)
        self.wait(wait_for)

    def evaluate(self, expression: str) -> Any:
        """Return a JavaScript expression's value; promises are waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"].get("exception", answer["exceptionDetails"]))
        return answer["result"].get("value")

    def wait(self, expression: str, timeout_s: float = 30) -> Any:
        """Return an expression's value as soon as it is true."""
        deadline = time.monotonic() + timeout_s
        while not (value := self.evaluate(expression)):
            if time.monotonic() > deadline:
                raise AssertionError(f"not true after {timeout_s:g} s: {expression}")
            time.sleep(0.02)
        return value

    def press(self, code: str, *, key: str | None = None, modifiers: int = 0, text: str = "") -> None:
        """Press a physical key; `key` is what the keyboard's layout makes of it (modifiers: 2 Ctrl, 8 Shift)."""
        known = {"Enter": 13, "Tab": 9, "Space": 32, "Escape": 27, "Backspace": 8, "Home": 36, "End": 35}
        known |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "PageUp": 33, "PageDown": 34}
        virtual = known.get(code, ord(code[-1]))
        text = text or {"Enter": "\r", "Space": " "}.get(code, "")
        what = {"code": code, "key": key or {"Space": " "}.get(code, code), "windowsVirtualKeyCode": virtual}
        self.call("Input.dispatchKeyEvent", type="keyDown", modifiers=modifiers, text=text, **what)
        self.call("Input.dispatchKeyEvent", type="keyUp", modifiers=modifiers, **what)

    def choose_files(self, selector: str, paths: list[Path]) -> None:
        """Do what a person does in a file dialog."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def requests(self) -> list[str]:
        """Return the addresses asked for since the page was opened, its own and its own objects left out."""
        sent = [event["params"]["request"]["url"] for event in self._events("Network.requestWillBeSent")]
        return [url for url in sent if not url.startswith(("about:", "blob:"))][1:]

    def complaints(self) -> list[str]:
        """Return everything that reached the console since the page was opened."""
        said = [str(event["params"]["args"]) for event in self._events("Runtime.consoleAPICalled")]
        thrown = [str(event["params"]["exceptionDetails"]) for event in self._events("Runtime.exceptionThrown")]
        logged = [str(event["params"]["entry"]["text"]) for event in self._events("Log.entryAdded")]
        return said + thrown + logged

    def _events(self, method: str) -> list[dict[str, Any]]:
        mine = (event for event in self.browser.events if event.get("sessionId") == self.session)
        return [event for event in mine if event["method"] == method]
