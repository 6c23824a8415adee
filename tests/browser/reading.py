"""Whether a view can be read: by a screen reader, with poor eyes, and whatever names hold."""

from driving import Browser

HOSTILE = "<img src=x onerror=document.title='gone'>\"'&\u202e"
"""A name that does something wherever it is taken for markup."""

NAMES = """
        const names = (one) => (one.textContent.trim() || one.getAttribute("aria-label")
            || [...one.labels ?? []].map((label) => label.textContent.trim()).join(""));
        return {
            nameless: [...document.querySelectorAll("button, a, input, select, textarea")]
                .filter((one) => !one.getAttribute("aria-label") && !names(one))
                .map((one) => one.outerHTML),
            tables: [...document.querySelectorAll("table")]
                .filter((one) => !one.caption?.textContent || !one.querySelector("th[scope=col]"))
                .length,
            pressed: [...document.querySelectorAll("div, span, li, td")]
                .filter((one) => one.onclick || (one.tabIndex >= 0 && !one.getAttribute("role")))
                .length,
            headings: document.querySelectorAll("h1").length,
            landmarks: ["header", "nav[aria-label]", "main"]
                .filter((one) => !document.querySelector(one)),
            styles: document.querySelectorAll("main [style]:not(svg)").length,
            twice: [...document.querySelectorAll("[id]")].filter((one, at, all) =>
                all.findIndex((other) => other.id === one.id) !== at).map((one) => one.id),
        }"""
"""What lacks a name, a head or a heading, or has a style where the policy forbids one."""

CONTRASTS = """
    const parse = (text) => {
        const canvas = new OffscreenCanvas(1, 1).getContext("2d");
        canvas.fillStyle = text;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = ([r, g, b]) => [r, g, b].map((one) => one / 255)
        .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
        .reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0);
    const ground = (one) => {
        for (let at = one; at; at = at.parentElement) {
            const color = parse(getComputedStyle(at).backgroundColor);
            if (color[3] === 255) return color;
        }
        return [255, 255, 255];
    };
    const found = [];
    for (const one of document.querySelectorAll("body *:not(svg *, option, dialog *)")) {
        if (![...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
        if (!one.checkVisibility() || one.closest(":disabled")) continue;
        const [a, b] = [light(parse(getComputedStyle(one).color)), light(ground(one))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        const text = `${one.tagName}.${one.className} ${one.textContent.slice(0, 30)}`;
        if (contrast < 4.5) found.push(`${text}: ${contrast.toFixed(2)}`);
    }
    return found;
"""
"""Texts that stand out less from their ground than people with poor eyes need (WCAG AA)."""


def check(browser: Browser) -> None:
    """Fail unless the view that is shown can be read, in light and in dark."""
    assert browser.run(NAMES) == {
        "nameless": [],
        "tables": 0,
        "pressed": 0,
        "headings": 1,
        "landmarks": [],
        "styles": 0,
        "twice": [],
    }
    assert browser.run(CONTRASTS) == []
    browser.look("dark")
    assert browser.run(CONTRASTS) == []
