// lib/pq through database/sql, which pools and retries by itself: https://github.com/lib/pq
package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"
)

var (
	client = env("CLIENT", "0")
	things = "things_" + client
	notes  = "notes_" + client
)

func env(name, otherwise string) string {
	if value, is := os.LookupEnv(name); is {
		return value
	}
	return otherwise
}

func say(values ...any) {
	fmt.Println(strings.ReplaceAll(strings.TrimSuffix(fmt.Sprintln(values...), "\n"), "\n", "\\n"))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func failure(err error) string {
	if e, is := err.(*pq.Error); is {
		return strings.Join([]string{string(e.Code), e.Message, e.Detail, e.Hint, e.Position, e.Table, e.Constraint}, " | ")
	}
	return err.Error()
}

type queryer interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
	ExecContext(context.Context, string, ...any) (sql.Result, error)
}

// rows is what a query yields, or its error.
func rows(db queryer, query string, arguments ...any) string {
	result, err := db.QueryContext(context.Background(), query, arguments...)
	if err != nil {
		return failure(err)
	}
	return shown(result)
}

func shown(result *sql.Rows) string {
	defer result.Close()
	columns, err := result.Columns()
	must(err)
	text := ""
	for result.Next() {
		values, places := make([]any, len(columns)), make([]any, len(columns))
		for index := range values {
			places[index] = &values[index]
		}
		must(result.Scan(places...))
		for index, value := range values {
			if bytes, is := value.([]byte); is {
				values[index] = string(bytes)
			}
		}
		text += fmt.Sprint(values)
	}
	if result.Err() != nil {
		return text + failure(result.Err())
	}
	return text
}

func affected(db queryer, query string, arguments ...any) any {
	result, err := db.ExecContext(context.Background(), query, arguments...)
	if err != nil {
		return failure(err)
	}
	count, err := result.RowsAffected()
	must(err)
	return count
}

func open(options string) *sql.DB {
	db, err := sql.Open("postgres", "sslmode=disable connect_timeout=60 "+options)
	must(err)
	return db
}

func part(name string, body func(*sql.DB)) {
	say("part", name)
	db := open("")
	defer db.Close()
	defer func() {
		if err := recover(); err != nil {
			say("FAILED", err)
		}
	}()
	body(db)
}

