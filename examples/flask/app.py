"""Says hello, and which pod answered.

On SIGTERM it finishes what clients have begun and ends with status 0, so that
a rolling update loses no request.
"""

import os
import selectors
import signal
import socket
import time

from flask import Flask
from werkzeug.serving import make_server

app = Flask(__name__)
pod = os.environ.get("POD_NAME") or socket.gethostname()
version = os.environ.get("APP_VERSION", "v1")


@app.get("/")
def hello():
    return f"Hello from pod {pod}, version {version}\n"


@app.get("/healthz")
def healthz():
    return "ok\n"


@app.get("/slow/<int:milliseconds>")
def slow(milliseconds):
    """A request that takes its time, to try a shutdown with."""
    time.sleep(milliseconds / 1000)
    return f"Hello slowly from pod {pod}, version {version}\n"


def accept(server):
    """Hands the next connection, if there is one, to a thread."""
    try:
        connection = server.get_request()
    except OSError:
        return False
    server.process_request(*connection)
    return True


def serve(port):
    server = make_server("0.0.0.0", port, app, threaded=True)
    server.daemon_threads = False  # closing waits for requests in flight
    server.socket.setblocking(False)

    wake, waker = socket.socketpair()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: waker.send(b"x"))
    selector = selectors.DefaultSelector()
    selector.register(server, selectors.EVENT_READ)
    selector.register(wake, selectors.EVENT_READ)
    print(f"{pod} serves version {version} on port {port}", flush=True)

    stopping = False
    while not stopping:
        for key, _ in selector.select():
            stopping = stopping or key.fileobj is wake
        accept(server)
    while accept(server):  # connections that were made but not accepted yet
        pass
    server.server_close()
    print(f"{pod} has served everything, bye", flush=True)


if __name__ == "__main__":
    serve(int(os.environ.get("PORT", "5000")))
