// pgx, which prepares and caches every statement by default: https://github.com/jackc/pgx
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

var (
	client     = env("CLIENT", "0")
	things     = "things_" + client
	notes      = "notes_" + client
	background = context.Background()
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
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return fmt.Sprint(e.Code, " | ", e.Message, " | ", e.Detail, " | ", e.Hint, " | ", e.Position, " | ", e.TableName, " | ", e.ConstraintName)
	}
	return fmt.Sprint(err)
}

type queryer interface {
	Query(context.Context, string, ...any) (pgx.Rows, error)
	Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
}

// rows is what a query yields, or its error.
func rows(db queryer, query string, arguments ...any) string {
	result, err := db.Query(background, query, arguments...)
	if err != nil {
		return failure(err)
	}
	return shown(result)
}

func shown(result pgx.Rows) string {
	defer result.Close()
	text := ""
	for result.Next() {
		values, err := result.Values()
		must(err)
		for index, value := range values {
			if instant, is := value.(time.Time); is {
				values[index] = instant.UTC()
			}
		}
		text += fmt.Sprint(values)
	}
	if result.Err() != nil {
		return text + failure(result.Err())
	}
	return text + " " + result.CommandTag().String()
}

func done(db queryer, query string, arguments ...any) string {
	tag, err := db.Exec(background, query, arguments...)
	if err != nil {
		return failure(err)
	}
	return tag.String()
}

func connect(change func(*pgx.ConnConfig)) *pgx.Conn {
	config, err := pgx.ParseConfig("sslmode=disable connect_timeout=60")
	must(err)
	if change != nil {
		change(config)
	}
	db, err := pgx.ConnectConfig(background, config)
	must(err)
	return db
}

func part(name string, body func(*pgx.Conn)) {
	say("part", name)
	defer func() {
		if err := recover(); err != nil {
			say("FAILED", err)
		}
	}()
	db := connect(nil)
	defer db.Close(background)
	body(db)
}

