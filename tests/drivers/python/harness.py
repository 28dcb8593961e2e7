"""What the checks share: running them by name, asking the suite for a replica's death, and the writers that outlive it."""
import sys
import threading
import time
import traceback

# Longest wait for anything that another process brings about, seconds.
LIMIT = 60
# Time between two looks at a condition, seconds.
LOOK_AGAIN = 0.05
# Pause of a writer after an error, seconds.
AFTER_ERROR = 0.1


def expect(what, expected, got):
    """Fails unless both are equal."""
    if expected != got:
        raise AssertionError(f"{what}: expected {expected!r}, got {got!r}")


def expect_error(kind, action):
    """Runs `action`, which must fail with an exception of this class; returns it."""
    try:
        got = action()
    except kind as error:
        return error
    except Exception as error:
        raise AssertionError(f"expected {kind.__name__}, got {type(error).__name__}: {error}") from error
    raise AssertionError(f"expected {kind.__name__}, got an answer: {got!r}")


def until(what, condition):
    """Waits until `condition` gives something true, and returns that."""
    deadline = time.monotonic() + LIMIT
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: expected within {LIMIT} s, got {value!r}")
        time.sleep(LOOK_AGAIN)


def ask(request):
    """Asks the suite for something, by a line, and waits for its answer."""
    print(request, flush=True)
    answer = sys.stdin.readline().strip()
    expect(f"the suite's answer to {request}", "done", answer)


def run(checks):
    """Runs the checks, (name, function) each, prints a line for each, and exits; a function returns what it has seen."""
    failed = False
    for name, check in checks:
        begin = time.monotonic()
        try:
            print(f"ok {name}: {check()} ({time.monotonic() - begin:.1f} s)", flush=True)
        except Exception as error:
            failed = True
            traceback.print_exc()
            print(f"FAILED {name}: {type(error).__name__}: {error}", flush=True)
    sys.exit(failed)


class Writers:
    """Threads that write rows and read each back, until they are told to stop. A write that fails is repeated, the same
    row, until it is acknowledged: it may have been executed."""

    def __init__(self, count, write, read):
        self.write, self.read, self.stopped, self.lock = write, read, threading.Event(), threading.Lock()
        self.acknowledged, self.errors, self.through, self.broken = {}, {}, {}, []
        self.threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(count)]
        for thread in self.threads:
            thread.start()

    def _run(self, number):
        try:
            sequence = 0
            while not self.stopped.is_set():
                value = f"{number}:{sequence}"
                self._until_answered(lambda: self.write(number, sequence, value))
                found = self._until_answered(lambda: self.read(number, sequence))
                expect(f"row {value}, acknowledged and read", value, found)
                with self.lock:
                    self.acknowledged[number, sequence] = value
                sequence += 1
        except Exception as error:
            self.broken.append(error)

    def _until_answered(self, request):
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                answer, host = request()
                with self.lock:
                    self.through[host] = self.through.get(host, 0) + 1
                return answer
            except Exception as error:
                with self.lock:
                    name = type(error).__name__
                    self.errors[name] = self.errors.get(name, 0) + 1
                if time.monotonic() > deadline:
                    raise AssertionError(f"no answer within {LIMIT} s: {error}") from error
                time.sleep(AFTER_ERROR)

    def check(self):
        """Fails when a writer has given up."""
        if self.broken:
            raise self.broken[0]

    def wait_for(self, more):
        """Waits until so many further rows were acknowledged."""
        target = len(self.acknowledged) + more
        until(f"{target} acknowledged rows", lambda: self.check() or len(self.acknowledged) >= target)

    def wait_through(self, host, more):
        """Waits until this replica has answered so many further requests."""
        target = self.through.get(host, 0) + more
        until(f"{more} more answers of {host}", lambda: self.check() or self.through.get(host, 0) >= target)

    def stop(self):
        """Stops the writers; returns the rows that were acknowledged."""
        self.stopped.set()
        for thread in self.threads:
            thread.join(LIMIT)
        self.check()
        return self.acknowledged
