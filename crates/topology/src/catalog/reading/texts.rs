//! The queries on the system catalogs.
//!
//! Owns their texts; columns are read by position in [`super::rows`], the first one names the query. They run with
//! `search_path = pg_catalog`, on Postgres 13 and later: columns that newer versions brought are asked for through
//! `to_jsonb`. Whatever names a column of a key does so by its number, since a name may hold any character.
//! Main function: [`queries`].

use crate::names::RelationName;

/// All that a reading takes apart from [`SETTINGS`], as statements of one text; they must see one snapshot. `compared` are
/// the tables that shards must agree on.
pub fn queries(compared: &[RelationName]) -> String {
    let mut text = [
        RELATIONS,
        COLUMNS,
        COLLATIONS,
        UNIQUE_KEYS,
        FOREIGN_KEYS,
        VIEWS,
        POLICIES,
        CHECKS,
        FUNCTIONS,
        OPERATORS,
        TYPES,
    ]
    .join(";\n");
    if !compared.is_empty() {
        let names: Vec<String> = compared
            .iter()
            .map(|table| format!("({}, {})", literal(&table.schema), literal(&table.name)))
            .collect();
        text.push_str(";\n");
        text.push_str(SIGNATURES);
        text.push_str(&names.join(", "));
        text.push(')');
    }
    text
}

/// The same for a connection that is in a transaction block, whose own changes are then seen: under fixed settings, which a savepoint
/// takes back. An error fails the block.
pub fn as_the_transaction_sees_it(queries: &str) -> String {
    const NAME: &str = "pgherd_reading";
    format!(
        "SAVEPOINT {NAME};\nSET LOCAL search_path = pg_catalog;\nSET LOCAL client_encoding = 'UTF8';\n\
         SET LOCAL quote_all_identifiers = off;\nSET LOCAL statement_timeout = '5s';\n{queries};\n\
         ROLLBACK TO SAVEPOINT {NAME};\nRELEASE SAVEPOINT {NAME}"
    )
}

/// A string that reads the same whatever `standard_conforming_strings` is.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// What a new session would find, though ours has settings of its own: those of the login's role are left out, since clients
/// have other roles. The settings of each role follow, the more particular ones last.
pub const SETTINGS: &str = "SELECT 'setting', current_setting('server_version_num')::int, current_setting('server_encoding'), \
  s.name, CASE WHEN EXISTS (SELECT 1 FROM pg_db_role_setting o, unnest(o.setconfig) c WHERE o.setrole = (SELECT oid FROM pg_roles WHERE rolname = session_user) \
      AND c LIKE s.name || '=%') \
    THEN coalesce((SELECT substr(c, length(s.name) + 2) FROM pg_db_role_setting o, unnest(o.setconfig) c \
        WHERE o.setrole = 0 AND o.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) \
        AND c LIKE s.name || '=%' ORDER BY o.setdatabase DESC LIMIT 1), s.boot_val) \
    ELSE s.reset_val END, NULL::name \
  FROM pg_settings s WHERE s.name IN ('search_path', 'standard_conforming_strings') \
  UNION ALL (SELECT 'setting', current_setting('server_version_num')::int, current_setting('server_encoding'), \
    split_part(c, '=', 1), substr(c, strpos(c, '=') + 1), r.rolname \
  FROM pg_db_role_setting o JOIN pg_roles r ON r.oid = o.setrole, unnest(o.setconfig) c \
  WHERE o.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) \
    AND split_part(c, '=', 1) IN ('search_path', 'standard_conforming_strings') ORDER BY o.setdatabase)";

