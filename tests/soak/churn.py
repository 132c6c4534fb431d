"""A process that forks, executes programs, and loads and unloads libssl, while it serves TLS.

    churn.py serve CERTIFICATE KEY AUTHORITY LIBSSL

Until its stdin is closed, it starts one child after the other, each of which calls it over TLS: children that were forked,
and programs that such a child executes. In between it loads a copy of LIBSSL, calls it, and unloads it. It prints a JSON
line with its counts. Anything that does not work ends it with an error.
"""

import _ctypes
import contextlib
import ctypes
import json
import os
import select
import socket
import ssl
import struct
import sys
import tempfile

SIZES = (1, 100, 5_000, 40_000)
PAUSE_SECONDS = 0.2
LIMIT_SECONDS = 30
# Each copy is a file of its own, and is deleted while it is loaded.
LOADS_OF_A_COPY = 10


def call(port, authority):
    context = ssl.create_default_context(cafile=authority)
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port), LIMIT_SECONDS) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as secured:
            for size in SIZES:
                sent = os.urandom(size)
                secured.sendall(sent)
                received = b""
                while len(received) < size:
                    more = secured.recv(size - len(received))
                    if not more:
                        raise SystemExit("the server closed the connection")
                    received += more
                if received != sent:
                    raise SystemExit("the server sent other bytes")


def answer(listener, context):
    plain, _ = listener.accept()
    plain.settimeout(LIMIT_SECONDS)
    with context.wrap_socket(plain, server_side=True) as secured:
        while received := secured.recv(1 << 16):
            secured.sendall(received)


def fork(child):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        child()
        code = 0
    finally:
        # Nothing of the parent is left to the child.
        os._exit(code)


def ended(pid):
    _, status = os.waitpid(pid, 0)
    if status:
        raise SystemExit(f"a child ended with status {status}")


def can_be_unloaded(library):
    """The file without the flag NODELETE of its dynamic section (elf.h, DF_1_NODELETE)."""
    DT_FLAGS_1, NODELETE = 0x6FFFFFFB, 0x8
    at = library.find(struct.pack("<Q", DT_FLAGS_1)) + 8
    if at < 8:
        return library
    (flags,) = struct.unpack_from("<Q", library, at)
    return library[:at] + struct.pack("<Q", flags & ~NODELETE) + library[at + 8 :]


class Library:
    """A copy of libssl that is loaded and unloaded."""

    def __init__(self, original, folder):
        with open(original, "rb") as file:
            self._bytes = can_be_unloaded(file.read())
        self._path = os.path.join(folder, "libssl.so.3")
        self._loads = 0

    def load(self):
        if self._loads % LOADS_OF_A_COPY == 0:
            with open(self._path, "wb") as file:
                file.write(self._bytes)
        self._loads += 1
        library = ctypes.CDLL(self._path)
        if self._loads % LOADS_OF_A_COPY == 0:
            os.remove(self._path)
        for _ in range(50):
            # An invalid length: it returns before it uses the connection, and before the library is initialized, after
            # which it could not be unloaded.
            if library.SSL_write(None, b"", -1) != -1:
                raise SystemExit("SSL_write accepts an invalid length")
        return library

    def unload(self, library):
        _ctypes.dlclose(library._handle)
        with open("/proc/self/maps", encoding="utf-8") as maps:
            if self._path in maps.read():
                raise SystemExit("the library is still loaded")


def serve(certificate, key, authority, original):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    counts = {"forks": 0, "programs": 0, "loads": 0}
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LIMIT_SECONDS)
        port = listener.getsockname()[1]
        program = [sys.executable, "-S", __file__, "call", str(port), authority]
        library = Library(original, folder)
        while not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
            loaded = library.load()
            counts["loads"] += 1
            for name, child in (
                ("forks", lambda: call(port, authority)),
                ("programs", lambda: os.execv(program[0], program)),
            ):
                pid = fork(child)
                answer(listener, context)
                ended(pid)
                counts[name] += 1
            library.unload(loaded)
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*sys.argv[2:])
    else:
        call(int(sys.argv[2]), sys.argv[3])
