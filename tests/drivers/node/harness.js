'use strict';
// What the checks share: running them by name, asking the suite for a replica's death, and the writers that outlive it.
const assert = require('node:assert/strict');
const readline = require('node:readline');
const { setTimeout: sleep } = require('node:timers/promises');

// Longest wait for anything that another process brings about, ms.
const LIMIT = 60_000;
// Time between two looks at a condition, ms.
const LOOK_AGAIN = 50;
// Pause of a writer after an error, ms.
const AFTER_ERROR = 100;

const answers = readline.createInterface({ input: process.stdin });

/** Fails unless both are equal. */
function expect(what, expected, got) {
  assert.deepEqual(got, expected, `${what}: expected ${show(expected)}, got ${show(got)}`);
}

function show(value) {
  return JSON.stringify(value, (_, part) => (part instanceof Set || part instanceof Map ? [...part] : part));
}

/** Awaits what must fail with an error of this class; returns it. */
async function expectError(kind, promise) {
  let got;
  try {
    got = await promise;
  } catch (error) {
    if (error instanceof kind) return error;
    throw new Error(`expected ${kind.name}, got ${error.name}: ${error.message}`, { cause: error });
  }
  throw new Error(`expected ${kind.name}, got an answer: ${show(got)}`);
}

/** Waits until a condition holds. */
async function until(what, condition) {
  const deadline = Date.now() + LIMIT;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`${what}: not so within ${LIMIT} ms`);
    await sleep(LOOK_AGAIN);
  }
}

/** Asks the suite for something, by a line, and waits for its answer. */
async function ask(request) {
  const answer = new Promise(resolve => answers.once('line', resolve));
  console.log(request);
  expect(`the suite's answer to ${request}`, 'done', await answer);
}

/** Runs the checks, [name, function] each, prints a line for each, and says whether all went well; each returns what it has seen. */
async function run(checks) {
  let well = true;
  for (const [name, check] of checks) {
    const begin = Date.now();
    try {
      console.log(`ok ${name}: ${await check()} (${((Date.now() - begin) / 1000).toFixed(1)} s)`);
    } catch (error) {
      well = false;
      console.error(error);
      console.log(`FAILED ${name}: ${error.name}: ${error.message}`);
    }
  }
  answers.close();
  return well;
}

/** Loops that write rows and read each back, until they are told to stop. A write that fails is repeated, the same row,
 *  until it is acknowledged: it may have been executed. */
class Writers {
  constructor(count, write, read) {
    Object.assign(this, { write, read, stopped: false, acknowledged: [], errors: {}, through: {}, broken: null });
    this.loops = Array.from({ length: count }, (_, number) => this.work(number).catch(error => (this.broken = error)));
  }

  async work(writer) {
    for (let sequence = 0; !this.stopped; sequence++) {
      const value = `${writer}:${sequence}`;
      await this.untilAnswered(() => this.write(writer, sequence, value));
      const found = await this.untilAnswered(() => this.read(writer, sequence));
      expect(`row ${value}, acknowledged and read`, value, found);
      this.acknowledged.push(value);
    }
  }

  async untilAnswered(request) {
    const deadline = Date.now() + LIMIT;
    for (;;) {
      try {
        const { value, host } = await request();
        this.through[host] = (this.through[host] ?? 0) + 1;
        return value;
      } catch (error) {
        this.errors[error.name] = (this.errors[error.name] ?? 0) + 1;
        if (Date.now() > deadline) throw new Error(`no answer within ${LIMIT} ms`, { cause: error });
        await sleep(AFTER_ERROR);
      }
    }
  }

  check() {
    if (this.broken) throw this.broken;
  }

  /** Waits until so many further rows were acknowledged. */
  async waitFor(more) {
    const target = this.acknowledged.length + more;
    await until(`${target} acknowledged rows`, () => this.check() ?? this.acknowledged.length >= target);
  }

  /** Waits until this replica has answered so many further requests. */
  async waitThrough(host, more) {
    const target = (this.through[host] ?? 0) + more;
    const what = `${more} more answers of ${host}, from ${show(this.through)}`;
    await until(what, () => this.check() ?? (this.through[host] ?? 0) >= target);
  }

  /** Stops the writers; returns the values that were acknowledged. */
  async stop() {
    this.stopped = true;
    await Promise.all(this.loops);
    this.check();
    return this.acknowledged;
  }
}

module.exports = { Writers, ask, expect, expectError, run, until };