/// Temporary and toast relations are of nobody's concern.
const RELATIONS: &str = "SELECT 'relation', c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text, \
  EXISTS (SELECT 1 FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal), \
  EXISTS (SELECT 1 FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN'), \
  c.relrowsecurity, \
  (SELECT i.inhparent FROM pg_inherits i WHERE i.inhrelid = c.oid AND c.relkind IN ('r', 'p', 'f') ORDER BY i.inhseqno LIMIT 1), \
  coalesce((SELECT x.indrelid FROM pg_index x WHERE x.indexrelid = c.oid), \
    (SELECT d.refobjid FROM pg_depend d WHERE c.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.objid = c.oid \
      AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') LIMIT 1)) \
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
  WHERE c.relpersistence <> 't' AND c.relkind <> 't' AND n.nspname !~ '^pg_(temp|toast)'";

/// Indexes have no columns of their own here.
const COLUMNS: &str = "SELECT 'column', a.attrelid, a.attnum, a.attname::text, a.atttypid, a.atttypmod, a.attnotnull, a.attidentity::text, \
  a.attgenerated::text, a.attcollation, (SELECT d.adbin::text FROM pg_attrdef d \
    WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.attgenerated = '') \
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
  WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relpersistence <> 't' AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c', 'S') \
  ORDER BY a.attrelid, a.attnum";

/// How each collation compares: `n` not deterministically, `b` by bytes, `d` otherwise.
const COLLATIONS: &str = "SELECT 'collation', k.oid, CASE WHEN NOT k.collisdeterministic THEN 'n' \
    WHEN provider = 'b' OR (provider = 'c' AND locale IN ('C', 'POSIX', 'C.UTF-8', 'C.utf8')) THEN 'b' ELSE 'd' END \
  FROM pg_collation k, (SELECT coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') AS datprovider, d.datcollate::text \
      FROM pg_database d WHERE d.datname = current_database()) AS own, \
    LATERAL (SELECT CASE k.collprovider WHEN 'd' THEN datprovider ELSE k.collprovider::text END AS provider, \
      CASE k.collprovider WHEN 'd' THEN datcollate ELSE k.collcollate::text END AS locale) AS resolved";

const UNIQUE_KEYS: &str = "SELECT 'unique key', i.indrelid, i.indisprimary, array_to_string(ARRAY(SELECT k.number \
    FROM unnest(i.indkey) WITH ORDINALITY AS k (number, position) WHERE k.position <= i.indnkeyatts ORDER BY k.position), ' ') \
  FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid \
  WHERE i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indisvalid \
  AND c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND i.indrelid >= 16384 ORDER BY i.indexrelid";

const FOREIGN_KEYS: &str = "SELECT 'foreign key', f.conrelid, f.confrelid, f.confdeltype::text, f.confupdtype::text, \
  array_to_string(f.conkey, ' '), array_to_string(f.confkey, ' ') \
  FROM pg_constraint f JOIN pg_class c ON c.oid = f.conrelid WHERE f.contype = 'f' AND c.relpersistence <> 't' ORDER BY f.oid";

/// What the definitions of users' views read, and the definitions.
const VIEWS: &str = "SELECT 'view', r.ev_class, r.ev_action::text, array_to_string(ARRAY(SELECT DISTINCT d.refobjid FROM pg_depend d \
    WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass \
    AND d.refobjid <> r.ev_class), ' ') \
  FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class \
  WHERE r.rulename = '_RETURN' AND c.relkind IN ('v', 'm') AND c.oid >= 16384 AND c.relpersistence <> 't'";

/// Conditions for what is read, and for what is written.
const POLICIES: &str = "SELECT 'policy', p.polrelid, true, p.polqual::text \
  FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid WHERE c.relrowsecurity AND c.relpersistence <> 't' AND p.polqual IS NOT NULL \
  UNION ALL SELECT 'policy', p.polrelid, false, p.polwithcheck::text \
  FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid WHERE c.relrowsecurity AND c.relpersistence <> 't' AND p.polwithcheck IS NOT NULL";

