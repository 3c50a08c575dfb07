"""Moves many pointers at once over the page of a running `segjax serve`, and measures the answers.

    segjax serve photos/ &
    python tools/measure/page_load.py http://127.0.0.1:PORT/ --clients 50 --seconds 60

Every client has a socket of its own, and asks for the next preview when the last one is answered,
but at most every 15 ms. It checks that each answer is the one to its own request and image. Prints
one line of JSON: round trips in ms, answers per second, errors, crossed answers, and the memory of
the server before and after, if it runs on this machine.
"""

import argparse
import asyncio
import json
import pathlib
import random
import time
import urllib.request

import numpy as np
import websockets

INTERVAL = 0.015  # seconds between two moves of a pointer


async def move(address: str, image: str, size: tuple[int, int], until: float, seed: int) -> dict:
    """Moves one pointer until a time. Returns its round trips in ms, errors and crossed answers."""
    rng, times, errors, crossed, number = random.Random(seed), [], 0, 0, seed * 10**6
    async with websockets.connect(address, max_size=None) as socket:
        while time.monotonic() < until:
            number += 1
            point = [rng.random() * size[1], rng.random() * size[0], 1]
            start = time.monotonic()
            message = {"request": number, "image": image, "hover": True}
            await socket.send(json.dumps(message | {"steps": [{"points": [point]}]}))
            answer = json.loads(await socket.recv())
            times.append(1000 * (time.monotonic() - start))
            errors += "error" in answer
            crossed += answer.get("request") != number or answer.get("image") != image
            await asyncio.sleep(max(0.0, INTERVAL - (time.monotonic() - start)))
    return {"times": times, "errors": errors, "crossed": crossed}


def find_memory() -> float | None:
    """Returns the memory in MiB of the process of `segjax serve`, None if it is unknown."""
    for status in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"\0serve\0" in status.read_bytes():
                text = (status.parent / "status").read_text()
                return int(text.split("VmRSS:")[1].split()[0]) / 1024
        except (OSError, IndexError):
            continue
    return None


async def run(args: argparse.Namespace) -> None:
    """Runs all clients and prints the measurements."""
    base = args.address.rstrip("/")
    with urllib.request.urlopen(f"{base}/api/state") as response:
        images = json.load(response)["images"]
    sizes = {}
    for row in images:
        request = urllib.request.Request(f"{base}/api/images/{row['id']}", b"{}", method="POST")
        with urllib.request.urlopen(request) as response:
            opened = json.load(response)
        sizes[row["id"]] = (opened["height"], opened["width"])
    ids, before = list(sizes), find_memory()
    socket = base.replace("http", "ws", 1) + "/api/prompts"
    until = time.monotonic() + args.seconds
    clients = [
        move(socket, ids[n % len(ids)], sizes[ids[n % len(ids)]], until, n + 1)
        for n in range(args.clients)
    ]
    results = await asyncio.gather(*clients)
    times = np.concatenate([result["times"] for result in results])
    measured = {
        "clients": args.clients,
        "answers": len(times),
        "answers_per_second": round(len(times) / args.seconds, 1),
        "p50_ms": round(float(np.percentile(times, 50)), 1),
        "p95_ms": round(float(np.percentile(times, 95)), 1),
        "errors": sum(result["errors"] for result in results),
        "crossed": sum(result["crossed"] for result in results),
        "memory_mib": [before and round(before), (after := find_memory()) and round(after)],
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    asyncio.run(run(parser.parse_args()))
