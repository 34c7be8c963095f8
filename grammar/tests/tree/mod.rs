//! What Postgres' tree says of tables and of the key, found without any of the router's code.

use std::collections::BTreeSet;

use serde_json::Value;

/// The statement of a text, if it is one and a query or a write.
pub fn only_query(tree: &Value) -> Option<&Value> {
    let statements = tree["stmts"].as_array()?;
    let [statement] = statements.as_slice() else {
        return None;
    };
    let node = statement["stmt"]["node"].as_object()?;
    [
        "SelectStmt",
        "InsertStmt",
        "UpdateStmt",
        "DeleteStmt",
        "MergeStmt",
    ]
    .iter()
    .find_map(|kind| node.get(*kind))
}

/// Schema and name of every relation that a statement names, without those of WITH.
pub fn relations(statement: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    walk(statement, &[], &mut found);
    found
}

fn walk(value: &Value, scope: &[String], found: &mut Vec<(String, String)>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| walk(value, scope, found)),
        Value::Object(fields) => {
            if fields.contains_key("relname") && fields.contains_key("relpersistence") {
                let text = |name: &str| fields[name].as_str().unwrap_or_default().to_owned();
                let (schema, name) = (text("schemaname"), text("relname"));
                if !(schema.is_empty() && scope.contains(&name)) {
                    found.push((schema, name));
                }
                return;
            }
            let mut scope = scope.to_vec();
            if let Some(with) = fields.get("with_clause").filter(|with| !with.is_null()) {
                let ctes = with["ctes"].as_array().cloned().unwrap_or_default();
                let name = |cte: &Value| {
                    let cte = &cte["node"]["CommonTableExpr"];
                    cte["ctename"].as_str().unwrap_or_default().to_owned()
                };
                if with["recursive"] == Value::Bool(true) {
                    scope.extend(ctes.iter().map(name));
                }
                for cte in &ctes {
                    walk(&cte["node"]["CommonTableExpr"]["ctequery"], &scope, found);
                    scope.push(name(cte));
                }
            }
            for (name, value) in fields {
                // a locking clause names aliases
                if name != "with_clause" && name != "locked_rels" {
                    walk(value, &scope, found);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

type Values = BTreeSet<String>;

const AEXPR_OP: i64 = 1;
const AEXPR_IN: i64 = 7;
const AND_EXPR: i64 = 1;
const OR_EXPR: i64 = 2;
const IS_TRUE: i64 = 1;

/// The sets of values of which `id` must have one where the condition holds: any of them will do.
pub fn proven(condition: &Value) -> Vec<Values> {
    let node = &condition["node"];
    if let Some(bools) = node.get("BoolExpr") {
        let arguments = bools["args"].as_array().cloned().unwrap_or_default();
        return match bools["boolop"].as_i64() {
            Some(AND_EXPR) => arguments.iter().flat_map(proven).collect(),
            Some(OR_EXPR) => union_of_each(&arguments),
            _ => Vec::new(),
        };
    }
    if let Some(test) = node.get("BooleanTest") {
        return match test["booltesttype"].as_i64() {
            Some(IS_TRUE) => proven(&test["arg"]),
            _ => Vec::new(),
        };
    }
    let Some(expression) = node.get("AExpr") else {
        return Vec::new();
    };
    let operator = &expression["name"][0]["node"]["String"]["sval"];
    if operator != "=" {
        return Vec::new();
    }
    let (left, right) = (&expression["lexpr"], &expression["rexpr"]);
    match expression["kind"].as_i64() {
        Some(AEXPR_OP) => equal(left, right),
        Some(AEXPR_IN) => {
            let elements = right["node"]["List"]["items"].as_array().cloned();
            let elements = elements.unwrap_or_default();
            let each: Vec<Vec<Values>> = elements
                .iter()
                .map(|element| equal(left, element))
                .collect();
            combined(&each)
        }
        _ => Vec::new(),
    }
}

/// What `left = right` proves.
fn equal(left: &Value, right: &Value) -> Vec<Values> {
    let row = |side: &Value| {
        let row = side["node"].get("RowExpr")?;
        row["args"].as_array().cloned()
    };
    if let (Some(left), Some(right)) = (row(left), row(right)) {
        if left.len() != right.len() {
            return Vec::new();
        }
        let pairs = left.iter().zip(&right);
        return pairs.flat_map(|(left, right)| equal(left, right)).collect();
    }
    let mut proven = Vec::new();
    for (column, value) in [(left, right), (right, left)] {
        if is_key(column)
            && let Some(value) = constant(value)
        {
            proven.push(Values::from([value]));
        }
    }
    proven
}

fn union_of_each(branches: &[Value]) -> Vec<Values> {
    let each: Vec<Vec<Values>> = branches.iter().map(proven).collect();
    combined(&each)
}

/// One set of each, united, in every way.
fn combined(each: &[Vec<Values>]) -> Vec<Values> {
    const MANY: usize = 4096;
    let mut all = vec![Values::new()];
    for sets in each {
        all = all
            .iter()
            .flat_map(|so_far| sets.iter().map(move |set| so_far | set))
            .collect();
        assert!(all.len() < MANY, "the statements are small");
    }
    if each.is_empty() { Vec::new() } else { all }
}

fn is_key(side: &Value) -> bool {
    let Some(column) = side["node"].get("ColumnRef") else {
        return false;
    };
    let fields = column["fields"].as_array().cloned().unwrap_or_default();
    let names: Vec<&str> = fields
        .iter()
        .filter_map(|field| field["node"]["String"]["sval"].as_str())
        .collect();
    matches!(names.as_slice(), ["id"] | ["u", "id"])
}

/// A value as text: a literal, a parameter, or whole numbers worked out.
fn constant(side: &Value) -> Option<String> {
    let node = &side["node"];
    if let Some(parameter) = node.get("ParamRef") {
        return (parameter["number"] == 1).then(|| "$1".to_owned());
    }
    if let Some(cast) = node.get("TypeCast") {
        let names = cast["type_name"]["names"].as_array()?;
        let name = names.last()?["node"]["String"]["sval"].as_str()?;
        return matches!(name, "int4" | "int8")
            .then(|| constant(&cast["arg"]))
            .flatten();
    }
    if let Some(text) = node
        .get("AConst")
        .and_then(|constant| constant["val"]["Sval"]["sval"].as_str())
    {
        return Some(text.to_owned());
    }
    number(side).map(|value| value.to_string())
}

fn number(side: &Value) -> Option<i64> {
    let node = &side["node"];
    if let Some(constant) = node.get("AConst") {
        // zero is left out of the tree
        return constant["val"].get("Ival")?["ival"].as_i64();
    }
    let expression = node.get("AExpr")?;
    if expression["kind"].as_i64() != Some(AEXPR_OP) {
        return None;
    }
    let right = number(&expression["rexpr"])?;
    let operator = expression["name"][0]["node"]["String"]["sval"].as_str()?;
    if expression["lexpr"].is_null() {
        return (operator == "-").then_some(-right);
    }
    let left = number(&expression["lexpr"])?;
    match operator {
        "+" => Some(left + right),
        "-" => Some(left - right),
        "*" => Some(left * right),
        "%" => Some(left % right),
        _ => None,
    }
}
