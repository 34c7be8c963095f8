#!/bin/sh
# psql, as people and scripts use it. Each part is one psql; what it prints to both outputs is compared.
#
#     client.sh [PSQL]
set -u

psql=${1:-psql}
version=$("$psql" --version | sed 's/[^0-9]*\([0-9.]*\).*/\1/')
# the newest that it knows, which psql 18 does not ask for by itself
export PGMAXPROTOCOLVERSION=latest

things=things_$CLIENT
notes=notes_$CLIENT

echo "version psql $version"

# what interrupts a part's psql, if anything does
interrupted=
# a part's commands come from standard input; options are psql's
part() {
    name=$1
    shift
    echo "part $name"
    # the endpoint's port is what must differ, and of \conninfo the process; the protocol has a part of its own
    $interrupted "$psql" -X -v VERBOSITY=verbose -v ON_ERROR_STOP=0 "$@" 2>&1 |
        sed -e '/^LOCATION:/d' -e "s/port $PGPORT/port N/; s/port \"$PGPORT\"/port N/; s/^ Server Port .*/ Server Port/" \
            -e '/^ Backend PID/d; /^ Protocol Version/d'
}

part login <<END
SELECT current_user, session_user, :'USER', :'DBNAME', :'ENCODING', :SERVER_VERSION_NUM;
\conninfo
\c shop app
\conninfo
SHOW application_name;
\encoding
END

part values <<END
CREATE TABLE $things (id bigint PRIMARY KEY, name text, exact numeric, instant timestamptz, document jsonb, numbers int[]);
INSERT INTO $things VALUES (1, 'thing $CLIENT', 1.50, '2024-06-01 12:00+00', '{"client": $CLIENT}', '{1,NULL,3}');
INSERT INTO $things (id) VALUES (2) RETURNING *;
SELECT * FROM $things WHERE id = 1;
\x
SELECT * FROM $things WHERE id = 1;
\x
SELECT id, name FROM $things WHERE id = 1 \gset
\echo :id :name
\pset null (null)
SELECT * FROM $things WHERE id = 2;
\gdesc
SELECT 'SELECT ' || n || ' + $CLIENT' FROM generate_series(1, 3) n \gexec
\errverbose
SELECT 1 / 0;
\errverbose
END

part transactions <<END
\set PROMPT1 ''
BEGIN;
UPDATE $things SET name = 'kept' WHERE id = 1;
SAVEPOINT a;
UPDATE $things SET name = 'not kept' WHERE id = 1;
SELECT 1 / 0;
SELECT 1;
ROLLBACK TO a;
SELECT name FROM $things WHERE id = 1;
COMMIT;
\set ON_ERROR_ROLLBACK on
BEGIN;
SELECT 1 / 0;
SELECT name FROM $things WHERE id = 1;
COMMIT;
\set AUTOCOMMIT off
UPDATE $things SET name = 'rolled back' WHERE id = 1;
ROLLBACK;
SELECT name FROM $things WHERE id = 1;
COMMIT;
END

part "one-transaction" --single-transaction -c "UPDATE $things SET name = 'single' WHERE id = 1" -c "SELECT name FROM $things WHERE id = 1" -c "SELECT 1 / 0" </dev/null

part one-string -c "SELECT 1; SELECT name FROM $things WHERE id = 1; SELECT 2" </dev/null

part copy <<END
CREATE TABLE $notes (id int, words text);
\copy $notes FROM STDIN
1	client $CLIENT
2	\N
\.
COPY $notes FROM STDIN (FORMAT csv);
3,"x, y"
4,
\.
\copy (SELECT * FROM $notes ORDER BY id) TO STDOUT (FORMAT csv)
COPY $notes TO STDOUT;
\copy $notes FROM STDIN
x	y
\.
SELECT count(*) FROM $notes;
END

part cursors -v FETCH_COUNT=7 -At <<END
SELECT generate_series(1, 20) + $CLIENT;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT generate_series(1, 100);
FETCH 3 FROM c;
MOVE 50 IN c;
FETCH BACKWARD 2 FROM c;
COMMIT;
END

interrupted="timeout --foreground --signal=INT 2"
part cancel -c 'SELECT pg_sleep(60)' </dev/null
interrupted=

part notifications <<END
LISTEN news_$CLIENT;
SELECT pg_sleep(0.3);
UNLISTEN *;
END

part settings <<END
SET work_mem = '$((CLIENT + 1))MB';
SHOW work_mem;
SET client_encoding = 'UTF8';
SET TimeZone = 'Asia/Tokyo';
SELECT '2024-06-01 12:00+00'::timestamptz;
RESET ALL;
SHOW work_mem;
\timing off
SET search_path = pg_catalog;
\dn public
DISCARD ALL;
SHOW search_path;
END

part catalog <<END
\d $things
\dt $things
\di ${things}_pkey
\l shop
\df no_such_function
END

if [ "${version%%.*}" -ge 18 ]; then
    echo "part protocol"
    "$psql" -X -c '\conninfo' | grep '^ Protocol Version'

    part pipelines <<END
SELECT \$1::int + \$2 \bind 1 $CLIENT \g
SELECT \$1::int * \$2 \parse one
\bind_named one 1 $CLIENT \g
\startpipeline
\bind_named one 2 3 \sendpipeline
SELECT \$1::text \bind 'a' \sendpipeline
\syncpipeline
SELECT 1 / 0 \bind \sendpipeline
SELECT 'not reached' \bind \sendpipeline
\syncpipeline
UPDATE $things SET name = \$1 WHERE id = 1 \bind 'in a pipeline' \sendpipeline
SELECT name FROM $things WHERE id = \$1 \bind 1 \sendpipeline
\endpipeline
\close_prepared one
\bind_named one 1 2 \g
END
fi

part cleanup <<END
DROP TABLE $things;
DROP TABLE $notes;
END
exit 0
