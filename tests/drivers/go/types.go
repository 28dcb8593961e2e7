package main

import (
	"bytes"
	"fmt"
	"math"
	"math/big"
	"net"
	"reflect"
	"strings"
	"time"

	gocql "github.com/apache/cassandra-gocql-driver/v2"
	"gopkg.in/inf.v0"
)

// address is the user-defined type of the check.
type address struct {
	Street string   `cql:"street"`
	Number int      `cql:"number"`
	Phones []string `cql:"phones"`
}

// column is a column's type, and the value that it gets.
type column struct {
	kind  string
	value any
}

func parse(text string) gocql.UUID {
	id, err := gocql.ParseUUID(text)
	must(err)
	return id
}

func columns() []column {
	decimal, _ := new(inf.Dec).SetString("-12345678901234567890.0123456789")
	home := address{"Elm", 7, []string{"1", "2"}}
	return []column{
		{"ascii", "plain"}, {"bigint", int64(math.MinInt64)}, {"blob", []byte{0, 255}}, {"boolean", true},
		{"date", time.Date(1969, 7, 20, 0, 0, 0, 0, time.UTC)}, {"decimal", decimal}, {"double", 1.5e-300},
		{"duration", gocql.Duration{Months: 14, Days: 3, Nanoseconds: 5_000_000_001}}, {"float", float32(0.25)},
		{"inet", net.ParseIP("2001:db8::1")}, {"int", math.MinInt32}, {"smallint", int16(math.MinInt16)},
		{"text", "Grüße, 世界 🌍"}, {"time", 24*time.Hour - 1},
		{"timestamp", time.Date(2026, 2, 28, 12, 30, 15, 123_000_000, time.UTC)},
		{"timeuuid", parse("8e14e760-7fa8-11eb-bc66-000000000001")}, {"tinyint", int8(math.MinInt8)},
		{"uuid", parse("123e4567-e89b-42d3-a456-426614174000")}, {"varint", new(big.Int).Exp(big.NewInt(10), big.NewInt(40), nil)},
		{"list<int>", []int{3, 1, 3}}, {"set<text>", []string{"a", "b"}}, {"map<text, bigint>", map[string]int64{"x": 1, "y": -1}},
		{"map<text, frozen<list<frozen<set<int>>>>>", map[string][][]int{"n": {{1, 2}, {3}}}},
		{"vector<float, 3>", []float32{0.5, -1, 2}}, {"vector<text, 2>", []string{"one", "two"}},
		{"address", home}, {"list<frozen<address>>", []address{home, home}},
	}
}

func (c *checks) types() string {
	c.exec("CREATE TYPE address (street text, number int, phones frozen<set<text>>)")
	all := columns()
	names, declared := make([]string, len(all)), make([]string, len(all))
	values, nulls, found := []any{1}, []any{2}, make([]any, len(all))
	for i, column := range all {
		names[i] = fmt.Sprintf("c%d", i)
		declared[i] = names[i] + " " + column.kind
		kind := reflect.TypeOf(column.value)
		values, nulls = append(values, column.value), append(nulls, reflect.Zero(reflect.PointerTo(kind)).Interface())
		found[i] = reflect.New(kind).Interface()
	}
	c.exec("CREATE TABLE types (id int PRIMARY KEY, pair tuple<int, text, double>, " + strings.Join(declared, ", ") + ")")
	insert := "INSERT INTO types (id, " + strings.Join(names, ", ") + ") VALUES (?" + strings.Repeat(", ?", len(all)) + ")"
	c.exec(insert, values...)
	c.exec(insert, nulls...)
	query := "SELECT " + strings.Join(names, ", ") + " FROM types WHERE id = ?"
	must(c.session.Query(query, 1).Scan(found...))
	for i, column := range all {
		if got := reflect.ValueOf(found[i]).Elem().Interface(); !same(column.value, got) {
			fail("%s: expected %v, got %v", column.kind, column.value, got)
		}
	}
	for i, name := range names {
		pointer := reflect.New(reflect.PointerTo(reflect.TypeOf(all[i].value)))
		must(c.session.Query("SELECT " + name + " FROM types WHERE id = 2").Scan(pointer.Interface()))
		expect("a null "+all[i].kind, true, pointer.Elem().IsNil())
	}
	// gocql knows a tuple as so many values.
	c.exec("UPDATE types SET pair = (?, ?, ?) WHERE id = 1", 1, "two", 0.5)
	var one int
	var two string
	var half float64
	must(c.session.Query("SELECT pair FROM types WHERE id = 1").Scan(&one, &two, &half))
	expect("a tuple", []any{1, "two", 0.5}, []any{one, two, half})
	return fmt.Sprintf("%d columns of all types written and read, and as nulls", len(all)+1)
}

// same says whether two values are equal, whatever the form in which Go keeps them.
func same(expected, got any) bool {
	switch value := expected.(type) {
	case *inf.Dec:
		return value.Cmp(got.(*inf.Dec)) == 0
	case *big.Int:
		return value.Cmp(got.(*big.Int)) == 0
	case time.Time:
		return value.Equal(got.(time.Time))
	case net.IP:
		return value.Equal(got.(net.IP))
	case []byte:
		return bytes.Equal(value, got.([]byte))
	}
	return reflect.DeepEqual(expected, got)
}
