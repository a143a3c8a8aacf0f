// Locks and unlocks with concurrency.Mutex.
//
//	locks ADDRESS PID own|one CLIENTS TASKS SECONDS
//
// Each task of a client has a session, and a separate key or the same one, at the etcd with this address and process id. Prints the rate,
// and the processor times of client and server for an operation: on one key, a change of the lock to another task.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/clientv3"
	"go.etcd.io/etcd/clientv3/concurrency"
	"golang.org/x/sys/unix"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	check(err)
	return value
}

// The processor time that a process has used: its clock as clock_getcpuclockid has it.
func used(process int) float64 {
	var time unix.Timespec
	check(unix.ClockGettime(int32(^process<<3|2), &time))
	return float64(time.Nano()) / 1e9
}

func main() {
	address, server, keys := os.Args[1], number(os.Args[2]), os.Args[3]
	clients, tasks := number(os.Args[4]), number(os.Args[5])
	seconds, err := strconv.ParseFloat(os.Args[6], 64)
	check(err)
	var mutexes []*concurrency.Mutex
	for c := 0; c < clients; c++ {
		client, err := clientv3.New(clientv3.Config{Endpoints: []string{address}})
		check(err)
		for t := 0; t < tasks; t++ {
			session, err := concurrency.NewSession(client)
			check(err)
			key := "one"
			if keys == "own" {
				key = fmt.Sprintf("own%d", len(mutexes))
			}
			mutexes = append(mutexes, concurrency.NewMutex(session, key))
		}
	}
	var count, last int64 = 0, -1
	for member, mutex := range mutexes {
		go func(member int64, mutex *concurrency.Mutex) {
			for {
				check(mutex.Lock(context.Background()))
				if atomic.SwapInt64(&last, member) != member || keys == "own" {
					atomic.AddInt64(&count, 1)
				}
				check(mutex.Unlock(context.Background()))
			}
		}(int64(member), mutex)
	}
	window := time.Duration(seconds * float64(time.Second))
	time.Sleep(window / 4)
	before, start := atomic.LoadInt64(&count), time.Now()
	client, etcd := used(os.Getpid()), used(server)
	time.Sleep(window)
	done := float64(atomic.LoadInt64(&count) - before)
	fmt.Println("rate", done/time.Since(start).Seconds())
	if done > 0 {
		fmt.Println("client-cpu", (used(os.Getpid())-client)/done)
		fmt.Println("server-cpu", (used(server)-etcd)/done)
	}
}
