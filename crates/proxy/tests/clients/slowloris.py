"""Many clients that send their request byte by byte, and so never end it; prints a line of JSON when all were closed.

One kind drips a head, header after header, the other one a body. Each goes on until the other side closes.
"""

import asyncio
import collections
import json
import sys

ADDRESS, PORT = sys.argv[1].rsplit(":", 1)
HEADS, BODIES = int(sys.argv[2]), int(sys.argv[3])
counted = collections.Counter()
HEAD = b"GET / HTTP/1.1\r\nhost: shop.test\r\n"
BODY = b"POST /post HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 1000000\r\n\r\n"


async def drip(kind):
    """Returns what it was told before it was closed: a status, or nothing."""
    reader, writer = await asyncio.open_connection(ADDRESS, int(PORT))
    rest = HEAD if kind == "head" else b""
    if kind == "body":
        writer.write(BODY)
    heard = asyncio.create_task(reader.read())
    while not heard.done():
        if not rest:
            rest = b"x-slow: 1\r\n" if kind == "head" else b"."
        try:
            writer.write(rest[:1])
            await writer.drain()
        except ConnectionError:
            break
        rest = rest[1:]
        await asyncio.wait([heard], timeout=0.25)
    try:
        said = await heard
    except ConnectionError:
        said = b""
    writer.close()
    counted[f"{kind} {said[9:12].decode() or 'closed'}"] += 1


async def main():
    clients = [asyncio.create_task(drip("head")) for _ in range(HEADS)]
    clients += [asyncio.create_task(drip("body")) for _ in range(BODIES)]
    print("begun", flush=True)
    await asyncio.gather(*clients)
    print(json.dumps(counted))


asyncio.run(main())
