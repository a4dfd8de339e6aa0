"""Streams of HTTP/2 by the h2 library, which refuses what RFC 9113 forbids, until the input ends; prints as JSON what came.

Each connection has streams of three kinds in flight at once: GETs, uploads of 100 KB that come back (flow control both
ways), and streams that it gives up itself.
"""

import collections
import json
import socket
import sys
import threading

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

HOST, PORT = sys.argv[1].rsplit(":", 1)
AT_ONCE = 30
BODY = bytes(range(256)) * 400
stop = threading.Event()
counted = collections.Counter()
served_by = collections.Counter()
wrong = []


class Stream:
    def __init__(self, kind):
        self.kind = kind
        self.left = BODY if kind == "upload" else b""
        self.status = None
        self.revision = None
        self.body = b""


class Connection:
    def __init__(self):
        self.socket = socket.create_connection((HOST, int(PORT)))
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.streams = {}
        self.opened = 0

    def run(self):
        """Opens streams until the end; returns when the last one is done."""
        self.socket.settimeout(20)
        while True:
            while not stop.is_set() and len(self.streams) < AT_ONCE:
                self.open()
            self.send()
            if not self.streams:
                return
            data = self.socket.recv(65536)
            if not data:
                raise AssertionError(f"closed with {len(self.streams)} streams in flight")
            for event in self.h2.receive_data(data):
                self.take(event)

    def open(self):
        kind = ("get", "upload", "given up")[self.opened % 3]
        self.opened += 1
        number = self.h2.get_next_available_stream_id()
        path = {"get": "/id", "upload": "/echo", "given up": "/slow/50"}[kind]
        head = [
            (":method", "POST" if kind == "upload" else "GET"),
            (":scheme", "http"),
            (":authority", "shop.test"),
            (":path", path),
        ]
        self.h2.send_headers(number, head, end_stream=kind != "upload")
        self.streams[number] = Stream(kind)
        if kind == "given up":
            self.h2.reset_stream(number, h2.errors.ErrorCodes.CANCEL)
            self.end(number)

    def send(self):
        """Sends what the windows allow."""
        for number, stream in self.streams.items():
            while stream.left:
                room = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
                if room <= 0:
                    break
                piece, stream.left = stream.left[:room], stream.left[room:]
                self.h2.send_data(number, piece, end_stream=not stream.left)
        self.socket.sendall(self.h2.data_to_send())

    def take(self, event):
        number = getattr(event, "stream_id", None)
        stream = self.streams.get(number)
        if isinstance(event, h2.events.ConnectionTerminated):
            raise AssertionError(f"closed by GOAWAY: {event}")
        elif isinstance(event, h2.events.DataReceived):
            self.h2.acknowledge_received_data(event.flow_controlled_length, number)
            if stream:
                stream.body += event.data
        elif stream is None:
            return
        elif isinstance(event, h2.events.ResponseReceived):
            head = dict(event.headers)
            stream.status, stream.revision = head[":status"], head.get("x-served-by")
        elif isinstance(event, h2.events.StreamReset):
            wrong.append(f"{stream.kind}: reset with {event.error_code!r}")
            self.end(number)
        elif isinstance(event, h2.events.StreamEnded):
            expected = BODY if stream.kind == "upload" else (stream.revision or "").encode()
            if stream.status != "200" or stream.body != expected:
                wrong.append(f"{stream.kind}: {stream.status}, {len(stream.body)} bytes from {stream.revision}")
            served_by[stream.revision] += 1
            self.end(number)

    def end(self, number):
        counted[self.streams.pop(number).kind] += 1


def work():
    while not stop.is_set():
        try:
            Connection().run()
        except (AssertionError, OSError, h2.exceptions.ProtocolError) as error:
            wrong.append(repr(error))
            stop.wait(0.1)


threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
print("begun", flush=True)
sys.stdin.read()
stop.set()
for thread in threads:
    thread.join()
print(json.dumps({"done": counted, "served_by": served_by, "wrong": wrong[:10]}))
