"""JSON with anything in it, for hypothesis: what gets past the first look of a decoder.

The messages have the keys that decoders look for, so what is wrong in them is met late.
"""

import json
from typing import Any

import hypothesis.strategies as st

GOOD_UPDATE: dict[str, Any] = {
    "NodeID": "peer",
    "UpdateID": "aB3dE5gH",
    "UpdateEpoch": 1 << 54,
    "UpdateSequence": 7,
    "Connections": {"me": 1.0, "other": 2.5},
    "ForwardingNode": "peer",
    "SuspectedDuplicate": 0,
}
GOOD_ADVERT: dict[str, Any] = {
    "NodeID": "peer",
    "Service": "control",
    "Time": "2026-01-01T00:00:00.123456789Z",
    "ConnType": 1,
    "Tags": {"type": "Control Service"},
    "WorkCommands": [{"WorkType": "echo", "Secure": False}],
    "Cancel": False,
}
GOOD_NOTICE: dict[str, Any] = {
    "FromNode": "me",
    "ToNode": "peer",
    "FromService": "aB3dE5gH",
    "ToService": "control",
    "Problem": "service unknown",
}


ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=12) | st.sampled_from(
    ["\ud800", "a\udfff", "\ud83d\ude00", "\0", "a\nb", "\x9b2J", "ü" * 128, "n" * 17_000]
)
"""Texts with lone surrogates, control characters, and more bytes than most may have."""

NUMBERS = st.one_of(
    st.integers().map(str),
    st.floats().map(json.dumps),
    st.integers(1, 6000).map(lambda count: "9" * count),
    st.integers(1, 6000).map(lambda count: f"0.{'0' * count}1"),
    st.integers(-9999, 9999).map(lambda exponent: f"1e{exponent}"),
    st.sampled_from(["-0", "-0.0", "1E5", "1e+2", "1.0", str(2**64), str(2**64 - 1), "256"]),
)

VALUES = st.recursive(
    st.one_of(
        st.sampled_from(["null", "true", "false"]),
        NUMBERS,
        ANY_TEXT.map(json.dumps),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: f"[{','.join(items)}]"),
        st.lists(st.tuples(ANY_TEXT.map(json.dumps), inner), max_size=4).map(
            lambda pairs: "{" + ",".join(f"{key}:{value}" for key, value in pairs) + "}"
        ),
        st.tuples(st.integers(1, 20_000), inner).map(lambda deep: "[" * deep[0] + deep[1]),
    ),
    max_leaves=6,
)
"""JSON texts of values, most of them right as JSON."""


def bodies(good: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """Return objects with the keys of a good one: values replaced, keys left out or twice."""
    keys = st.sampled_from(sorted(good))
    members = st.lists(
        st.tuples(keys, VALUES | st.none() | keys.map(lambda key: json.dumps(good[key]))),
        max_size=4,
    )

    def assemble(changes: list[tuple[str, str | None]], twice: bool) -> bytes:
        pairs = [(key, json.dumps(value)) for key, value in good.items()]
        for key, text in changes:
            if not twice:
                pairs = [pair for pair in pairs if pair[0] != key]
            if text is not None:
                pairs.append((key, text))
        return ("{" + ",".join(f'"{key}":{text}' for key, text in pairs) + "}").encode()

    whole = st.builds(assemble, members, st.sampled_from([False, False, False, True]))
    return st.one_of(
        whole,
        st.builds(
            lambda body, at, new: body[:at] + new + body[at + 1 :],
            whole,
            st.integers(0, 400),
            st.binary(max_size=3),
        ),
        whole.map(lambda body: body.decode().encode("utf-16")),
        whole.map(lambda body: b"\xef\xbb\xbf" + body),
        st.binary(max_size=200),
    )
