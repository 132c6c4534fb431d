"""A peer's record of its calls. `tests/support/truth.rs` reads it."""

import json
import os
import threading
from collections import Counter

# As in observer-core/src/call/code.rs.
OK = 0
DECLARED_EXCEPTION = 18
APPLICATION_EXCEPTION = 19
ONEWAY = 20
NO_REPLY = 21

SUMS = ["sent", "received", "sent_bytes", "received_bytes", "most_sent", "most_received"]
SUMS += ["any_sent", "any_received"]


class Truth:
    def __init__(self):
        self.calls = Counter()
        self.lock = threading.Lock()

    def add(self, method, outcome):
        with self.lock:
            self.calls[method, outcome] += 1

    def write(self, path):
        rows = [
            {"method": method, "code": code, "calls": calls, **dict.fromkeys(SUMS, 0)}
            for (method, code), calls in sorted(self.calls.items())
        ]
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"pid": os.getpid(), "calls": rows}, file)
