'use strict';
// The checks of docs/drivers.md with the Node driver, as it is without settings.
//
// checks.js CONTACT REPLICA... : the contact point, and the addresses of all replicas; port 9042
const cassandra = require('cassandra-driver');
const { Writers, ask, expect, expectError, run, until } = require('./harness.js');
const quickstart = require('./quickstart.js');

const { consistencies, protocolVersion, responseErrorCodes, dataTypes } = cassandra.types;
const { ResponseError } = cassandra.errors;
const KEYSPACE = 'drivers_node';
const ROWS = 10_000;
const SOME = 200;
const [contact, ...replicas] = process.argv.slice(2);
replicas.sort();

const open = (host, keyspace) => new cassandra.Client({ contactPoints: [host], localDataCenter: 'datacenter1', keyspace });
let client;

// At quorum unless told otherwise: the driver reads through another replica than it has written through, and its own level,
// localOne, would show what that one has executed so far.
const quorum = { consistency: consistencies.quorum };
const prepared = (text, values, options) => client.execute(text, values, { prepare: true, ...quorum, ...options });
const one = async (text, values, options) => (await prepared(text, values, options)).first()?.values() ?? null;
const address = host => host.split(':')[0];
const table = name => client.metadata.getTable(KEYSPACE, name);

const checks = {
  async quickstart() {
    expect('the item', 'tea', await quickstart(contact));
    return 'the snippet of the documentation';
  },

  async connect() {
    await until('all replicas are known and up', () => {
      const up = client.hosts.values().filter(host => host.isUp()).map(host => address(host.address));
      return JSON.stringify(up.sort()) === JSON.stringify(replicas);
    });
    const version = Object.entries(protocolVersion).find(([, number]) => number === client.controlConnection.protocolVersion)[0];
    return `${replicas.length} replicas, protocol version ${version}, Cassandra ${await one('SELECT release_version FROM system.local')}`;
  },

  async schema() {
    const result = await client.execute('CREATE TABLE seen (a int, b text, c frozen<list<int>>, PRIMARY KEY (a, b))');
    expect('schema agreement', true, result.info.isSchemaInAgreement);
    const columns = (await table('seen')).columns.map(({ name, type }) => [name, type.code]).sort();
    expect('columns', [['a', dataTypes.int], ['b', dataTypes.text], ['c', dataTypes.list]], columns);
    await client.execute('CREATE INDEX seen_b ON seen (b)');
    // The driver forgets what it knows of a table when the event comes.
    await until('an index', async () => (await table('seen')).indexes[0]?.name === 'seen_b');
    await client.execute('ALTER TABLE seen ADD d uuid');
    await until('an added column', async () => 'd' in (await table('seen')).columnsByName);
    await client.execute('DROP TABLE seen');
    await until('a dropped table', async () => (await table('seen')) === null);
    return 'created, indexed, altered and dropped as the metadata shows';
  },

  async statements() {
    await client.execute('CREATE TABLE statements (k int PRIMARY KEY, v text)');
    await client.execute("INSERT INTO statements (k, v) VALUES (1, 'simple')");
    await client.execute('INSERT INTO statements (k, v) VALUES (?, ?)', [2, "it's"], { hints: ['int', 'text'] });
    const insert = 'INSERT INTO statements (k, v) VALUES (?, ?)';
    await prepared(insert, [3, 'prepared']);
    await prepared('INSERT INTO statements (k, v) VALUES (:k, :v)', { v: 'named', k: 4 });
    await prepared(insert, [5, null]);
    await prepared('UPDATE statements SET v = ? WHERE k = ?', [cassandra.types.unset, 1]); // stays as it is
    const rows = (await prepared('SELECT k, v FROM statements')).rows.map(row => row.values());
    const expected = [[1, 'simple'], [2, "it's"], [3, 'prepared'], [4, 'named'], [5, null]];
    expect('rows', expected, rows.sort(([a], [b]) => a - b));
    const select = 'SELECT * FROM statements WHERE k = ?';
    expect('a prepared read', [3, 'prepared'], await one(select, [3]));
    await client.execute('ALTER TABLE statements ADD w int');
    expect('the same statement when a column was added', [3, 'prepared', null], await one(select, [3]));
    await Promise.all(Array.from({ length: 200 }, (_, i) => prepared(insert, [100 + i, `${i}`])));
    expect('concurrent writes', '205', `${await one('SELECT count(*) FROM statements')}`);
    return 'simple, prepared, named, unset, null, 200 at once';
  },

  async types() {
    const { BigDecimal, Duration, InetAddress, Integer, LocalDate, LocalTime, Long, TimeUuid, Tuple, Uuid, Vector } = cassandra.types;
    await client.execute('CREATE TYPE address (street text, number int, phones frozen<set<text>>)');
    const home = { street: 'Elm', number: 7, phones: ['1', '2'] };
    const columns = Object.entries({
      ascii: 'plain', bigint: Long.MIN_VALUE, blob: Buffer.from([0, 255]), boolean: true, date: new LocalDate(1969, 7, 20),
      decimal: BigDecimal.fromString('-12345678901234567890.0123456789'), double: 1.5e-300,
      duration: new Duration(14, 3, Long.fromString('5000000001')), float: 0.25, inet: InetAddress.fromString('2001:db8::1'),
      int: -(2 ** 31), smallint: -(2 ** 15), text: 'Grüße, 世界 🌍', time: LocalTime.fromString('23:59:59.999999999'),
      timestamp: new Date('2026-02-28T12:30:15.123Z'), timeuuid: TimeUuid.fromString('8e14e760-7fa8-11eb-bc66-000000000001'),
      tinyint: -128, uuid: Uuid.fromString('123e4567-e89b-42d3-a456-426614174000'), varint: Integer.fromString('1' + '0'.repeat(40)),
      'list<int>': [3, 1, 3], 'set<text>': ['a', 'b'], 'map<text, int>': { x: 1, y: -1 },
      'map<text, frozen<list<frozen<set<int>>>>>': { n: [[1, 2], [3]] }, 'tuple<int, text, double>': new Tuple(1, 'two', 0.5),
      'vector<float, 3>': new Vector([0.5, -1, 2], 'float'), 'vector<text, 2>': new Vector(['one', 'two'], 'text'),
      address: home, 'list<frozen<address>>': [home, home],
    });
    const names = columns.map((_, i) => `c${i}`);
    await client.execute(`CREATE TABLE types (id int PRIMARY KEY, ${columns.map(([kind], i) => `c${i} ${kind}`).join(', ')})`);
    const insert = `INSERT INTO types (id, ${names.join(', ')}) VALUES (?${', ?'.repeat(names.length)})`;
    await prepared(insert, [1, ...columns.map(([, value]) => value)]);
    await prepared(insert, [2, ...columns.map(() => null)]);
    const select = `SELECT ${names.join(', ')} FROM types WHERE id = ?`;
    const found = await one(select, [1]);
    const plain = value => (value instanceof Vector ? [...value] : value);
    columns.forEach(([kind, value], i) => {
      const [expected, got] = [plain(value), plain(found[i])];
      const same = typeof value.equals === 'function' && got !== null ? expected.equals?.(got) : undefined;
      if (same !== true) expect(kind, JSON.stringify(expected), JSON.stringify(got));
    });
    expect('nulls', names.map(() => null), await one(select, [2]));
    return `${names.length} columns of all types written and read, and as nulls`;
  },

  async batches() {
    await client.execute('CREATE TABLE batched (k int, c int, v text, PRIMARY KEY (k, c))');
    await client.execute('CREATE TABLE counted (k int PRIMARY KEY, n counter)');
    for (const [k, logged] of [[1, true], [2, false]]) {
      const query = 'INSERT INTO batched (k, c, v) VALUES (?, ?, ?)';
      const batch = Array.from({ length: 20 }, (_, c) => ({ query, params: [k, c, 'prepared'] }));
      await client.batch(batch, { prepare: true, logged });
      await client.batch([`INSERT INTO batched (k, c, v) VALUES (${k}, 20, 'simple')`], { logged });
      expect('rows of a batch', '21', `${await one('SELECT count(*) FROM batched WHERE k = ?', [k])}`);
    }
    const query = 'UPDATE counted SET n = n + ? WHERE k = ?';
    await client.batch(Array.from({ length: 5 }, (_, k) => ({ query, params: [k + 1, k % 2] })), { prepare: true, counter: true });
    const rows = (await prepared('SELECT k, n FROM counted')).rows.map(({ k, n }) => `${k}: ${n}`);
    expect('counters of a batch', ['0: 9', '1: 6'], rows.sort());
    return 'logged, unlogged, counter';
  },

  async paging() {
    await client.execute('CREATE TABLE paged (k int, c int, PRIMARY KEY (k, c))');
    for (let begin = 0; begin < ROWS; begin += 100) {
      const query = 'INSERT INTO paged (k, c) VALUES (?, ?)';
      const batch = Array.from({ length: 100 }, (_, i) => ({ query, params: [begin / 100, begin + i] }));
      await client.batch(batch, { prepare: true, logged: false });
    }
    const seen = new Set();
    for await (const { c } of await prepared('SELECT c FROM paged')) seen.add(c);
    expect('rows of pages of the default size', ROWS, seen.size);
    let [pageState, pages, rows] = [undefined, 0, 0];
    do { // as a web page does, from what it has kept
      const page = await prepared('SELECT c FROM paged', [], { fetchSize: 700, pageState });
      [pageState, pages, rows] = [page.pageState, pages + 1, rows + page.rows.length];
    } while (pageState);
    expect('rows by paging states', ROWS, rows);
    return `${ROWS} rows, also in ${pages} pages from their states`;
  },

  async conditions() {
    await client.execute('CREATE TABLE conditional (k int PRIMARY KEY, v text, w int)');
    const insert = 'INSERT INTO conditional (k, v, w) VALUES (?, ?, ?) IF NOT EXISTS';
    expect('applied', true, (await prepared(insert, [1, 'first', 1])).wasApplied());
    const not = await prepared(insert, [1, 'second', 2]);
    expect('was applied', false, not.wasApplied());
    expect('not applied', [false, 1, 'first', 1], not.first().values());
    const update = 'UPDATE conditional SET v = ? WHERE k = ? IF w = ?';
    expect('condition that does not hold', [false, 1], await one(update, ['x', 1, 5]));
    expect('condition that holds', [true], await one(update, ['third', 1, 1]));
    expect('nothing there', [false], await one('DELETE FROM conditional WHERE k = 9 IF EXISTS'));
    expect('the row', ['third', 1], await one('SELECT v, w FROM conditional WHERE k = 1'));
    return 'applied, and not applied with the row that is there';
  },

  async counters() {
    await client.execute('CREATE TABLE counters (k text PRIMARY KEY, n counter)');
    const add = 'UPDATE counters SET n = n + ? WHERE k = ?';
    await Promise.all(Array.from({ length: 101 }, (_, i) => prepared(add, [i, 'a'])));
    await client.execute("UPDATE counters SET n = n - 50 WHERE k = 'a'");
    const read = await one("SELECT n FROM counters WHERE k = 'a'");
    expect('the counter', '5000', `${read}`);
    return '102 changes, each once';
  },

  async ttl() {
    await client.execute('CREATE TABLE expiring (k int PRIMARY KEY, v text)');
    const insert = 'INSERT INTO expiring (k, v) VALUES (?, ?) USING TTL ?';
    await prepared(insert, [1, 'short', 2]);
    await prepared(insert, [2, 'long', 1000]);
    const [left] = await one('SELECT ttl(v) FROM expiring WHERE k = 2');
    expect('seconds left of 1000', true, 900 < left && left <= 1000);
    await until('the end of a row', async () => (await one('SELECT v FROM expiring WHERE k = 1')) === null);
    expect('the other row', ['long'], await one('SELECT v FROM expiring WHERE k = 2'));
    return 'a row has ended, another says when';
  },

  async consistency() {
    await client.execute('CREATE TABLE levels (k int PRIMARY KEY, v int)');
    const read = level => one('SELECT v FROM levels WHERE k = 1', [], { consistency: consistencies[level] });
    for (const [number, level] of ['one', 'quorum', 'all', 'localOne', 'localQuorum'].entries()) {
      await prepared('INSERT INTO levels (k, v) VALUES (1, ?)', [number], { consistency: consistencies[level] });
      for (const level of ['quorum', 'serial', 'localSerial']) expect(`read at ${level}`, [number], await read(level));
      await until('read at one', async () => (await read('one'))[0] === number);
    }
    const conditional = 'UPDATE levels SET v = 9 WHERE k = 1 IF v = 4';
    expect('a conditional write', [true], await one(conditional, [], { serialConsistency: consistencies.localSerial }));
    const refused = prepared('INSERT INTO levels (k, v) VALUES (1, 0)', [], { consistency: consistencies.serial });
    expect('the code', responseErrorCodes.invalid, (await expectError(ResponseError, refused)).code);
    return 'five levels of writes, four of reads';
  },

  async errors() {
    const refused = async text => {
      const { code, message, keyspace, table } = await expectError(ResponseError, client.execute(text));
      return { code, message, keyspace, table };
    };
    const syntax = await refused('SELEC * FROM nothing');
    expect('the code', responseErrorCodes.syntaxError, syntax.code);
    expect('what it says', true, syntax.message.includes('no viable alternative'));
    const unknown = await refused('SELECT * FROM nothing');
    expect('the code', responseErrorCodes.invalid, unknown.code);
    expect('what it says', true, unknown.message.includes('table nothing does not exist'));
    await client.execute('CREATE TABLE there (k int PRIMARY KEY)');
    const there = await refused('CREATE TABLE there (k int PRIMARY KEY)');
    expect('which table', [responseErrorCodes.alreadyExists, KEYSPACE, 'there'], [there.code, there.keyspace, there.table]);
    return "syntax, invalid and already-exists errors by the driver's own codes";
  },

  async events() {
    expect('before', null, await table('elsewhere')); // the driver keeps that until an event comes
    const other = open(replicas.find(host => host !== contact), KEYSPACE);
    await other.execute('CREATE TABLE elsewhere (k int PRIMARY KEY)');
    await other.shutdown();
    await until('the table of another session', async () => (await table('elsewhere')) !== null);
    return "another session's table came by an event";
  },

  async failover() {
    await client.execute('CREATE TABLE failover (w int, s int, v text, PRIMARY KEY ((w, s)))');
    const [insert, select] = ['INSERT INTO failover (w, s, v) VALUES (?, ?, ?)', 'SELECT v FROM failover WHERE w = ? AND s = ?'];
    const answer = result => ({ value: result.first()?.v, host: address(result.info.queriedHost) });
    const writers = new Writers(4,
      async (...row) => answer(await prepared(insert, row)), async (...key) => answer(await prepared(select, key)));
    for (const host of replicas) await writers.waitThrough(host, 10);
    await ask(`KILL ${contact}`); // the one that the driver hears events from
    await writers.waitFor(SOME);
    const down = () => client.hosts.values().filter(host => !host.isUp()).map(host => address(host.address));
    await until('the driver knows', () => down().join() === contact);
    await ask(`START ${contact}`);
    await writers.waitThrough(contact, SOME);
    const acknowledged = await writers.stop();
    const found = new Set();
    for await (const { v } of await prepared('SELECT v FROM failover')) found.add(v);
    expect('acknowledged rows that are lost', [], acknowledged.filter(value => !found.has(value)).slice(0, 3));
    return `${acknowledged.length} acknowledged rows, none lost; errors meanwhile: ${JSON.stringify(writers.errors)}`;
  },
};

async function main() {
  const first = open(contact);
  await first.execute(`CREATE KEYSPACE ${KEYSPACE} WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 3}`);
  await first.shutdown();
  client = open(contact, KEYSPACE);
  await client.connect();
  const well = await run(Object.entries(checks));
  await client.shutdown();
  return well ? 0 : 1;
}

main().then(code => process.exit(code), error => {
  console.log(`FAILED to connect: ${error.stack}`);
  process.exit(1);
});
