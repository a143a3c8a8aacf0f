"""The lock of a Python client, for the tests of interop: executes the commands in src/client.rs, one a line.

client.py KIND URL KEY, with KEY as it is on the server.
"""

import os
import random
import sys
import time

import redis
import redis_lock

TTL = 30  # s
RETRY = 0.02  # s
HOLD = 0.001  # s
PAUSE = 0.02  # s, at most


def lock_of(kind, url, key):
    if kind == "redis-py-cluster":
        return redis.RedisCluster.from_url(url, protocol=2).lock(key, timeout=TTL, sleep=RETRY)
    # BLPOP waits for longer than the default. Redis 5 has no other protocol.
    server = redis.Redis.from_url(url, socket_timeout=None, protocol=2)
    if kind == "redis-py":
        return server.lock(key, timeout=TTL, sleep=RETRY)
    if kind == "python-redis-lock":
        return redis_lock.Lock(server, key.removeprefix("lock:"), expire=TTL)
    sys.exit(f"no such client: {kind}")


def say(word):
    print(f"@@{word}", flush=True)


def crowd(lock, history, name, seconds):
    # One short write to a file opened for appending: lines of different processes do not mix.
    file = os.open(history, os.O_WRONLY | os.O_APPEND)
    process = f"{os.getpid()}-{random.getrandbits(32):08x}"
    end = time.monotonic() + float(seconds)
    holds = 0
    while time.monotonic() < end:
        lock.acquire()
        hold = f"{process}-{holds}"
        # time.monotonic is CLOCK_MONOTONIC on Linux.
        os.write(file, f"{time.monotonic_ns()}\t{hold}\t{name}\tacquired\n".encode())
        time.sleep(HOLD)
        os.write(file, f"{time.monotonic_ns()}\t{hold}\t{name}\treleased\n".encode())
        lock.release()
        holds += 1
        time.sleep(random.uniform(0, PAUSE))
    return holds


def main(kind, url, key):
    lock = lock_of(kind, url, key)
    say("ready")
    for line in sys.stdin:
        order, *arguments = line.split()
        if order == "try":
            say("yes" if lock.acquire(blocking=False) else "no")
        elif order == "lock":
            lock.acquire()
            say("locked")
        elif order == "unlock":
            lock.release()
            say("unlocked")
        elif order == "crowd":
            say(crowd(lock, *arguments))
        else:
            sys.exit(f"no such order: {order}")


main(*sys.argv[1:])
