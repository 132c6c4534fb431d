"""The Thrift client of the end-to-end tests.

    client.py --library MODULE --target ADDRESS --plan FILE --truth FILE
              [--protocol binary|unversioned|compact] [--transport buffered|framed|header] [--multiplexed]
              [--tls-ca FILE]

The plan is a list of stages, one after the other; a stage is a list of steps at
the same time, each with a connection of its own: {"calls": [[METHOD, TIMES]], "size": BYTES}.
"""

import argparse
import importlib
import json
import threading

from truth import APPLICATION_EXCEPTION, DECLARED_EXCEPTION, NO_REPLY, OK, ONEWAY, Truth


def arguments(method, library, size):
    if method == "order":
        return [library.order(size)]
    return {
        "add": [1, 2],
        "echo": ["e" * size],
        "first": [[3, 2, 1]],
        "none": [[]],
        "note": ["n" * size],
    }.get(method, [])


class Connection:
    def __init__(self, args, library):
        self.args, self.library = args, library
        self.client = None

    def call(self, method, size):
        """Calls a method, and returns the outcome."""
        library = self.library
        if self.client is None:
            args = self.args
            tls = {"authority": args.tls_ca} if args.tls_ca else {}
            self.client = library.Client(
                args.target, args.protocol, args.transport, args.multiplexed, **tls
            )
        # The method that a name of the plan stands for.
        called = "first" if method == "none" else method
        wanted = arguments(method, library, size)
        try:
            result = self.client.call(called, *wanted)
        except library.Empty:
            return called, DECLARED_EXCEPTION
        except library.ApplicationException:
            return called, APPLICATION_EXCEPTION
        except library.TransportException:
            self.client.close()
            self.client = None
            return called, NO_REPLY
        if method == "order":
            # thriftpy2 reads a set as a list.
            result.tags = set(result.tags)
        if method in ("echo", "order"):
            assert result == wanted[0], method
        return called, ONEWAY if method == "note" else OK

    def close(self):
        if self.client is not None:
            self.client.close()


def carry_out(step, args, library, truth):
    connection = Connection(args, library)
    for method, times in step["calls"]:
        for _ in range(times):
            called, outcome = connection.call(method, step.get("size", 10))
            truth.add(("Shop:" if args.multiplexed else "") + called, outcome)
    connection.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--library", required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--plan", required=True)
    parser.add_argument("--truth", required=True)
    parser.add_argument("--protocol", choices=["binary", "unversioned", "compact"], default="binary")
    parser.add_argument("--transport", choices=["buffered", "framed", "header"], default="buffered")
    parser.add_argument("--multiplexed", action="store_true")
    parser.add_argument("--tls-ca")
    args = parser.parse_args()
    library = importlib.import_module(args.library)
    truth = Truth()
    errors = []

    def run(step):
        try:
            carry_out(step, args, library, truth)
        except BaseException as error:
            errors.append(error)
            raise

    with open(args.plan, encoding="utf-8") as file:
        plan = json.load(file)
    for stage in plan:
        threads = [threading.Thread(target=run, args=[step]) for step in stage]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise SystemExit("a step failed")
    truth.write(args.truth)


main()
