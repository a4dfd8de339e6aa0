"""A gRPC server named by its revision, without generated code: messages are bytes. Prints its port, ends with its input."""

import sys
import threading
from concurrent import futures

import grpc

NAME = sys.argv[1].encode()


def finish(context, count):
    context.set_trailing_metadata((("x-messages", str(count)), ("x-served-by", NAME.decode())))


def unary(request, context):
    if request.endswith(b" is missing"):
        finish(context, 1)
        context.abort(grpc.StatusCode.NOT_FOUND, request.decode())
    finish(context, 1)
    return NAME + b" " + request


def server_stream(request, context):
    """So many messages, a few milliseconds apart: long enough to live through a shift."""
    pause = threading.Event()
    for at in range(int(request)):
        yield NAME + b" " + str(at).encode()
        pause.wait(0.01)
    finish(context, int(request))


def client_stream(requests, context):
    total, count = 0, 0
    for request in requests:
        total, count = total + int(request), count + 1
    finish(context, count)
    return NAME + b" " + str(total).encode()


def bidi(requests, context):
    count = 0
    for request in requests:
        count += 1
        yield NAME + b" " + request
    finish(context, count)


class Calls(grpc.GenericRpcHandler):
    def service(self, call):
        handlers = {
            "/shop.Shop/Unary": grpc.unary_unary_rpc_method_handler(unary),
            "/shop.Shop/ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
            "/shop.Shop/ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
            "/shop.Shop/Bidi": grpc.stream_stream_rpc_method_handler(bidi),
        }
        return handlers.get(call.method)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), handlers=(Calls(),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
server.stop(1).wait()
