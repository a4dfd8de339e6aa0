"""A WebSocket server named by its revision; says its name first, then echoes. Prints its port, ends with its input."""

import asyncio
import sys

from websockets.asyncio.server import serve

NAME = sys.argv[1]


async def echo(socket):
    await socket.send(NAME)
    async for message in socket:
        await socket.send(message)


async def main():
    async with serve(echo, "127.0.0.1", 0, max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
