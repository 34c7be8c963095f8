//! What the stored expressions of defaults, views, constraints and policies call, read from their node trees.
//!
//! Owns a scan of `pg_node_tree` text for function and operator OIDs; it never understands an expression, and says
//! "anything" where it sees a node it does not know. Postgres' dependency records would not do: they leave out what
//! is built in, as `now()` is. Main type: [`Calls`].

/// Nodes that compute from their arguments alone, apart from the functions they name.
const HARMLESS: &[&str] = &[
    "CONST",
    "RELABELTYPE",
    "FUNCEXPR",
    "OPEXPR",
    "DISTINCTEXPR",
    "NULLIFEXPR",
    "SCALARARRAYOPEXPR",
    "BOOLEXPR",
    "NULLTEST",
    "BOOLEANTEST",
    "CASEEXPR",
    "CASE",
    "CASEWHEN",
    "WHEN",
    "CASETESTEXPR",
    "ARRAYEXPR",
    "ARRAY",
    "COALESCEEXPR",
    "COALESCE",
    "MINMAXEXPR",
    "MINMAX",
    "COLLATEEXPR",
    "COLLATE",
];

/// The fields that name a function.
const FUNCTION_FIELDS: &[&str] = &[
    ":funcid ",
    ":opfuncid ",
    ":aggfnoid ",
    ":winfnoid ",
    ":hashfuncid ",
    ":negfuncid ",
];

/// What an expression calls.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Calls {
    /// OIDs of functions, aggregates included.
    pub(super) functions: Vec<u32>,
    /// OIDs of operators, whose functions count.
    pub(super) operators: Vec<u32>,
    /// Whether every node is one whose value depends only on what it calls.
    pub(super) purity: Purity,
}

/// Whether the nodes themselves are harmless.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Purity {
    /// Constants and calls.
    #[default]
    CallsOnly,
    /// Something else: `CURRENT_TIMESTAMP`, a sequence, a conversion, a node not known here, an OID as a constant.
    Anything,
}

/// Scans a node tree as `pg_node_tree` is printed.
pub(super) fn calls(tree: &str) -> Calls {
    let mut calls = Calls::default();
    for field in FUNCTION_FIELDS {
        calls
            .functions
            .extend(numbers_after(tree, field).filter(|oid| *oid != 0));
    }
    calls
        .operators
        .extend(numbers_after(tree, ":opno ").filter(|oid| *oid != 0));
    let unknown_node = tree.split('{').skip(1).any(|node| {
        let tag = node.split([' ', '}']).next().unwrap_or_default();
        !HARMLESS.contains(&tag)
    });
    if unknown_node || numbers_after(tree, ":consttype ").any(holds_oids) {
        calls.purity = Purity::Anything;
    }
    calls
}

/// The tables that its subqueries read.
pub(super) fn relations(tree: &str) -> impl Iterator<Item = u32> {
    numbers_after(tree, ":relid ").filter(|oid| *oid != 0)
}

/// The types that it makes values of.
pub(super) fn results(tree: &str) -> impl Iterator<Item = u32> {
    numbers_after(tree, ":resulttype ")
}

/// `oid` and the reg... types: a constant of them is another number on another server.
fn holds_oids(type_oid: u32) -> bool {
    matches!(
        type_oid,
        26 | 24 | 2202..=2206 | 3734 | 3769 | 4089 | 4096 | 4191
    )
}

fn numbers_after<'a>(tree: &'a str, field: &'a str) -> impl Iterator<Item = u32> + 'a {
    tree.split(field).skip(1).filter_map(|rest| {
        let end = rest
            .find(|character: char| !character.is_ascii_digit())
            .unwrap_or(rest.len());
        rest.get(..end)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_calls_nothing() {
        let tree = "{CONST :consttype 23 :consttypmod -1 :constvalue 4 [ 3 0 0 0 0 0 0 0 ]}";
        assert_eq!(calls(tree), Calls::default());
    }

    #[test]
    fn functions_and_operators_are_found() {
        let tree = "{OPEXPR :opno 551 :opfuncid 177 :args ({FUNCEXPR :funcid 1299 :args <>} {CONST :consttype 23})}";
        let calls = calls(tree);
        assert_eq!(
            (calls.functions, calls.operators, calls.purity),
            (vec![1299, 177], vec![551], Purity::CallsOnly)
        );
    }

    #[test]
    fn what_is_not_known_may_be_anything() {
        assert_eq!(calls("{SQLVALUEFUNCTION :op 3}").purity, Purity::Anything);
        assert_eq!(
            calls("{NEXTVALUEEXPR :seqid 16400}").purity,
            Purity::Anything
        );
        assert_eq!(calls("{CONST :consttype 2205}").purity, Purity::Anything);
    }
}
