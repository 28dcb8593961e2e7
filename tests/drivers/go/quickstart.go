package main

import gocql "github.com/apache/cassandra-gocql-driver/v2"

func quickstart(host string) (string, error) {
	cluster := gocql.NewCluster(host) // one replica is enough: the driver finds the others
	session, err := cluster.CreateSession()
	if err != nil {
		return "", err
	}
	defer session.Close()
	err = session.Query("CREATE KEYSPACE IF NOT EXISTS shop_go WITH replication = " +
		"{'class': 'SimpleStrategy', 'replication_factor': 3}").Exec()
	if err != nil {
		return "", err
	}
	err = session.Query("CREATE TABLE IF NOT EXISTS shop_go.orders (id int PRIMARY KEY, item text)").Exec()
	if err != nil {
		return "", err
	}

	// gocql prepares a statement when it is first executed.
	err = session.Query("INSERT INTO shop_go.orders (id, item) VALUES (?, ?)", 1, "tea").Exec()
	if err != nil {
		return "", err
	}

	// Quorum, gocql's default, sees every write acknowledged before it.
	var item string
	err = session.Query("SELECT item FROM shop_go.orders WHERE id = ?", 1).Consistency(gocql.Quorum).Scan(&item)
	return item, err
}