func main() {
	part("login", func(*pgx.Conn) {
		db := connect(func(config *pgx.ConnConfig) {
			config.RuntimeParams["application_name"] = "client " + client
			config.RuntimeParams["work_mem"] = "1" + client + "MB"
		})
		defer db.Close(background)
		for _, name := range []string{"application_name", "work_mem", "TimeZone"} {
			say(name, rows(db, "SHOW "+name), db.PgConn().ParameterStatus(name))
		}
		_, err := pgx.Connect(background, "sslmode=disable password=wrong")
		say(failure(errors.Unwrap(err)))
		for _, kind := range []string{"read-write", "primary", "prefer-standby", "any"} {
			db, err := pgx.Connect(background, "sslmode=disable target_session_attrs="+kind)
			must(err)
			say(kind, rows(db, "SELECT 1"))
			must(db.Close(background))
		}
	})

	part("values", func(db *pgx.Conn) {
		say(done(db, "CREATE TABLE "+things+` (id bigint PRIMARY KEY, name text, double float8, exact numeric, flag bool, bytes bytea,
			instant timestamptz, identity uuid, document jsonb, numbers int8[], words text[])`))
		insert := "INSERT INTO " + things + " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
		instant := time.Date(2024, 6, 1, 12, 0, 0, 0, time.UTC)
		say(done(db, insert, 1, "thing "+client, 1.5, "123.456", true, []byte{0, 255}, instant, "00000000-0000-0000-0000-00000000000"+client,
			map[string]any{"client": client}, []int64{1, 2}, []string{"a", "b\""}))
		say(done(db, insert, 2, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil))
		for id := 1; id < 4; id++ {
			say(rows(db, "SELECT id, name, double, exact::text, flag, bytes, instant, document, numbers::text, words::text FROM "+things+" WHERE id = $1", id))
		}
	})

	part("prepared", func(db *pgx.Conn) {
		_, err := db.Prepare(background, "mine", "SELECT name, $2::int FROM "+things+" WHERE id = $1")
		must(err)
		for turn := 0; turn < 30; turn++ {
			say(rows(db, "mine", turn%3, turn), rows(db, fmt.Sprint("SELECT ", turn%4, "::int + $1"), turn))
		}
		must(db.Deallocate(background, "mine"))
		say(rows(db, "mine", 1, 1))
		simple := connect(func(config *pgx.ConnConfig) { config.PreferSimpleProtocol = true })
		defer simple.Close(background)
		say(rows(simple, "SELECT $1::int, $2::text", client, "it's"))
	})

	part("transactions", func(db *pgx.Conn) {
		name := func(on queryer) string { return rows(on, "SELECT name FROM "+things+" WHERE id = $1", 1) }
		rename := func(on queryer, to string) string {
			return done(on, "UPDATE "+things+" SET name = $1 WHERE id = $2", to, 1)
		}
		must(db.BeginFunc(background, func(transaction pgx.Tx) error {
			say(rename(transaction, "kept"))
			return nil
		}))
		say(db.BeginFunc(background, func(transaction pgx.Tx) error {
			rename(transaction, "not kept")
			return errors.New("out")
		}), name(db))
		transaction, err := db.BeginTx(background, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
		must(err)
		inner, err := transaction.Begin(background)
		must(err)
		say(rename(inner, "not kept either"), rows(inner, "SELECT 1 / $1::int", 0), rows(inner, "SELECT 1"))
		must(inner.Rollback(background))
		say(name(transaction), rows(transaction, "SHOW transaction_isolation"))
		say(rows(transaction, "SELECT nothing"))
		say(transaction.Commit(background), name(db))
		say(done(db, "INSERT INTO "+things+" (id) VALUES ($1)", 1), done(db, "SELECT 1; SELECT 1 / 0"))
	})

	part("batches", func(db *pgx.Conn) {
		batch := &pgx.Batch{}
		for turn := 0; turn < 20; turn++ {
			batch.Queue("SELECT $1::int + "+client, turn)
		}
		batch.Queue("UPDATE "+things+" SET double = $1 WHERE id = $2", 2.5, 1)
		batch.Queue("SELECT double FROM "+things+" WHERE id = $1", 1)
		results := db.SendBatch(background, batch)
		for turn := 0; turn < 22; turn++ {
			result, err := results.Query()
			must(err)
			say(shown(result))
		}
		must(results.Close())
		failing := &pgx.Batch{}
		failing.Queue("UPDATE "+things+" SET double = $1 WHERE id = $2", 7.5, 1)
		failing.Queue("SELECT 1 / $1::int", 0)
		failing.Queue("SELECT 'never'")
		say(failure(db.SendBatch(background, failing).Close()))
		say(rows(db, "SELECT double FROM "+things+" WHERE id = $1", 1))
	})

	part("copy", func(db *pgx.Conn) {
		say(done(db, "CREATE TABLE "+notes+" (id int, words text)"))
		source := make([][]any, 2000)
		for id := range source {
			source[id] = []any{int32(id), "client " + client}
		}
		count, err := db.CopyFrom(background, pgx.Identifier{notes}, []string{"id", "words"}, pgx.CopyFromRows(source))
		say(count, err)
		var output bytes.Buffer
		tag, err := db.PgConn().CopyTo(background, &output, "COPY (SELECT * FROM "+notes+" ORDER BY id LIMIT 3) TO STDOUT")
		say(tag, err, output.String())
		_, err = db.PgConn().CopyFrom(background, strings.NewReader("x\ty\n"), "COPY "+notes+" FROM STDIN")
		say(failure(err))
		say(rows(db, "SELECT count(*) FROM "+notes))
	})

	part("notifications", func(db *pgx.Conn) {
		sender := connect(nil)
		defer sender.Close(background)
		say(done(db, "LISTEN news_"+client), done(sender, "NOTIFY news_"+client+", 'one of "+client+"'"))
		say(rows(sender, "SELECT pg_notify($1, $2)", "news_"+client, "two"))
		for heard := 0; heard < 2; heard++ {
			limited, cancel := context.WithTimeout(background, 30*time.Second)
			notification, err := db.WaitForNotification(limited)
			cancel()
			must(err)
			say(notification.Channel, notification.Payload, notification.PID == sender.PgConn().PID())
		}
	})

	part("cancel", func(db *pgx.Conn) {
		go func() {
			time.Sleep(300 * time.Millisecond)
			must(db.PgConn().CancelRequest(background))
		}()
		say(done(db, "SELECT pg_sleep(50)"))
		say(rows(db, "SELECT $1::int", client))
	})

	part("pools", func(*pgx.Conn) {
		config, err := pgxpool.ParseConfig("sslmode=disable pool_max_conns=3")
		must(err)
		pool, err := pgxpool.ConnectConfig(background, config)
		must(err)
		defer pool.Close()
		results := make([]string, 30)
		var group sync.WaitGroup
		for turn := range results {
			group.Add(1)
			go func(turn int) {
				defer group.Done()
				results[turn] = rows(pool, "SELECT $1::int, "+client, turn)
			}(turn)
		}
		group.Wait()
		say(results)
	})

	part("settings", func(db *pgx.Conn) {
		say(done(db, "SET work_mem = '1"+client+"MB'"), rows(db, "SHOW work_mem"))
		say(done(db, "RESET ALL"), rows(db, "SHOW work_mem"))
	})

	part("cleanup", func(db *pgx.Conn) {
		say(done(db, "DROP TABLE "+things), done(db, "DROP TABLE "+notes))
	})
}
