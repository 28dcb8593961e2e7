// The checks of docs/drivers.md with gocql, as it is without settings.
//
// checks CONTACT REPLICA... : the contact point, and the addresses of all replicas; port 9042
package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	gocql "github.com/apache/cassandra-gocql-driver/v2"
)

const (
	keyspace = "drivers_go"
	rows     = 10_000
	some     = 200
)

type checks struct {
	contact  string
	replicas []string
	session  *gocql.Session
}

func main() {
	c := &checks{contact: os.Args[1], replicas: slices.Sorted(slices.Values(os.Args[2:]))}
	first, err := gocql.NewCluster(c.contact).CreateSession()
	exitOn(err)
	exitOn(first.Query("CREATE KEYSPACE " + keyspace + " WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 3}").Exec())
	first.Close()
	c.session, err = open(c.contact)
	exitOn(err)
	well := runAll([]check{
		{"quickstart", c.quickstart}, {"connect", c.connect}, {"schema", c.schema}, {"statements", c.statements},
		{"types", c.types}, {"batches", c.batches}, {"paging", c.paging}, {"conditions", c.conditions},
		{"counters", c.counters}, {"ttl", c.ttl}, {"consistency", c.consistency}, {"errors", c.errors},
		{"events", c.events}, {"failover", c.failover},
	})
	c.session.Close()
	if !well {
		os.Exit(1)
	}
}

func exitOn(err error) {
	if err != nil {
		fmt.Println("FAILED to connect:", err)
		os.Exit(1)
	}
}

func open(host string) (*gocql.Session, error) {
	cluster := gocql.NewCluster(host)
	cluster.Keyspace = keyspace // gocql has no other way
	return cluster.CreateSession()
}

func (c *checks) exec(text string, values ...any) { must(c.session.Query(text, values...).Exec()) }

func (c *checks) count(text string, values ...any) int {
	var number int
	must(c.session.Query(text, values...).Scan(&number))
	return number
}

func (c *checks) text(query *gocql.Query) string {
	var found string
	must(query.Scan(&found))
	return found
}

func (c *checks) table(name string) *gocql.TableMetadata {
	metadata, err := c.session.KeyspaceMetadata(keyspace)
	must(err)
	return metadata.Tables[name]
}

func (c *checks) quickstart() string {
	item, err := quickstart(c.contact)
	must(err)
	expect("the item", "tea", item)
	return "the snippet of the documentation"
}

func (c *checks) up() []string {
	var up []string
	for _, host := range c.session.GetHosts() {
		if host.IsUp() {
			up = append(up, host.ConnectAddress().String())
		}
	}
	slices.Sort(up)
	return up
}

func (c *checks) connect() string {
	until("all replicas are known and up", func() bool { return slices.Equal(c.up(), c.replicas) })
	version := c.text(c.session.Query("SELECT release_version FROM system.local"))
	return fmt.Sprintf("%d replicas, Cassandra %s", len(c.replicas), version)
}

func (c *checks) schema() string {
	c.exec("CREATE TABLE seen (a int, b text, c frozen<list<int>>, PRIMARY KEY (a, b))")
	// gocql learns of its own changes, too, by events.
	until("a table's columns", func() bool { return c.table("seen") != nil && len(c.table("seen").Columns) == 3 })
	expect("a column's type", gocql.TypeText, c.table("seen").Columns["b"].Type.Type())
	c.exec("CREATE INDEX seen_b ON seen (b)")
	c.exec("ALTER TABLE seen ADD d uuid")
	until("an added column", func() bool { return c.table("seen").Columns["d"] != nil })
	c.exec("DROP TABLE seen")
	until("a dropped table", func() bool { return c.table("seen") == nil })
	return "created, indexed, altered and dropped as the metadata shows"
}

