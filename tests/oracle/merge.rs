//! MERGE.

use super::generator::Generator;
use super::node::Node;
use super::schema::Type;
use crate::sql;

impl Generator {
    pub(super) fn merge(&mut self) -> Node {
        let position = self.position();
        let text = self.key_text(Type::Int8, position);
        let key = self.literal(Type::Int8, &text);
        let source = match self.random.below(4) {
            0 => sql!("(VALUES (", key.clone(), ", 'merged')) AS s (id, name)"),
            1 => sql!(
                "(SELECT ",
                key.clone(),
                "::bigint AS id, 'merged' AS name) s"
            ),
            2 => Node::from("everyone s"),
            _ => sql!(
                "(SELECT user_id AS id, note AS name FROM orders WHERE user_id = ",
                key.clone(),
                " AND id = 0) s"
            ),
        };
        let fixed = sql!(" AND t.id = ", key).droppable();
        let mut actions = vec![match self.random.below(4) {
            0 => Node::from(" WHEN MATCHED THEN DELETE"),
            1 => Node::from(" WHEN MATCHED THEN DO NOTHING"),
            2 => Node::from(" WHEN MATCHED THEN UPDATE SET id = s.id + 1"),
            _ => Node::from(" WHEN MATCHED AND t.active THEN UPDATE SET name = s.name"),
        }];
        if self.random.percent(60) {
            actions.push(" WHEN NOT MATCHED THEN INSERT (id, name) VALUES (s.id, s.name)".into());
        }
        sql!(
            "MERGE INTO users t USING ",
            source,
            " ON t.id = s.id",
            fixed,
            Node::list("", actions, 1)
        )
    }
}
