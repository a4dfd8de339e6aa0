"""CloudWatch as moto has it, in the wire form that AWS' Rust SDK speaks.

moto answers AWS' older protocols only; the SDK speaks CBOR over RPC. Each request is read here by botocore's own model of
CloudWatch, asked of moto by boto3, and the answer written by the same model.

Prints the addresses of the bridge and of moto in one line, and ends with its standard input.
"""

import datetime
import io
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer


def read(stream):
    """One CBOR item."""
    first = stream.read(1)[0]
    major, small = first >> 5, first & 31
    if major == 7:
        if small in (20, 21):
            return small == 21
        if small in (22, 23):
            return None
        if small == 31:
            return StopIteration
        length, form = {25: (2, ">e"), 26: (4, ">f"), 27: (8, ">d")}[small]
        return struct.unpack(form, stream.read(length))[0]
    size = small
    if 24 <= small <= 27:
        size = int.from_bytes(stream.read(1 << (small - 24)), "big")
    endless = small == 31

    def items(count):
        found = []
        while endless or len(found) < count:
            item = read(stream)
            if item is StopIteration:
                break
            found.append(item)
        return found

    if major == 0:
        return size
    if major == 1:
        return -1 - size
    if major in (2, 3):
        data = b"".join(items(0)) if endless else stream.read(size)
        return data.decode() if major == 3 and isinstance(data, bytes) else data
    if major == 4:
        return items(size)
    if major == 5:
        flat = items(size * 2)
        return dict(zip(flat[::2], flat[1::2]))
    return datetime.datetime.fromtimestamp(read(stream), datetime.timezone.utc)


def head(major, size):
    return struct.pack(">BQ", major << 5 | 27, size)


def write(value):
    """A value as CBOR."""
    if value is None:
        return b"\xf6"
    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, float):
        return b"\xfb" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode()
        return head(3, len(data)) + data
    if isinstance(value, datetime.datetime):
        return b"\xc1\xfb" + struct.pack(">d", value.timestamp())
    if isinstance(value, dict):
        return head(5, len(value)) + b"".join(write(key) + write(item) for key, item in value.items())
    return head(4, len(value)) + b"".join(write(item) for item in value)


def typed(value, shape):
    """What the model says is a double: moto may give whole numbers."""
    if shape.type_name == "structure":
        return {key: typed(item, shape.members[key]) for key, item in value.items() if key in shape.members}
    if shape.type_name == "list":
        return [typed(item, shape.member) for item in value]
    return float(value) if shape.type_name in ("double", "float") else value


class Bridge(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        name = self.path.rsplit("/", 1)[-1]
        client = self.server.client
        method = next(method for method, operation in client.meta.method_to_api_mapping.items() if operation == name)
        try:
            answer = getattr(client, method)(**read(io.BytesIO(body)))
            answer.pop("ResponseMetadata")
            shape = client.meta.service_model.operation_model(name).output_shape
            status, answer = 200, typed(answer, shape) if shape else {}
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            told = error.response["Error"]
            answer = {"__type": "com.amazonaws.cloudwatch#" + told["Code"], "message": told["Message"]}
        data = write(answer)
        self.send_response(status)
        self.send_header("smithy-protocol", "rpc-v2-cbor")
        self.send_header("content-type", "application/cbor")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
moto.start()
address = "http://%s:%d" % moto.get_host_and_port()
bridge = ThreadingHTTPServer(("127.0.0.1", 0), Bridge)
bridge.client = boto3.client(
    "cloudwatch",
    endpoint_url=address,
    region_name="eu-central-1",
    aws_access_key_id="bridge",
    aws_secret_access_key="bridge",
)
threading.Thread(target=bridge.serve_forever, daemon=True).start()
print("http://127.0.0.1:%d %s" % (bridge.server_address[1], address), flush=True)
sys.stdin.read()
