package main

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Longest wait for anything that another process brings about.
	limit = 60 * time.Second
	// Time between two looks at a condition.
	lookAgain = 50 * time.Millisecond
	// Pause of a writer after an error.
	afterError = 100 * time.Millisecond
)

var answers = bufio.NewScanner(os.Stdin)

// failure is what a check panics with; run reports it.
type failure struct{ error }

func fail(format string, values ...any) { panic(failure{fmt.Errorf(format, values...)}) }

// must fails when there is an error.
func must(err error) {
	if err != nil {
		fail("%T: %w", err, err)
	}
}

// expect fails unless both are equal.
func expect(what string, expected, got any) {
	if !reflect.DeepEqual(expected, got) {
		fail("%s: expected %v, got %v", what, expected, got)
	}
}

// expectError fails unless the error is of this type; gives it.
func expectError[E error](err error) E {
	kind, ok := err.(E)
	if !ok {
		fail("expected %T, got %T: %v", kind, err, err)
	}
	return kind
}

// until waits until a condition holds.
func until(what string, condition func() bool) {
	for deadline := time.Now().Add(limit); !condition(); time.Sleep(lookAgain) {
		if time.Now().After(deadline) {
			fail("%s: not so within %v", what, limit)
		}
	}
}

// ask asks the suite for something, by a line, and waits for its answer.
func ask(request string) {
	fmt.Println(request)
	if !answers.Scan() {
		fail("the suite gave no answer to %s", request)
	}
	expect("the suite's answer to "+request, "done", answers.Text())
}

// check is one of the checks: what it is called, and what gives a text of what it has seen, or panics.
type check struct {
	name string
	run  func() string
}

// runAll runs the checks, prints a line for each, and says whether all went well.
func runAll(checks []check) bool {
	well := true
	for _, check := range checks {
		begin := time.Now()
		seen, err := attempt(check.run)
		if err != nil {
			well = false
			fmt.Printf("FAILED %s: %v\n", check.name, err)
			continue
		}
		fmt.Printf("ok %s: %s (%.1f s)\n", check.name, seen, time.Since(begin).Seconds())
	}
	return well
}

func attempt(run func() string) (seen string, err error) {
	defer func() {
		if found := recover(); found != nil {
			failed, ok := found.(failure)
			if !ok {
				panic(found)
			}
			err = failed.error
		}
	}()
	return run(), nil
}

type key struct{ writer, sequence int }

func (k key) value() string { return fmt.Sprintf("%d:%d", k.writer, k.sequence) }

// request is one request for a row; gives what was read and which replica answered.
type request func(key) (value, host string, err error)

// writers write rows and read each back, until they are told to stop. A write that fails is repeated, the same row, until it
// is acknowledged: it may have been executed.
type writers struct {
	write, read  request
	stopped      atomic.Bool
	running      sync.WaitGroup
	lock         sync.Mutex
	acknowledged []key
	through      map[string]int
	errors       map[string]int
	broken       error
}

func startWriters(count int, write, read request) *writers {
	w := &writers{write: write, read: read, through: map[string]int{}, errors: map[string]int{}}
	for number := range count {
		w.running.Go(func() { w.work(number) })
	}
	return w
}

func (w *writers) work(number int) {
	_, err := attempt(func() string {
		for sequence := 0; !w.stopped.Load(); sequence++ {
			row := key{number, sequence}
			w.untilAnswered(w.write, row)
			expect("row "+row.value()+", acknowledged and read", row.value(), w.untilAnswered(w.read, row))
			w.lock.Lock()
			w.acknowledged = append(w.acknowledged, row)
			w.lock.Unlock()
		}
		return ""
	})
	if err != nil {
		w.lock.Lock()
		w.broken = err
		w.lock.Unlock()
	}
}

func (w *writers) untilAnswered(send request, row key) string {
	for deadline := time.Now().Add(limit); ; time.Sleep(afterError) {
		value, host, err := send(row)
		w.lock.Lock()
		if err == nil {
			w.through[host]++
		} else {
			w.errors[fmt.Sprintf("%T", innermost(err))]++
		}
		w.lock.Unlock()
		if err == nil {
			return value
		}
		if time.Now().After(deadline) {
			fail("no answer within %v: %w", limit, err)
		}
	}
}

func innermost(err error) error {
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return err
}

// look gives what is known so far; fails when a writer has given up.
func (w *writers) look() (acknowledged int, through map[string]int) {
	w.lock.Lock()
	defer w.lock.Unlock()
	must(w.broken)
	return len(w.acknowledged), maps.Clone(w.through)
}

// waitFor waits until so many further rows were acknowledged.
func (w *writers) waitFor(more int) {
	before, _ := w.look()
	until(fmt.Sprintf("%d acknowledged rows", before+more), func() bool {
		now, _ := w.look()
		return now >= before+more
	})
}

// waitThrough waits until this replica has answered so many further requests.
func (w *writers) waitThrough(host string, more int) {
	_, before := w.look()
	until(fmt.Sprintf("%d more answers of %s, from %v", more, host, before), func() bool {
		_, now := w.look()
		return now[host] >= before[host]+more
	})
}

// stop stops the writers; gives the rows that were acknowledged.
func (w *writers) stop() []key {
	w.stopped.Store(true)
	w.running.Wait()
	w.look()
	return w.acknowledged
}
