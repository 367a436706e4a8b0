"""What the servers and the calls of the matrix are like, in the order of its table."""

from __future__ import annotations

from typing import Final

MODES: Final = ("unary", "stream", "batch")

CONDITIONS: Final = {
    "ok": "four queries: cut to `top_k`, in several messages, of other scripts, of no contexts",
    "invalid": "an empty query, an empty text, a `top_k` of 0",
    "unknown model": "`--model` names none that is served",
    "deadline": "the client's own passes: the server is stopped (SIGSTOP), and answers nothing",
    "deadline, the server's": "the server's `max_deadline_seconds` pass; the client's own is far",
    "cancel": "the client cancels a call that is being computed; the server's place must become free",
    "too large": "a message above the server's `max_message_bytes`",
    "overloaded": "another client fills the queue for as long as it takes: three attempts, then the refusal",
    "TLS": "TLS and a token, on a server that wants both",
    "TLS, not trusted": "the server's certificate is not of the `--ca`",
    "mTLS": "a server that asks for certificates, and a client that has one",
    "mTLS, no certificate": "the same server, and a client that has none",
    "wrong token": "a token that the server does not accept",
    "drain": "SIGTERM while the call is being computed: it is finished, and the server ends with 0",
    "drain, a new call": "a server that has had SIGTERM, and waits for another client's call",
}
"""Each condition, and what makes it."""