func (c *checks) statements() string {
	c.exec("CREATE TABLE statements (k int PRIMARY KEY, v text)")
	c.exec("INSERT INTO statements (k, v) VALUES (1, 'simple')")
	insert := "INSERT INTO statements (k, v) VALUES (?, ?)"
	c.exec(insert, 2, "it's") // gocql prepares what has values
	c.exec(insert, 3, "prepared")
	c.exec("INSERT INTO statements (k, v) VALUES (:k, :v)", gocql.NamedValue("k", 4), gocql.NamedValue("v", "named"))
	c.exec(insert, 5, nil)
	c.exec("UPDATE statements SET v = ? WHERE k = ?", gocql.UnsetValue, 1) // stays as it is
	found := map[int]string{}
	scanner := c.session.Query("SELECT k, v FROM statements").Iter().Scanner()
	for scanner.Next() {
		var k int
		var v *string
		must(scanner.Scan(&k, &v))
		if v == nil {
			found[k] = "null"
		} else {
			found[k] = *v
		}
	}
	must(scanner.Err())
	expect("rows", map[int]string{1: "simple", 2: "it's", 3: "prepared", 4: "named", 5: "null"}, found)
	wider := map[string]any{}
	must(c.session.Query("SELECT * FROM statements WHERE k = ?", 3).MapScan(wider))
	expect("a prepared read", map[string]any{"k": 3, "v": "prepared"}, wider)
	c.exec("ALTER TABLE statements ADD w int")
	wider = map[string]any{}
	must(c.session.Query("SELECT * FROM statements WHERE k = ?", 3).MapScan(wider))
	expect("the same statement when a column was added", map[string]any{"k": 3, "v": "prepared", "w": 0}, wider)
	var running sync.WaitGroup
	failed := make([]error, 200)
	for i := range failed {
		running.Go(func() { failed[i] = c.session.Query(insert, 100+i, "many").Exec() })
	}
	running.Wait()
	must(errors.Join(failed...))
	expect("concurrent writes", 205, c.count("SELECT count(*) FROM statements"))
	return "simple, prepared, named, unset, null, 200 at once"
}

func (c *checks) batches() string {
	c.exec("CREATE TABLE batched (k int, c int, v text, PRIMARY KEY (k, c))")
	c.exec("CREATE TABLE counted (k int PRIMARY KEY, n counter)")
	for k, kind := range []gocql.BatchType{gocql.LoggedBatch, gocql.UnloggedBatch} {
		batch := c.session.Batch(kind)
		for i := range 20 {
			batch.Query("INSERT INTO batched (k, c, v) VALUES (?, ?, ?)", k, i, "prepared")
		}
		batch.Query(fmt.Sprintf("INSERT INTO batched (k, c, v) VALUES (%d, 20, 'simple')", k))
		must(batch.Exec())
		expect("rows of a batch", 21, c.count("SELECT count(*) FROM batched WHERE k = ?", k))
	}
	batch := c.session.Batch(gocql.CounterBatch)
	for k := range 5 {
		batch.Query("UPDATE counted SET n = n + ? WHERE k = ?", int64(k+1), k%2)
	}
	must(batch.Exec())
	expect("a counter of a batch", 9, c.count("SELECT n FROM counted WHERE k = 0"))
	expect("a counter of a batch", 6, c.count("SELECT n FROM counted WHERE k = 1"))
	return "logged, unlogged, counter"
}

func (c *checks) paging() string {
	c.exec("CREATE TABLE paged (k int, c int, PRIMARY KEY (k, c))")
	for begin := 0; begin < rows; begin += 100 {
		batch := c.session.Batch(gocql.UnloggedBatch)
		for row := begin; row < begin+100; row++ {
			batch.Query("INSERT INTO paged (k, c) VALUES (?, ?)", row/100, row)
		}
		must(batch.Exec())
	}
	seen, row := map[int]bool{}, 0
	iter := c.session.Query("SELECT c FROM paged").Iter()
	for iter.Scan(&row) {
		seen[row] = true
	}
	must(iter.Close())
	expect("rows of pages of the default size", rows, len(seen))
	var state []byte
	found, pages := 0, 0
	for { // as a web page does, from what it has kept
		iter := c.session.Query("SELECT c FROM paged").PageSize(700).PageState(state).Iter()
		found, pages, state = found+iter.NumRows(), pages+1, iter.PageState()
		must(iter.Close())
		if len(state) == 0 {
			break
		}
	}
	expect("rows by paging states", rows, found)
	return fmt.Sprintf("%d rows, also in %d pages from their states", rows, pages)
}

