"""A peer's record: calls, messages and bytes by method and status code."""

import json
import os
import threading
import time

import grpc

# The code of a call that the other end cut, so that its server did not choose one.
CUT = -1

# No message is too big for the tests; distinct channels are distinct connections;
# a port is one server's; calls fail at once, and once unless a plan's step says otherwise.
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.so_reuseport", 0),
    ("grpc.enable_retries", 0),
]
# Messages that go out are compressed.
GZIP = ("grpc.default_compression_algorithm", grpc.Compression.Gzip)


class Call:
    """The messages of a running call."""

    def __init__(self, method):
        self.method = method
        self.begun = time.monotonic()
        self.sent = self.received = self.sent_bytes = self.received_bytes = 0
        # The code with which the handler ended; without one the call was cut.
        self.code = CUT

    def send(self, message):
        """Counts a message that goes out and returns it."""
        self.sent += 1
        self.sent_bytes += message.ByteSize()
        return message

    def receive(self, message):
        """Counts a message that came in and returns it."""
        self.received += 1
        self.received_bytes += message.ByteSize()
        return message


class Truth:
    """The sums of all calls of a peer."""

    FIELDS = ("sent", "received", "sent_bytes", "received_bytes")
    # `most_`: in one call; `any_`: calls with at least one.
    SUMS = ("calls", *FIELDS, "most_sent", "most_received", "any_sent", "any_received")

    def __init__(self):
        self._rows = {}
        self._lock = threading.Lock()

    def add(self, call):
        handling_us = int((time.monotonic() - call.begun) * 1e6)
        with self._lock:
            new = {**dict.fromkeys(self.SUMS, 0), "handling_us": []}
            row = self._rows.setdefault((call.method, call.code), new)
            row["handling_us"].append(handling_us)
            row["calls"] += 1
            for field in self.FIELDS:
                row[field] += getattr(call, field)
            row["most_sent"] = max(row["most_sent"], call.sent)
            row["most_received"] = max(row["most_received"], call.received)
            row["any_sent"] += call.sent > 0
            row["any_received"] += call.received > 0

    def write(self, path):
        """Writes the sums; the file appears whole or not at all."""
        with self._lock:
            calls = [{"method": m, "code": c, **row} for (m, c), row in sorted(self._rows.items())]
        with open(path + ".part", "w", encoding="utf-8") as out:
            json.dump({"pid": os.getpid(), "calls": calls}, out)
        os.replace(path + ".part", path)
