"""WebSockets against an address until the input ends, compressed and not; prints as JSON what came of them.

A socket that the other side closes with 1001 (going away) is opened again; everything else that ends one is wrong.
"""

import asyncio
import collections
import json
import random
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

ADDRESS = sys.argv[1]
LIMIT = 20
counted = collections.Counter()
served_by = collections.Counter()
wrong = []


async def exchange(socket, number):
    """Text, bytes, fragments, a long message, and a ping: each must come back as it was sent."""
    text = f"message {number} äöü"
    noise = random.Random(number)
    long = noise.randbytes(200_000)
    for sent in (text, text.encode(), "", long):
        await socket.send(sent)
        answer = await asyncio.wait_for(socket.recv(), LIMIT)
        assert answer == sent, f"{len(answer)} back for {len(sent)}"
        counted["messages"] += 1
    await socket.send([text, " in ", "pieces"])
    assert await asyncio.wait_for(socket.recv(), LIMIT) == f"{text} in pieces"
    await asyncio.wait_for(await socket.ping(), LIMIT)
    counted["messages"] += 1


async def one(stop, compression):
    number = 0
    while not stop.is_set():
        try:
            async with connect(f"ws://{ADDRESS}/ws", compression=compression, max_size=None, open_timeout=LIMIT) as socket:
                served_by[await asyncio.wait_for(socket.recv(), LIMIT)] += 1
                while not stop.is_set():
                    number += 1
                    await exchange(socket, number)
                    await asyncio.sleep(0.01)
            counted["closed by us"] += 1
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else None
            counted[f"closed with {code}"] += 1
            if code != 1001:
                wrong.append(f"closed with {code}: {closed}")
        except (AssertionError, OSError, asyncio.TimeoutError) as error:
            wrong.append(repr(error))
            await asyncio.sleep(0.1)


async def main():
    stop = asyncio.Event()
    clients = [asyncio.create_task(one(stop, compression)) for compression in ("deflate", None) for _ in range(4)]
    print("begun", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    stop.set()
    await asyncio.gather(*clients)
    print(json.dumps({"done": counted, "served_by": served_by, "wrong": wrong[:10]}))


asyncio.run(main())
