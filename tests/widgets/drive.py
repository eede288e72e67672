"""An explorer on a page of the browser, driven by mouse, finger and keyboard, and read as a reader reads it."""

import json
import math


class Drive:
    """The nth explorer on the page whose name is given."""

    def __init__(self, browser, name: str, number: int = 0):
        self.browser = browser
        self.root = f"[...document.querySelectorAll('.lab-explorer[aria-label=\"{name}\"]')][{number}]"
        browser.evaluate("document.documentElement.style.scrollBehavior = 'auto'")  # a page that glides is hard to hit
        self.settle()

    def settle(self) -> None:
        """Wait until the explorer is there and what was asked of it is drawn."""
        self.browser.evaluate(
            f"""(async () => {{
              for (let i = 0; i < 200 && !{self.root}; i++) await new Promise((r) => setTimeout(r, 25));
              for (let i = 0; i < 2; i++) await new Promise((r) => requestAnimationFrame(r));
            }})()"""
        )

    def ask(self, expression: str):
        """The value of a JavaScript expression on `root`."""
        return self.browser.evaluate(f"((root) => {expression})({self.root})")

    def one(self, selector: str) -> str:
        return f"root.querySelector({json.dumps(selector)})"

    def shown(self, name: str) -> str:
        """The text that is shown for a named number."""
        return self.ask(f"""{self.one(f'[data-shown="{name}"]')}.textContent""")

    def number(self, name: str) -> float:
        return number(self.shown(name))

    def texts(self, selector: str) -> list[str]:
        return self.ask(f"[...root.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent)")

    def control(self, name: str) -> str:
        return f'[data-control="{name}"]'

    def value(self, name: str) -> str:
        return self.ask(f"{self.one(self.control(name))}.value")

    def choose(self, name: str, value: str) -> None:
        """Choose in a list by its key, with the event that the browser sends."""
        self.ask(
            f"""{{ const e = {self.one(self.control(name))}; e.value = {json.dumps(value)};
            e.dispatchEvent(new Event('change', {{ bubbles: true }})); }}"""
        )
        self.settle()

    def press(self, name: str, *keys: str) -> None:
        """Focus a control and press keys."""
        self.ask(f"{{ {self.one(self.control(name))}.focus({{ preventScroll: true }}); }}")
        for key in keys:
            self.browser.page.keyboard.press(key)
        self.settle()

    def click(self, name: str, across: float = 0.5, down: float = 0.5) -> None:
        """Press the mouse button at a place of a control, as fractions of its width and height."""
        self.drag(name, [(across, down)])

    def drag(self, name: str, way: list[tuple[float, float]], *, finger: bool = False) -> None:
        """Press, move and let go along places of a control."""
        selector = self.control(name)
        self.ask(f"{{ {self.one(selector)}.scrollIntoView({{ block: 'center', behavior: 'instant' }}); }}")
        self.settle()
        box = self.ask(
            f"(({{ x, y, width, height }}) => [x, y, width, height])({self.one(selector)}.getBoundingClientRect())"
        )
        points = [(box[0] + across * box[2], box[1] + down * box[3]) for across, down in way]
        self._slide(points) if finger else self._pull(points)
        self.settle()

    def _pull(self, points: list[tuple[float, float]]) -> None:
        mouse = self.browser.page.mouse
        mouse.move(*points[0])
        mouse.down()
        for point in points[1:]:
            mouse.move(*point)
        mouse.up()

    def _slide(self, points: list[tuple[float, float]]) -> None:
        """One finger; Playwright only taps, so the protocol below it is asked."""
        page = self.browser.page
        finger = page.context.new_cdp_session(page)
        for number, (x, y) in enumerate(points):
            kind = "touchMove" if number else "touchStart"
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        finger.detach()


def number(text: str) -> float:
    """What a shown number says: a true minus, percent, infinity, a dash for none."""
    text = text.strip().replace("−", "-")
    if text.endswith("%"):
        return float(text[:-1]) / 100
    return {"∞": math.inf, "–": math.nan}.get(text) if text in "∞–" else float(text)
