"""A server of files on this machine that breaks off, lies, refuses and stalls as told, and notes what it is asked."""

import contextlib
import hashlib
import http.server
import threading
import time


class Files(http.server.ThreadingHTTPServer):
    """files: contents by path. The other attributes are faults, and `asked` what came: (method, path, Range)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked = {}, []
        self.cut_after = []
        """Bytes of each next answer to GET after which the connection breaks off."""
        self.ranges = True
        self.status = 0
        """Status of every answer, in place of the file."""
        self.heads = True
        self.stated = None
        """Length that is stated in place of the true one."""
        self.length = "stated"
        """What tells the end of an answer: stated (by Content-Length), chunks, or nothing."""
        self.headers = {}
        self.stall = None
        """Bytes of each GET after which nothing more comes."""
        self.validators = True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def got(self):
        """The ranges that GETs asked for, "" for all of the file."""
        return [asked for method, _, asked in self.asked if method == "GET"]

    def handle_error(self, request, client_address):
        """Broken connections are on purpose."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        if self.server.heads:
            self.answer(body=False)
        else:
            self.note()
            self.send_error(405)

    def do_GET(self):
        self.answer(body=True)

    def note(self):
        self.server.asked.append((self.command, self.path, self.headers.get("Range", "")))

    def answer(self, body):
        server = self.server
        self.note()
        data = server.files.get(self.path.partition("?")[0])
        if server.status or data is None:
            self.send_error(server.status or 404)
            return
        etag, start = f'"{hashlib.sha256(data).hexdigest()[:8]}"', 0
        asked = self.headers.get("Range", "") if server.ranges and self.headers.get("If-Range", etag) == etag else ""
        if asked:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            if start >= len(data):
                self.send_error(416)
                return
        size = len(data) if server.stated is None else server.stated
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if server.length == "stated":
            self.send_header("Content-Length", str(size - start))
        elif server.length == "chunks":
            self.send_header("Transfer-Encoding", "chunked")
        if server.validators:
            self.send_header("ETag", etag)
        for name, x in server.headers.items():
            self.send_header(name, x)
        self.end_headers()
        if body:
            data = data[start:]
            if server.length == "chunks":
                data = b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)
            if server.cut_after:
                data = data[: server.cut_after.pop(0)]
            self.wfile.write(data if server.stall is None else data[: server.stall])
            if server.stall is not None:
                time.sleep(30)
        self.close_connection = True

    def log_message(self, *_):
        """Nothing on stderr."""


@contextlib.contextmanager
def serving():
    """A running server."""
    server = Files()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