func (c *checks) conditions() string {
	c.exec("CREATE TABLE conditional (k int PRIMARY KEY, v text, w int)")
	cas := func(text string, values ...any) (bool, map[string]any) {
		row := map[string]any{}
		applied, err := c.session.Query(text, values...).MapScanCAS(row)
		must(err)
		return applied, row
	}
	insert := "INSERT INTO conditional (k, v, w) VALUES (?, ?, ?) IF NOT EXISTS"
	applied, _ := cas(insert, 1, "first", 1)
	expect("applied", true, applied)
	applied, row := cas(insert, 1, "second", 2)
	expect("not applied", false, applied)
	expect("the row that is there", map[string]any{"k": 1, "v": "first", "w": 1}, row)
	update := "UPDATE conditional SET v = ? WHERE k = ? IF w = ?"
	applied, row = cas(update, "x", 1, 5)
	expect("condition that does not hold", false, applied)
	expect("what there is", map[string]any{"w": 1}, row)
	applied, _ = cas(update, "third", 1, 1)
	expect("condition that holds", true, applied)
	applied, _ = cas("DELETE FROM conditional WHERE k = 9 IF EXISTS")
	expect("nothing there", false, applied)
	expect("the row", "third", c.text(c.session.Query("SELECT v FROM conditional WHERE k = 1")))
	return "applied, and not applied with the row that is there"
}

func (c *checks) counters() string {
	c.exec("CREATE TABLE counters (k text PRIMARY KEY, n counter)")
	var running sync.WaitGroup
	failed := make([]error, 101)
	for i := range failed {
		running.Go(func() { failed[i] = c.session.Query("UPDATE counters SET n = n + ? WHERE k = ?", int64(i), "a").Exec() })
	}
	running.Wait()
	must(errors.Join(failed...))
	c.exec("UPDATE counters SET n = n - 50 WHERE k = 'a'")
	expect("the counter", 5000, c.count("SELECT n FROM counters WHERE k = 'a'"))
	return "102 changes, each once"
}

func (c *checks) ttl() string {
	c.exec("CREATE TABLE expiring (k int PRIMARY KEY, v text)")
	c.exec("INSERT INTO expiring (k, v) VALUES (?, ?) USING TTL ?", 1, "short", 2)
	c.exec("INSERT INTO expiring (k, v) VALUES (?, ?) USING TTL ?", 2, "long", 1000)
	left := c.count("SELECT ttl(v) FROM expiring WHERE k = 2")
	expect("seconds left of 1000", true, 900 < left && left <= 1000)
	until("the end of a row", func() bool {
		var v string
		err := c.session.Query("SELECT v FROM expiring WHERE k = 1").Scan(&v)
		if err != gocql.ErrNotFound {
			must(err)
		}
		return err == gocql.ErrNotFound
	})
	expect("the other row", "long", c.text(c.session.Query("SELECT v FROM expiring WHERE k = 2")))
	return "a row has ended, another says when"
}

