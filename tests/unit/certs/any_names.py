"""Any names that a certificate may have."""

from hypothesis import strategies as st

from meshnode.config.names import Wrong, check_node_id


def is_node_id(text: str) -> bool:
    try:
        check_node_id(text)
    except (Wrong, UnicodeEncodeError):
        return False
    return True


node_ids = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=255).filter(
    is_node_id
)

_labels = st.from_regex(r"[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,10}[a-zA-Z0-9_])?", fullmatch=True)

dns_names = st.builds(
    lambda wild, labels: ("*." if wild else "") + ".".join([*labels, "example"]),
    st.booleans(),
    st.lists(_labels, max_size=4),
)

addresses = st.ip_addresses().map(str)
