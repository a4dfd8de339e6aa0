"""Calls of all four kinds against an address until the input ends; prints as JSON what came of them.

Each call knows what it must get: its own messages, each from one revision, its status, and trailers that say how many
messages there were.
"""

import collections
import json
import sys
import threading

import grpc

ADDRESS = sys.argv[1]
LIMIT = 20
stop = threading.Event()
counted = collections.Counter()
served_by = collections.Counter()
wrong = []
lock = threading.Lock()


def revision_of(trailers, count):
    trailers = dict(trailers or ())
    assert trailers.get("x-messages") == str(count), f"trailers {trailers}, expected {count} messages"
    return trailers["x-served-by"]


def unary(channel, number):
    answer, call = channel.unary_unary("/shop.Shop/Unary").with_call(b"%d" % number, timeout=LIMIT)
    revision = revision_of(call.trailing_metadata(), 1)
    assert answer == b"%s %d" % (revision.encode(), number), answer
    return revision


def missing(channel, number):
    asked = f"{number} is missing"
    try:
        answer = channel.unary_unary("/shop.Shop/Unary")(asked.encode(), timeout=LIMIT)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, f"{error.code()}: {error.details()}"
        assert error.details() == asked, error.details()
        return revision_of(error.trailing_metadata(), 1)
    raise AssertionError(f"answered: {answer}")


def server_stream(channel, number):
    count = 5 + number % 40
    call = channel.unary_stream("/shop.Shop/ServerStream")(b"%d" % count, timeout=LIMIT)
    answers = list(call)
    revision = revision_of(call.trailing_metadata(), count)
    assert answers == [b"%s %d" % (revision.encode(), at) for at in range(count)], answers
    return revision


def client_stream(channel, number):
    count = 5 + number % 40

    def messages():
        for at in range(count):
            yield b"%d" % (number + at)
            stop.wait(0.005)

    answer, call = channel.stream_unary("/shop.Shop/ClientStream").with_call(messages(), timeout=LIMIT)
    revision = revision_of(call.trailing_metadata(), count)
    assert answer == b"%s %d" % (revision.encode(), sum(range(number, number + count))), answer
    return revision


def bidi(channel, number):
    count, echoed = 5 + number % 40, threading.Semaphore(0)

    def messages():
        for at in range(count):
            yield b"%d-%d " % (number, at) + b"." * 5000
            # The next one only when this one is back: nothing may be held back on the way.
            assert echoed.acquire(timeout=LIMIT)

    call = channel.stream_stream("/shop.Shop/Bidi")(messages(), timeout=LIMIT)
    answers = []
    for answer in call:
        answers.append(answer)
        echoed.release()
    revision = revision_of(call.trailing_metadata(), count)
    expected = [b"%s %d-%d " % (revision.encode(), number, at) + b"." * 5000 for at in range(count)]
    assert answers == expected, f"{len(answers)} of {count} messages, or wrong ones"
    return revision


def work(kind, channel):
    number = 0
    while not stop.is_set():
        number += 1
        try:
            revision = kind(channel, number)
            with lock:
                counted[kind.__name__] += 1
                served_by[revision] += 1
        except (grpc.RpcError, AssertionError, KeyError) as error:
            said = f"{error.code()}: {error.details()}" if isinstance(error, grpc.RpcError) else repr(error)
            with lock:
                wrong.append(f"{kind.__name__} {number}: {said}")
            stop.wait(0.1)


def run():
    channels = [
        grpc.insecure_channel(ADDRESS, options=(("grpc.use_local_subchannel_pool", 1),)) for _ in range(2)
    ]
    kinds = [unary, missing, server_stream, client_stream, bidi]
    threads = [threading.Thread(target=work, args=(kind, channel)) for channel in channels for kind in kinds]
    for thread in threads:
        thread.start()
    print("begun", flush=True)
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"done": counted, "served_by": served_by, "wrong": wrong[:10]}))


run()