func (c *checks) consistency() string {
	c.exec("CREATE TABLE levels (k int PRIMARY KEY, v int)")
	read := func(level gocql.Consistency) (number int) {
		must(c.session.Query("SELECT v FROM levels WHERE k = 1").Consistency(level).Scan(&number))
		return number
	}
	for number, level := range []gocql.Consistency{gocql.One, gocql.Quorum, gocql.All, gocql.LocalOne, gocql.LocalQuorum} {
		must(c.session.Query("INSERT INTO levels (k, v) VALUES (1, ?)", number).Consistency(level).Exec())
		for _, level := range []gocql.Consistency{gocql.Quorum, gocql.Serial, gocql.LocalSerial} {
			expect("read at "+level.String(), number, read(level))
		}
		until("read at ONE", func() bool { return read(gocql.One) == number })
	}
	applied, err := c.session.Query("UPDATE levels SET v = 9 WHERE k = 1 IF v = 4").SerialConsistency(gocql.LocalSerial).ScanCAS()
	must(err)
	expect("a conditional write", true, applied)
	err = c.session.Query("INSERT INTO levels (k, v) VALUES (1, 0)").Consistency(gocql.Serial).Exec()
	expectError[*gocql.RequestErrInvalid](err)
	return "five levels of writes, four of reads"
}

func (c *checks) errors() string {
	syntax := expectError[*gocql.RequestErrSyntax](c.session.Query("SELEC * FROM nothing").Exec())
	expect("what it says", true, strings.Contains(syntax.Message(), "no viable alternative"))
	unknown := expectError[*gocql.RequestErrInvalid](c.session.Query("SELECT * FROM nothing").Exec())
	expect("what it says", true, strings.Contains(unknown.Message(), "table nothing does not exist"))
	c.exec("CREATE TABLE there (k int PRIMARY KEY)")
	there := expectError[*gocql.RequestErrAlreadyExists](c.session.Query("CREATE TABLE there (k int PRIMARY KEY)").Exec())
	expect("which table", []string{keyspace, "there"}, []string{there.Keyspace, there.Table})
	return "syntax, invalid and already-exists errors by the driver's own types"
}

func (c *checks) events() string {
	other, err := open(c.replicas[(slices.Index(c.replicas, c.contact)+1)%len(c.replicas)])
	must(err)
	defer other.Close()
	must(other.Query("CREATE TABLE elsewhere (k int PRIMARY KEY)").Exec())
	until("the table of another session", func() bool { return c.table("elsewhere") != nil })
	return "another session's table came by an event"
}

func (c *checks) failover() string {
	c.exec("CREATE TABLE failover (w int, s int, v text, PRIMARY KEY ((w, s)))")
	writers := startWriters(4, func(row key) (string, string, error) {
		iter := c.session.Query("INSERT INTO failover (w, s, v) VALUES (?, ?, ?)", row.writer, row.sequence, row.value()).Iter()
		err := iter.Close()
		return "", answeredBy(iter, err), err
	}, func(row key) (value, host string, err error) {
		iter := c.session.Query("SELECT v FROM failover WHERE w = ? AND s = ?", row.writer, row.sequence).Iter()
		iter.Scan(&value)
		err = iter.Close()
		return value, answeredBy(iter, err), err
	})
	for _, host := range c.replicas {
		writers.waitThrough(host, 10)
	}
	ask("KILL " + c.contact) // the one that the driver hears events from
	writers.waitFor(some)
	until("the driver knows", func() bool { return len(c.up()) == 2 && !slices.Contains(c.up(), c.contact) })
	ask("START " + c.contact)
	writers.waitThrough(c.contact, some)
	acknowledged := writers.stop()
	found, value := map[string]bool{}, ""
	iter := c.session.Query("SELECT v FROM failover").Iter()
	for iter.Scan(&value) {
		found[value] = true
	}
	must(iter.Close())
	for _, row := range acknowledged {
		expect("acknowledged row "+row.value()+" is there", true, found[row.value()])
	}
	return fmt.Sprintf("%d acknowledged rows, none lost; errors meanwhile: %v", len(acknowledged), writers.errors)
}

func answeredBy(iter *gocql.Iter, err error) string {
	if err != nil || iter.Host() == nil {
		return ""
	}
	return iter.Host().ConnectAddress().String()
}