func main() {
	part("login", func(*sql.DB) {
		db := open("application_name='client " + client + "' work_mem='1" + client + "MB'")
		defer db.Close()
		for _, name := range []string{"application_name", "work_mem", "TimeZone", "client_encoding", "extra_float_digits"} {
			say(name, rows(db, "SHOW "+name))
		}
		wrong := open("password=wrong")
		defer wrong.Close()
		say(failure(wrong.Ping()))
	})

	part("values", func(db *sql.DB) {
		say(affected(db, "CREATE TABLE "+things+` (id bigint PRIMARY KEY, name text, double float8, exact numeric, flag bool, bytes bytea,
			instant timestamptz, document jsonb, numbers int8[])`))
		insert := "INSERT INTO " + things + " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
		instant := time.Date(2024, 6, 1, 12, 0, 0, 0, time.UTC)
		say(affected(db, insert, 1, "thing "+client, 1.5, "12345678901234567890.123456789", true, []byte{0, 255}, instant, `{"client": `+client+`}`, pq.Array([]int64{1, 2})))
		say(affected(db, insert, 2, nil, nil, nil, nil, nil, nil, nil, nil))
		for id := 1; id < 4; id++ {
			say(rows(db, "SELECT * FROM "+things+" WHERE id = $1", id))
		}
		binary := open("binary_parameters=yes")
		defer binary.Close()
		say(rows(binary, "SELECT $1::bytea, $2::text, name FROM "+things+" WHERE id = $3", []byte{1, 2}, "x", 1))
	})

	part("prepared", func(db *sql.DB) {
		first, err := db.Prepare("SELECT name, $2::int FROM " + things + " WHERE id = $1")
		must(err)
		second, err := db.Prepare("SELECT $1::int + " + client)
		must(err)
		for turn := 0; turn < 20; turn++ {
			one, err := first.Query(turn%3, turn)
			must(err)
			other, err := second.Query(turn)
			must(err)
			say(shown(one), shown(other))
		}
		must(first.Close())
		must(second.Close())
	})

	part("concurrency", func(db *sql.DB) {
		db.SetMaxOpenConns(4)
		results := make([]string, 40)
		var group sync.WaitGroup
		for turn := range results {
			group.Add(1)
			go func(turn int) {
				defer group.Done()
				results[turn] = rows(db, "SELECT $1::int, "+client+", pg_sleep(0.001) IS NULL", turn)
			}(turn)
		}
		group.Wait()
		say(results)
	})

	part("transactions", func(db *sql.DB) {
		name := func(on queryer) string { return rows(on, "SELECT name FROM "+things+" WHERE id = $1", 1) }
		rename := func(on queryer, to string) any {
			return affected(on, "UPDATE "+things+" SET name = $1 WHERE id = $2", to, 1)
		}
		for _, to := range []string{"kept", "not kept"} {
			transaction, err := db.Begin()
			must(err)
			say(rename(transaction, to), name(transaction))
			if to == "kept" {
				must(transaction.Commit())
			} else {
				must(transaction.Rollback())
			}
			say(name(db))
		}
		transaction, err := db.BeginTx(context.Background(), &sql.TxOptions{Isolation: sql.LevelRepeatableRead})
		must(err)
		say(affected(transaction, "SAVEPOINT a"), rename(transaction, "not kept either"), rows(transaction, "SELECT 1 / $1::int", 0), rows(transaction, "SELECT 1"))
		say(affected(transaction, "ROLLBACK TO a"), name(transaction), rows(transaction, "SHOW transaction_isolation"))
		say(rows(transaction, "SELECT nothing"))
		say(transaction.Commit(), name(db))
		reading, err := db.BeginTx(context.Background(), &sql.TxOptions{ReadOnly: true})
		must(err)
		say(name(reading), rename(reading, "read only"))
		must(reading.Rollback())
		say(rows(db, "INSERT INTO "+things+" (id) VALUES ($1)", 1), rows(db, "SELECT 1; SELECT 1 / 0"))
	})

	part("copy", func(db *sql.DB) {
		say(affected(db, "CREATE TABLE "+notes+" (id int, words text)"))
		transaction, err := db.Begin()
		must(err)
		copy, err := transaction.Prepare(pq.CopyIn(notes, "id", "words"))
		must(err)
		for id := 0; id < 2000; id++ {
			_, err = copy.Exec(id, "client "+client)
			must(err)
		}
		_, err = copy.Exec()
		must(err)
		must(copy.Close())
		must(transaction.Commit())
		say(rows(db, "SELECT count(*), max(words) FROM "+notes))
	})

	part("notifications", func(db *sql.DB) {
		listener := pq.NewListener("sslmode=disable", time.Second, time.Second, nil)
		defer listener.Close()
		must(listener.Listen("news_" + client))
		say(affected(db, "NOTIFY news_"+client+", 'one of "+client+"'"))
		say(rows(db, "SELECT pg_notify($1, $2)", "news_"+client, "two"))
		for heard := 0; heard < 2; heard++ {
			select {
			case notification := <-listener.Notify:
				say(notification.Channel, notification.Extra)
			case <-time.After(30 * time.Second):
				panic("nothing was heard")
			}
		}
	})

	part("cancel", func(db *sql.DB) {
		for turn := 0; turn < 2; turn++ {
			limited, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			_, err := db.ExecContext(limited, "SELECT pg_sleep(50)")
			cancel()
			say(failure(err))
			say(rows(db, "SELECT $1::int, "+client, turn))
		}
	})

	part("settings", func(db *sql.DB) {
		one, err := db.Conn(context.Background())
		must(err)
		defer one.Close()
		say(affected(one, "SET work_mem = '1"+client+"MB'"), rows(one, "SHOW work_mem"))
		say(affected(one, "RESET ALL"), rows(one, "SHOW work_mem"))
		say(affected(one, "SET TimeZone = 'Asia/Tokyo'"), rows(one, "SHOW TimeZone"), affected(one, "DISCARD ALL"), rows(one, "SHOW TimeZone"))
	})

	part("cleanup", func(db *sql.DB) {
		say(affected(db, "DROP TABLE "+things), affected(db, "DROP TABLE "+notes))
	})
}
