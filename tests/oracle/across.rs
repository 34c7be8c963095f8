//! Statements whose key is fixed in another query than the one that names the table.

use super::comparison::Certainty;
use super::generator::Generator;
use super::node::Node;
use super::schema::Type;

/// `{one}` and `{two}` are ids, mostly of users; `{join}` is a join's kind, `{few}` an order with a limit or nothing.
const READS: &[&str] = &[
    "SELECT * FROM (SELECT id, name FROM users{few}) u WHERE id = {one}",
    "SELECT u.id, o.id FROM (SELECT id FROM users WHERE id = {one}) u {join} orders o ON o.user_id = u.id",
    "SELECT u.name, n.n FROM users u {join} (SELECT user_id, count(*) AS n FROM orders GROUP BY user_id) n ON n.user_id = u.id WHERE u.id = {one}",
    "WITH u AS (SELECT id, name FROM users) SELECT * FROM u WHERE id = {one}",
    "WITH u AS (SELECT id FROM users) SELECT a.id, b.id FROM u a {join} u b ON a.id = b.id WHERE a.id = {one}",
    "SELECT u.id, v.x FROM users u {join} (VALUES ({one}, 'a'), ({two}, 'b')) v (id, x) ON v.id = u.id",
    "SELECT u.id, v.x FROM users u {join} (VALUES ({one}, 'a')) v (id, x) ON v.id = u.id WHERE v.x = 'a'",
    "SELECT id FROM users WHERE id = ANY (ARRAY[{one}, {one}]) OR id = {one}",
    "SELECT id FROM users WHERE id = ANY (ARRAY[{one}, {two}]) AND id IN (SELECT user_id FROM orders{few})",
    "SELECT id FROM users WHERE id = {one} AND id IN (SELECT user_id FROM orders)",
    "SELECT id FROM users WHERE id = {one} AND id NOT IN (SELECT user_id FROM orders WHERE user_id = {two})",
    "SELECT * FROM (SELECT id FROM users UNION ALL SELECT user_id FROM orders{few}) x WHERE id = {one}",
    "SELECT * FROM (SELECT id FROM users EXCEPT SELECT user_id FROM orders) x WHERE id = {one}",
    "SELECT * FROM (SELECT user_id, count(*) AS n FROM orders GROUP BY user_id HAVING count(*) > 1) x WHERE user_id = {one}",
    "SELECT * FROM (SELECT id, rank() OVER (ORDER BY id) FROM users) x WHERE id = {one}",
    "SELECT * FROM (SELECT id, rank() OVER (PARTITION BY id ORDER BY name) FROM users) x WHERE id = {one}",
    "SELECT u.id, (SELECT count(*) FROM orders o WHERE o.user_id = u.id) FROM users u WHERE u.id IN ({one}, {one})",
    "SELECT o.user_id, u.name FROM (SELECT DISTINCT user_id FROM orders) o {join} users u ON u.id = o.user_id WHERE o.user_id = {one}",
    "SELECT id, name FROM users WHERE (id, name) IN (({one}, 'ann'), ({one}, 'bob')) OR (id = {one} AND name IS NULL)",
    "SELECT count(*) FROM users u WHERE u.id = {one} AND EXISTS (SELECT FROM orders o WHERE o.user_id = {two} AND o.id = u.id)",
    "SELECT * FROM (SELECT coalesce(id, 0) AS id FROM users) x WHERE id = {one}",
    "SELECT * FROM (SELECT u.id FROM users u LEFT JOIN orders o ON o.user_id = u.id AND o.user_id = {one}) x WHERE id = {two}",
];

const WRITES: &[&str] = &[
    "MERGE INTO users u USING (VALUES ({one}, 'm')) v (id, name) ON u.id = v.id WHEN MATCHED THEN UPDATE SET name = v.name WHEN NOT MATCHED THEN INSERT (id, name) VALUES (v.id, v.name)",
    "MERGE INTO orders o USING (SELECT id FROM users WHERE id = {one}) u ON o.user_id = u.id AND o.id = 2 WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (u.id, 2, 1)",
    "MERGE INTO users u USING countries c ON u.country = c.code AND u.id = {one} WHEN MATCHED THEN UPDATE SET name = c.name",
    "INSERT INTO orders SELECT id, 3, 1 FROM users WHERE id = {one} ON CONFLICT DO NOTHING",
    "INSERT INTO orders SELECT v.id, v.n, 2 FROM (VALUES ({one}, 5), ({one}, 3)) v (id, n) ON CONFLICT DO NOTHING",
    "INSERT INTO orders SELECT v.id, v.n, 2 FROM (VALUES ({one}, 5), ({two}, 3)) v (id, n) ON CONFLICT DO NOTHING",
    "UPDATE users u SET name = v.name FROM (VALUES ({one}, 'x'), ({one}, 'x')) v (id, name) WHERE u.id = v.id",
    "WITH gone AS (DELETE FROM orders WHERE user_id = {one} AND id = 1 RETURNING *) UPDATE users SET name = 'gone' WHERE id = {one} AND EXISTS (SELECT FROM gone)",
    "WITH u AS (SELECT id FROM users WHERE id = {one}) DELETE FROM orders USING u WHERE user_id = u.id",
    "DELETE FROM orders WHERE user_id IN ({one}, {one}) AND id IN (1, 3)",
    "UPDATE users SET age = 5 WHERE id IN (SELECT user_id FROM orders WHERE user_id = {one})",
];

impl Generator {
    /// A statement whose key is proven across queries, or only looks so.
    pub(super) fn across(&mut self, writes: bool) -> (Node, Certainty) {
        let template = self.random.word(if writes { WRITES } else { READS });
        let join = self
            .random
            .word(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let few = self.random.word(&["", "", " ORDER BY 1 LIMIT 2"]);
        let text = template.replace("{join}", join).replace("{few}", few);
        let (first, second) = (self.position(), self.random.below(14));
        let one = self.key_text(Type::Int8, first);
        let two = self.key_text(Type::Int8, second);
        let mut parts = Vec::new();
        for piece in text.split('{') {
            let (key, rest) = match piece.split_once('}') {
                Some(("one", rest)) => (Some(&one), rest),
                Some(("two", rest)) => (Some(&two), rest),
                _ => (None, piece),
            };
            if let Some(key) = key {
                parts.push(self.literal(Type::Int8, key));
            }
            parts.push(rest.into());
        }
        (Node::All(parts), Certainty::Rows)
    }
}
