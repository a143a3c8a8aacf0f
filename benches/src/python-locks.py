"""Locks and unlocks with redis-py, python-redis-lock or filelock and their default settings.

python-locks.py redis-py|python-redis-lock|filelock ADDRESS PID own|one PROCESSES THREADS SECONDS: threads of processes, each on a separate key or
all on one, at the server with this address and process id, or in this directory and "-". Prints the rate, and the processor times of client and server for an operation:
on one key, a change of the lock to another thread.
"""

import multiprocessing
import os
import sys
import threading
import time

import filelock
import redis
import redis_lock

WARM_UP = 0.25


def lock_of(library, address, server, name):
    if library == "filelock":
        return filelock.FileLock(os.path.join(address, name))
    if library == "redis-py":
        return server.lock(name, timeout=30)
    return redis_lock.Lock(server, name, expire=30)


def work(lock, member, end, holds):
    while time.monotonic() < end:
        lock.acquire()
        holds.append((time.monotonic(), member))
        lock.release()


def process(job):
    """One process: its holds, and the processor time that they took."""
    library, address, keys, number, threads, start, end = job
    server = None if library == "filelock" else redis.Redis.from_url(f"redis://{address}")
    holds, workers = [], []
    for thread in range(threads):
        member = number * threads + thread
        lock = lock_of(library, address, server, "one" if keys == "one" else f"own:{member}")
        workers.append(threading.Thread(target=work, args=(lock, member, end, holds)))
    time.sleep(max(0, start - WARM_UP - time.monotonic()))
    for worker in workers:
        worker.start()
    time.sleep(max(0, start - time.monotonic()))
    used = time.process_time()
    time.sleep(max(0, end - time.monotonic()))
    used = time.process_time() - used
    return holds, used


def main(library, address, pid, keys, processes, threads, seconds):
    processes, seconds = int(processes), float(seconds)
    # As clock_getcpuclockid has it.
    server = None if pid == "-" else (~int(pid) << 3) | 2
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        start = time.monotonic() + WARM_UP + 0.2 + processes * 0.02
        end = start + seconds
        jobs = [(library, address, keys, n, int(threads), start, end) for n in range(processes)]
        results = pool.map_async(process, jobs, chunksize=1)
        time.sleep(start - time.monotonic())
        used = time.clock_gettime(server) if server else 0
        time.sleep(end - time.monotonic())
        used = time.clock_gettime(server) - used if server else 0
        results = results.get()
    holds = sorted(hold for held, _ in results for hold in held if start <= hold[0] < end)
    changes = sum(1 for last, this in zip(holds, holds[1:]) if last[1] != this[1])
    count = max(1, changes if keys == "one" else len(holds))
    print("rate", count / seconds)
    print("client-cpu", sum(each for _, each in results) / count)
    if server:
        print("server-cpu", used / count)


main(*sys.argv[1:])
