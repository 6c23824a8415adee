"""Values that stand where others should, from a seeded source of chance."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from hostile.forge import Raw

T = TypeVar("T")

TEXTS: tuple[str, ...] = (
    *("", " ", "x", "a" * 8, "b" * 9, "c" * 64, "d" * 65, "n" * 255, "n" * 256, "ä" * 127),
    *("ä" * 128, "y" * 4096, "y" * 20_000, "y" * 60_000),
    *("\ud800", "\udfff", "a\udc80b", "\udfff\ud800", "\ud800" * 200, "𝄞", "𝄞" * 63, "𝄞" * 64),
    *(
        "\0",
        "a\0b",
        "\x7f",
        "\x1b[2J",
        "\n",
        "a\nb",
        "\r\n",
        "\u2028",
        "\u202e",
        "\ufeff",
        "\uffff",
    ),
    *("%s%n", "{}", "{0}", "[]", '"', "'", "\\", "\\ud800", "`id`", "$(id)", "${HOME}"),
    *(".", "..", "../..", "/", "/etc/passwd", "a/b", "C:\\", "~", "-", "--help", "*"),
    *("localhost", "LOCALHOST", "victim", "left", "right", "Victim", "victim ", "@PEER@"),
    *("control", "ping", "unreach", "echo", "true", "false", "null", "None", "NaN", "0", "-1"),
)
"""Texts with which programs have had trouble, and names that mean something here."""

TIMES: tuple[str, ...] = (
    *("@NOW@", "@SOON@"),
    *("9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999999999Z", "10000-01-01T00:00:00Z"),
    *(
        "0001-01-01T00:00:00Z",
        "0000-00-00T00:00:00Z",
        "1970-01-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
    ),
    *("2026-01-01T23:59:60Z", "2026-01-01T24:00:00Z", "2026-01-01T00:00:00", "2026-01-01"),
    *("2026-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"),
    *("2026-01-01T00:00:00.1234567890123Z", "2026-01-01T00:00:00.Z", "2026-1-1T0:0:0Z"),
    *("2262-04-11T23:47:16.854775808Z", "1677-09-21T00:12:43Z", "-0001-01-01T00:00:00Z"),
    *("٢٠٢٦-٠١-٠١T٠٠:٠٠:٠٠Z", "2026-01-01t00:00:00z", "2026-W01-1T00:00:00Z", "20260101T000000Z"),
)
"""Times at the edges of what calendars and numbers hold, and what only looks like one."""

NUMBERS: tuple[str, ...] = (
    *("0", "1", "-1", "2", "3", "4", "5", "255", "256", "65535", "65536", "-0", "1e3", "1e-3"),
    *(
        str(n + d)
        for n in (1 << 31, 1 << 32, 1 << 53, 1 << 62, 1 << 63, 1 << 64)
        for d in (-1, 0, 1)
    ),
    *(str(-(1 << n)) for n in (31, 53, 63, 64)),
    *("0.1", "1.0", "1.5", "-0.0", "1e15", "1e20", "1e21", "1e300", "1e308", "1e309", "5e-324"),
    *("NaN", "Infinity", "-Infinity", "9" * 30, "9" * 400, "9" * 4299, "9" * 5000, "1e99999"),
    *("@EPOCH@", "@LATER@", "@SEQ@", "253402300799", "253402300800", "1e18"),
)
"""Numbers at edges; the marked ones are replaced when they are sent."""

STRUCTURES: tuple[str, ...] = (
    *("null", "true", "false", "[]", "{}", "[[]]", '{"":{}}', "[null]", "[1,2]", '[""]', '["x"]'),
    *(
        '{"a":"b"}',
        '{"a":-1}',
        '{"a":0}',
        '{"a":1e999}',
        '{"a":NaN}',
        '{"a":null}',
        '{"\\ud800":1}',
    ),
    *('{"victim":1}', '{"victim":5}', '{"@PEER@":1}', '{"left":1,"right":1}', '{"victim":1e308}'),
    *('[{"WorkType":1}]', '[{"WorkType":"\\ud800"}]', '[{"WorkType":"a","Secure":2}]', "[{}]"),
    "[" * 500 + "]" * 500,
    "[" * 20_000 + "]" * 20_000,
    '{"a":' * 5000 + "1" + "}" * 5000,
    "{" + ",".join(f'"k{n}":1' for n in range(3000)) + "}",
    "{" + ",".join(f'"k{n}":"v"' for n in range(1500)) + "}",
)
"""Other things than a text or a number."""


def text(chance: random.Random) -> str:
    """Return a text that may be trouble."""
    kind = chance.randrange(4)
    if kind == 0:
        return "".join(chr(chance.randrange(0x110000)) for _ in range(chance.randrange(1, 12)))
    if kind == 1:
        return chance.choice(TEXTS) + chance.choice(TEXTS[:10])
    return chance.choice(TEXTS)


def value(chance: random.Random) -> Raw:
    """Return any value as JSON, or nearly."""
    kind = chance.randrange(10)
    if kind < 4:
        return Raw(json.dumps(text(chance), ensure_ascii=chance.random() < 0.8))
    if kind < 7:
        return Raw(chance.choice(NUMBERS))
    if kind < 8:
        return Raw(json.dumps(chance.choice(TIMES)))
    return Raw(chance.choice(STRUCTURES))


def fields(good: Mapping[str, Any], chance: random.Random, *, most: int = 3) -> dict[str, Any]:
    """Return the object with one to ``most`` of its fields replaced, taken away, or misspelt."""
    changed = dict(good)
    for key in chance.sample(sorted(good), min(len(good), chance.randint(1, most))):
        what = chance.randrange(20)
        if what < 16:
            changed[key] = like(good[key], chance)
        elif what == 16:
            del changed[key]
        elif what == 17:
            changed[key.lower()] = changed.pop(key)
        else:
            changed[chance.choice([key.upper(), key + "X", text(chance)])] = value(chance)
    return changed


def like(good: object, chance: random.Random) -> Any:
    """Return a value for that of a field: mostly of the same kind, so that it gets further in."""
    if chance.random() < 0.25:
        return value(chance)
    if isinstance(good, Raw | bool) or good is None:
        return value(chance)
    if isinstance(good, str):
        if len(good) > 10 and good[4:5] == "-" and chance.random() < 0.7:
            return chance.choice(TIMES)
        return text(chance)
    if isinstance(good, int | float):
        return Raw(chance.choice(NUMBERS))
    if isinstance(good, dict):
        return _like_object(good, chance)
    if isinstance(good, list):
        items = [value(chance) for _ in range(chance.choice([0, 1, 1, 2, 5, 50]))]
        return Raw(f"[{','.join(items)}]")
    return value(chance)


def _like_object(good: Mapping[str, Any], chance: random.Random) -> dict[str, Any]:
    changed = dict(good)
    for key in list(changed):
        if chance.random() < 0.3:
            changed[key] = like(changed[key], chance)
        if chance.random() < 0.1:
            del changed[key]
    for _ in range(chance.randrange(3)):
        changed[text(chance)] = like(next(iter(good.values()), ""), chance)
    return changed


def damaged(data: bytes, chance: random.Random, most: int = 4) -> bytes:
    """Return the bytes with a few places replaced, cut out, doubled or cut off."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, most)):
        start = chance.randrange(len(changed) + 1)
        end = min(len(changed), start + chance.randint(1, 8))
        match chance.randrange(6):
            case 0:
                changed[start:end] = chance.randbytes(end - start)
            case 1:
                del changed[start:end]
            case 2:
                changed[start:start] = changed[start:end] * chance.randint(1, 30)
            case 3:
                del changed[start:]
            case 4 if start < len(changed):
                changed[start] ^= 1 << chance.randrange(8)
            case _:
                changed[start:end] = chance.choice(
                    [b"\0", b"\xff", b'"', b"{", b"9" * 30, b"-", b"\xed\xa0\x80", b"\\ud800"]
                )
    return bytes(changed)


def choose(chance: random.Random, weighted: Sequence[tuple[int, Callable[[], T]]]) -> T:
    """Return what one of these makes, each as likely as its weight says."""
    (make,) = chance.choices([m for _, m in weighted], [w for w, _ in weighted])
    return make()