/// CHECK constraints of users' tables and domains.
const CHECKS: &str = "SELECT 'check', o.conrelid, o.contypid, o.conbin::text FROM pg_constraint o LEFT JOIN pg_class c ON c.oid = o.conrelid \
  WHERE o.contype = 'c' AND o.conbin IS NOT NULL AND o.oid >= 16384 AND c.relpersistence IS DISTINCT FROM 't'";

const FUNCTIONS: &str = "SELECT 'function', p.oid, n.nspname::text, p.proname::text, p.prokind::text, p.provolatile::text, p.proretset, \
  array_to_string(p.proargtypes, ' '), p.prorettype, p.prolang IN (SELECT l.oid FROM pg_language l WHERE l.lanname IN ('c', 'internal')) \
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname !~ '^pg_temp'";

const OPERATORS: &str = "SELECT 'operator', o.oid, n.nspname::text, o.oprname::text, o.oprleft, o.oprright, o.oprresult, p.provolatile::text \
  FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace JOIN pg_proc p ON p.oid = o.oprcode";

const TYPES: &str = "SELECT 'type', t.oid, n.nspname::text, t.typname::text, t.typtype::text, \
  CASE WHEN t.typcategory = 'A' AND t.typlen = -1 THEN t.typelem ELSE 0 END, t.typbasetype, t.typtypmod, t.typrelid, \
  coalesce((SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid), 0), \
  coalesce((SELECT r.rngtypid FROM pg_range r WHERE (to_jsonb(r) ->> 'rngmultitypid')::oid = t.oid AND t.typtype = 'm'), 0), t.typdefaultbin::text \
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid \
  WHERE n.nspname !~ '^pg_(temp|toast)' AND c.relpersistence IS DISTINCT FROM 't'";

/// Everything about the tables that follow on which shards must agree, as one text each. Sequences'
/// own settings and the values of defaults differ by design.
const SIGNATURES: &str = "SELECT 'signature', n.nspname::text, c.relname::text, concat_ws(E'\\n', c.relkind, c.relpersistence, \
  c.relrowsecurity, \
  (SELECT string_agg(concat_ws(' ', quote_ident(a.attname), format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, \
      a.attgenerated, k.collname, k.collcollate), ', ' ORDER BY a.attnum) FROM pg_attribute a \
    LEFT JOIN pg_collation k ON k.oid = a.attcollation WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), \
  (SELECT string_agg(d.definition, '; ' ORDER BY d.definition) FROM (SELECT pg_get_constraintdef(o.oid) AS definition FROM pg_constraint o \
    WHERE o.conrelid = c.oid AND o.contype IN ('c', 'f', 'p', 'u', 'x')) AS d), \
  (SELECT string_agg(concat_ws(' ', t.tgname, t.tgenabled, t.tgtype, t.tgfoid::regproc), '; ' ORDER BY t.tgname) FROM pg_trigger t \
    WHERE t.tgrelid = c.oid AND NOT t.tgisinternal), \
  (SELECT string_agg(concat_ws(' ', i.indisunique, (SELECT string_agg(coalesce(a.attname::text, '-'), ',' ORDER BY p.position) FROM unnest(i.indkey) WITH ORDINALITY AS p (number, position) \
      LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.number AND p.number > 0), pg_get_expr(i.indpred, i.indrelid), pg_get_expr(i.indexprs, i.indrelid)), \
      '; ' ORDER BY i.indexrelid::regclass::text) FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique \
      AND NOT EXISTS (SELECT 1 FROM pg_constraint o WHERE o.conindid = i.indexrelid))) \
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relpersistence <> 't' AND (n.nspname, c.relname) IN (";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_quotes_and_backslashes_stays_one_literal() {
        let text = queries(&[RelationName::new("a'b", "c\\d")]);
        assert!(text.ends_with("IN ((E'a''b', E'c\\\\d'))"), "{text}");
    }

    #[test]
    fn without_tables_to_compare_nothing_is_compared() {
        assert!(!queries(&[]).contains("'signature'"));
    }
}
