"""Locks and unlocks with redis-py and its default settings: redis-py.py URL own|one THREADS SECONDS.

Prints for each pair the time at which the lock was acquired, and the duration of the pair, in nanoseconds.
"""

import os
import sys
import threading
import time

import redis


def work(server, key, seconds, pairs):
    lock = server.lock(key, timeout=30)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.monotonic_ns()
        lock.acquire()
        acquired = time.monotonic_ns()
        lock.release()
        pairs.append((acquired, time.monotonic_ns() - start))


def main(url, keys, threads, seconds):
    server = redis.Redis.from_url(url)
    name = "redis-py:one" if keys == "one" else f"redis-py:{os.getpid()}"
    pairs = []
    arguments = [(server, name if keys == "one" else f"{name}:{n}", float(seconds), pairs) for n in range(int(threads))]
    workers = [threading.Thread(target=work, args=each) for each in arguments]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(*(f"{acquired} {took}" for acquired, took in pairs), sep="\n")


main(*sys.argv[1:])
