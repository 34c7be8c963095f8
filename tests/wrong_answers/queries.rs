//! Statements without which a row is read that should not be, or not read that should be.
//!
//! `{a}` and `{c}` are ids of users on one shard, `{b}` of one on another.

use super::Case;

pub const CASES: &[Case] = &[
    Case(
        "limit without an order",
        &[
            "SELECT count(*) FROM (SELECT id FROM users LIMIT 10) x",
            "SELECT id FROM users LIMIT 100",
        ],
    ),
    Case(
        "limit over few rows",
        &["SELECT count(*) FROM (SELECT 1 FROM users LIMIT 4) x"],
    ),
    Case(
        "offset without limit",
        &[
            "SELECT id FROM users ORDER BY id OFFSET 5",
            "SELECT count(*) FROM (SELECT id FROM users OFFSET 5) x",
        ],
    ),
    Case(
        "limit that is an expression",
        &[
            "SELECT id FROM users ORDER BY id LIMIT 1 + 1",
            "SELECT id FROM users ORDER BY id LIMIT (SELECT 2)",
        ],
    ),
    Case(
        "the largest groups",
        &[
            "SELECT country, count(*) FROM users GROUP BY country ORDER BY count(*) DESC, country LIMIT 2",
        ],
    ),
    Case(
        "union of two keys",
        &[
            "SELECT name FROM users WHERE id = {a} UNION SELECT name FROM users WHERE id = {b}",
            "SELECT name FROM users WHERE id = {a} UNION ALL SELECT name FROM users WHERE id = {c}",
            "SELECT id FROM users WHERE id = {a} EXCEPT SELECT user_id FROM orders WHERE user_id = {b}",
            "SELECT id FROM users WHERE id = {a} UNION ALL SELECT 5",
        ],
    ),
    Case(
        "the key within EXISTS",
        &[
            "SELECT count(*) FROM users WHERE EXISTS (SELECT FROM orders WHERE user_id = {a})",
            "SELECT count(*) FROM users u WHERE EXISTS (SELECT FROM orders o WHERE o.user_id = u.id AND o.user_id = {a})",
            "SELECT count(*) FROM users u WHERE NOT EXISTS (SELECT FROM orders o WHERE o.user_id = u.id AND u.id = {a})",
        ],
    ),
    Case(
        "the key within IN (SELECT)",
        &[
            "SELECT count(*) FROM users WHERE id IN (SELECT user_id FROM orders WHERE user_id = {a})",
            "SELECT count(*) FROM users WHERE id NOT IN (SELECT user_id FROM orders WHERE user_id = {a})",
            "SELECT count(*) FROM users WHERE country IN (SELECT country FROM users WHERE id = {a})",
        ],
    ),
    Case(
        "the key in the select list",
        &[
            "SELECT sum(CASE WHEN id = {a} THEN 1 END) FROM users",
            "SELECT id = {a} FROM users ORDER BY 1",
            "SELECT count(*) FILTER (WHERE id = {a}) FROM users",
            "SELECT count(*) FROM users GROUP BY id = {a} ORDER BY 1",
            "SELECT count(*) FROM users HAVING bool_or(id = {a})",
            "SELECT id FROM users ORDER BY id = {a}, id",
        ],
    ),
    Case(
        "the key in the condition of an outer join",
        &[
            "SELECT count(*) FROM users a LEFT JOIN users b ON b.id = {a}",
            "SELECT count(*) FROM users a LEFT JOIN users b ON a.id = b.id AND a.id = {a}",
            "SELECT count(*) FROM users a RIGHT JOIN orders b ON a.id = {a}",
            "SELECT count(*) FROM users a FULL JOIN orders b ON b.user_id = {a} AND a.id = b.user_id",
            "SELECT count(*), count(b.id) FROM users a LEFT JOIN users b ON b.id = a.id WHERE a.id = {a}",
            "SELECT count(*) FROM users a LEFT JOIN users b ON b.id = a.id WHERE b.id = {a}",
            "SELECT count(*) FROM (users a LEFT JOIN users b ON b.id = {a}) JOIN users c ON c.id = a.id",
        ],
    ),
    Case(
        "several keys",
        &[
            "SELECT name FROM users WHERE id = {a} OR id = {b} ORDER BY 1",
            "SELECT name FROM users WHERE id IN ({a}, {b}) ORDER BY 1",
            "SELECT name FROM users WHERE id IN ({a}, {c}) ORDER BY 1",
            "SELECT name FROM users WHERE id = ANY (ARRAY[{a}, {b}]) ORDER BY 1",
            "SELECT name FROM users WHERE id = ANY ('{{a},{b}}') ORDER BY 1",
            "SELECT count(*) FROM users WHERE id IN ({a}, length(name))",
            "SELECT count(*) FROM users WHERE id = {a} OR name = 'bob'",
            "SELECT count(*) FROM users WHERE id = {a} OR true",
            "SELECT count(*) FROM users WHERE id IN ({a}, NULL)",
            "SELECT count(*) FROM users WHERE id = SOME (SELECT {a})",
            "SELECT count(*) FROM users WHERE id <> ALL (ARRAY[{a}])",
        ],
    ),
    Case(
        "the key denied",
        &[
            "SELECT count(*) FROM users WHERE NOT id = {a}",
            "SELECT count(*) FROM users WHERE id <> {a}",
            "SELECT count(*) FROM users WHERE (id = {a}) IS NOT TRUE",
            "SELECT count(*) FROM users WHERE (id = {a}) = false",
            "SELECT count(*) FROM users WHERE id NOT IN ({a})",
            "SELECT count(*) FROM users WHERE NOT (id = {a} AND true)",
            "SELECT count(*) FROM users WHERE (id = {a}) IS NULL",
        ],
    ),
    Case(
        "an aggregate within an expression",
        &[
            "SELECT coalesce(sum(age), 0) FROM users",
            "SELECT sum(age) / count(*) FROM users",
            "SELECT count(DISTINCT country)::int FROM users",
            "SELECT -max(age) FROM users",
            "SELECT max(age) - min(age) FROM users",
            "SELECT 1 FROM users HAVING count(*) > 0",
            "SELECT sum(age) FROM users WHERE id > 5",
        ],
    ),
    Case(
        "averages and their digits",
        &[
            "SELECT avg(score) FROM users",
            "SELECT avg(age), stddev(age), variance(age), var_pop(score) FROM users",
            "SELECT avg(amount) FROM orders",
            "SELECT avg(age::float8) FROM users WHERE age = 30",
            "SELECT sum(score) / 7 FROM users",
            "SELECT country, avg(score) FROM users GROUP BY country ORDER BY country",
        ],
    ),
    Case(
        "sums beyond 64 bits",
        &[
            "SELECT sum(id) FROM users",
            "SELECT sum(9223372036854775807) FROM users",
            "SELECT 2147483647::int + age FROM users WHERE id = {a}",
            "SELECT 2147483647::int + 1 FROM users WHERE id = {a}",
            "SELECT id + 1 FROM users WHERE id = 9223372036854775807",
        ],
    ),
    Case(
        "windows",
        &[
            "SELECT id, count(*) OVER () FROM users ORDER BY id",
            "SELECT id, rank() OVER (ORDER BY age NULLS FIRST) FROM users ORDER BY id",
            "SELECT count(*) OVER () FROM users WHERE id = {a}",
            "SELECT id, sum(age) OVER w FROM users WINDOW w AS (PARTITION BY country) ORDER BY id",
        ],
    ),
    Case(
        "having",
        &[
            "SELECT country FROM users GROUP BY country HAVING count(*) > 3 ORDER BY 1",
            "SELECT country, count(*) FROM users GROUP BY country HAVING count(*) = 1 ORDER BY 1",
        ],
    ),
    Case(
        "groups by what is not selected",
        &[
            "SELECT count(*) FROM users GROUP BY country ORDER BY 1",
            "SELECT max(age) FROM users GROUP BY lower(country) ORDER BY 1",
            "SELECT count(*) FROM users GROUP BY GROUPING SETS ((country), ()) ORDER BY 1",
            "SELECT count(*) FROM users GROUP BY ROLLUP (country) ORDER BY 1",
            "SELECT country, age, count(*) FROM users GROUP BY CUBE (country, age) ORDER BY 1, 2, 3",
        ],
    ),
    Case(
        "an order by what is not selected",
        &[
            "SELECT name FROM users ORDER BY id",
            "SELECT id FROM users ORDER BY age % 7 NULLS FIRST, id DESC",
            "SELECT name FROM users ORDER BY lower(name), id",
            "SELECT id FROM users ORDER BY -id",
            "SELECT id FROM users ORDER BY age NULLS LAST, id",
            "SELECT id FROM users ORDER BY age DESC, id",
        ],
    ),
    Case(
        "an order of texts is the database's",
        &[
            "SELECT name FROM notes ORDER BY name",
            "SELECT name FROM notes ORDER BY name DESC LIMIT 3",
            "SELECT name FROM notes ORDER BY name COLLATE \"C\"",
            "SELECT min(name), max(name) FROM notes",
            "SELECT name FROM notes WHERE name > 'a' ORDER BY 1",
        ],
    ),
    Case(
        "distinct",
        &[
            "SELECT DISTINCT country FROM users ORDER BY 1",
            "SELECT DISTINCT ON (country) country FROM users ORDER BY country",
            "SELECT DISTINCT ON (country) country, id FROM users ORDER BY country, id",
            "SELECT count(DISTINCT country) FROM users",
        ],
    ),
    Case(
        "joins of rows that lie apart",
        &[
            "SELECT count(*) FROM users u JOIN orders o ON o.id = u.id",
            "SELECT count(*) FROM users a JOIN users b ON a.country = b.country",
            "SELECT count(*) FROM users u, documents d WHERE d.owner = u.id",
            "SELECT count(*) FROM users u JOIN notes n ON n.name = u.name WHERE u.id = {a}",
            "SELECT count(*) FROM users u JOIN settings s ON s.name = u.name WHERE u.id = {a}",
            "SELECT count(*) FROM users a, users b WHERE a.id = {a}",
            "SELECT count(*) FROM users CROSS JOIN countries",
            "SELECT count(*) FROM users a NATURAL JOIN users b WHERE a.id = {a}",
        ],
    ),
    Case(
        "joins of rows that lie together",
        &[
            "SELECT count(*) FROM users u JOIN orders o ON o.user_id = u.id",
            "SELECT u.name, o.amount FROM users u JOIN orders o ON o.user_id = u.id WHERE u.id = {a} ORDER BY 1, 2",
            "SELECT count(*) FROM users u JOIN orders o ON o.user_id = u.id WHERE o.user_id = {a}",
            "SELECT count(*) FROM users JOIN countries ON code = country WHERE id = {a}",
            "SELECT count(*) FROM users a JOIN users b USING (id) WHERE id = {a}",
        ],
    ),
    Case(
        "cursors",
        &[
            "BEGIN",
            "DECLARE c CURSOR FOR SELECT id FROM users ORDER BY id",
            "FETCH 3 FROM c",
            "FETCH 3 FROM c",
            "COMMIT",
        ],
    ),
    Case(
        "cursors over one key",
        &[
            "BEGIN",
            "DECLARE c CURSOR FOR SELECT id FROM orders WHERE user_id = {a} ORDER BY id",
            "FETCH 1 FROM c",
            "MOVE 1 IN c",
            "FETCH ALL FROM c",
            "CLOSE c",
            "COMMIT",
        ],
    ),
    Case(
        "a held cursor",
        &[
            "DECLARE c CURSOR WITH HOLD FOR SELECT id FROM users WHERE id = {a}",
            "FETCH ALL FROM c",
            "CLOSE c",
        ],
    ),
];
