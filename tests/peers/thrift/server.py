"""The Thrift server of the end-to-end tests.

    server.py --library MODULE --listen ADDRESS --truth FILE
              [--protocol binary|unversioned|compact] [--transport buffered|framed|header] [--multiplexed]
              [--tls-cert FILE --tls-key FILE]

Prints one JSON line {"pid", "address"} when it listens; at SIGTERM it writes
its record to FILE and ends.
"""

import argparse
import importlib
import json
import os
import signal
import threading

from truth import DECLARED_EXCEPTION, OK, ONEWAY, Truth


class Handler:
    """Handles the calls, and records how each of them ends."""

    def __init__(self, truth, library, prefix):
        self.truth, self.library, self.prefix = truth, library, prefix

    def ends(self, method, outcome):
        self.truth.add(self.prefix + method, outcome)

    def add(self, a, b):
        self.ends("add", OK)
        return a + b

    def ping(self):
        self.ends("ping", OK)

    def echo(self, text):
        self.ends("echo", OK)
        return text

    def order(self, order):
        self.ends("order", OK)
        return order

    def first(self, numbers):
        self.ends("first", OK if numbers else DECLARED_EXCEPTION)
        if not numbers:
            raise self.library.Empty(message="no numbers")
        return numbers[0]

    def note(self, text):
        self.ends("note", ONEWAY)

    def crash(self):
        self.ends("crash", self.library.UNDECLARED)
        raise RuntimeError("the method is called so")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", required=True)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--truth", required=True)
    parser.add_argument("--protocol", choices=["binary", "unversioned", "compact"], default="binary")
    parser.add_argument("--transport", choices=["buffered", "framed", "header"], default="buffered")
    parser.add_argument("--multiplexed", action="store_true")
    parser.add_argument("--tls-cert")
    parser.add_argument("--tls-key")
    args = parser.parse_args()
    library = importlib.import_module(args.library)
    truth = Truth()

    def listens(address):
        print(json.dumps({"pid": os.getpid(), "address": address}), flush=True)

    handler = Handler(truth, library, "Shop:" if args.multiplexed else "")
    tls = {"certificate": (args.tls_cert, args.tls_key)} if args.tls_cert else {}
    serve = library.server(
        handler, args.listen, args.protocol, args.transport, args.multiplexed, listens, **tls
    )
    threading.Thread(target=serve, daemon=True).start()
    signal.sigwait([signal.SIGTERM])
    truth.write(args.truth)
    os._exit(0)


signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
main()
