//! What calling a function means for placement.
//!
//! Owns the classes of builtin functions whose effect or answer belongs to one server or one
//! session. How volatile a function is comes from the catalog, never from here. Main type:
//! [`FunctionFacts`].

use pgherd_topology::{RelationName, Volatility};

use crate::plan::Residue;
use crate::scope::Names;

/// What is known of all functions that a statement calls.
#[derive(Debug, Clone, Default)]
pub(crate) struct FunctionFacts {
    /// The first that is volatile.
    pub(crate) volatile: Option<String>,
    /// The first that is not immutable.
    pub(crate) changing: Option<String>,
    /// The first whose value is the moment at which the transaction began.
    pub(crate) moment: Option<String>,
    /// The first that a user wrote, or an extension brought, and whose tables are not declared.
    pub(crate) user: Option<String>,
    /// The tables that declared functions touch, each with the function.
    pub(crate) touches: Vec<(String, RelationName)>,
    /// The first that a user wrote and that is not declared to read only.
    pub(crate) may_write: Option<String>,
    /// Whether one that a user wrote, not declared to read only, is not immutable.
    pub(crate) user_changing: bool,
    /// The first that the catalog does not hold.
    pub(crate) unknown: Option<String>,
    /// The first whose effect or answer belongs to the home shard.
    pub(crate) home_only: Option<String>,
    /// The first that answers for one server: not on a replica.
    pub(crate) server_local: Option<String>,
    /// The first that runs SQL given as text.
    pub(crate) runs_text: Option<String>,
    /// The first that changes a setting.
    pub(crate) sets: Option<String>,
    /// How often one does.
    pub(crate) setting_calls: usize,
    /// Whether one may return any number of rows.
    pub(crate) returns_set: bool,
    /// The first whose result depends on the order of rows.
    pub(crate) order_dependent: Option<String>,
    pub(crate) residue: Residue,
}

/// A call as the statement spells it.
pub(crate) struct Call<'a> {
    pub(crate) schema: Option<&'a str>,
    pub(crate) name: &'a str,
    /// `set_config(.., .., true)`
    pub(crate) is_local: bool,
    /// With OVER.
    pub(crate) window: bool,
}

/// What Postgres' grammar calls without a row in pg_proc, and what is neither volatile nor stable.
const GRAMMAR_IMMUTABLE: &[&str] = &[
    "cast",
    "coalesce",
    "greatest",
    "grouping",
    "least",
    "nullif",
    "row",
    "treat",
    "xmlconcat",
    "xmlelement",
    "xmlexists",
    "xmlforest",
    "xmlparse",
    "xmlpi",
    "xmlroot",
    "xmlserialize",
    "json",
    "json_scalar",
    "json_serialize",
    "json_exists",
    "json_query",
    "json_value",
    "json_object",
    "json_array",
    "json_objectagg",
    "json_arrayagg",
    "merge_action",
    "normalize",
    "overlay",
    "position",
    "substring",
    "trim",
    "extract",
    "array",
    "exists",
    "any",
    "all",
    "some",
    "rows",
];

/// The same for what reads the clock, the session or the user.
pub(crate) const GRAMMAR_STABLE: &[&str] = &[
    "current_date",
    "current_time",
    "current_timestamp",
    "localtime",
    "localtimestamp",
    "current_user",
    "session_user",
    "system_user",
    "user",
    "current_role",
    "current_catalog",
    "current_schema",
];

/// What is the moment at which the transaction began.
const MOMENT: &[&str] = &[
    "age",
    "current_date",
    "current_time",
    "current_timestamp",
    "localtime",
    "localtimestamp",
    "now",
    "transaction_timestamp",
];

/// Functions that read or change a sequence.
const SEQUENCE: &[&str] = &[
    "nextval",
    "setval",
    "currval",
    "lastval",
    "pg_sequence_last_value",
];

/// Those of them that leave something for the session, and those that ask for it.
const DRAWS: &[&str] = &["nextval", "setval"];
const ASKS: &[&str] = &["currval", "lastval"];

/// The function that changes a setting.
pub(crate) const SET_CONFIG: &str = "set_config";

/// Functions that run a query or read tables that they are given as text.
const RUNS_TEXT: &[&str] = &[
    "query_to_xml",
    "query_to_xmlschema",
    "query_to_xml_and_xmlschema",
    "table_to_xml",
    "table_to_xmlschema",
    "table_to_xml_and_xmlschema",
    "schema_to_xml",
    "schema_to_xmlschema",
    "schema_to_xml_and_xmlschema",
    "database_to_xml",
    "database_to_xmlschema",
    "database_to_xml_and_xmlschema",
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "ts_stat",
    "ts_rewrite",
];

/// Functions whose answer is that of one server or one server process.
const SERVER_LOCAL: &[&str] = &[
    "current_setting",
    "pg_backend_pid",
    "pg_is_in_recovery",
    "pg_postmaster_start_time",
    "pg_conf_load_time",
    "pg_blocking_pids",
    "pg_safe_snapshot_blocking_pids",
    "pg_database_size",
    "pg_relation_size",
    "pg_total_relation_size",
    "pg_table_size",
    "pg_indexes_size",
    "pg_tablespace_size",
    "pg_lock_status",
    "pg_cursor",
    "pg_prepared_statement",
    "pg_prepared_xact",
    "pg_show_all_settings",
    "pg_show_all_file_settings",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_export_snapshot",
    "pg_my_temp_schema",
    "pg_is_other_temp_schema",
    "pg_trigger_depth",
    "pg_notification_queue_usage",
    "pg_listening_channels",
    "pg_jit_available",
    "pg_get_wal_replay_pause_state",
    "pg_is_wal_replay_paused",
    "pg_isolation_test_session_is_blocked",
    "pg_relation_filenode",
    "pg_relation_filepath",
    "pg_filenode_relation",
    "pg_config",
    "pg_timezone_names",
    "pg_timezone_abbrevs",
    "pg_cancel_backend",
    "pg_terminate_backend",
    "pg_reload_conf",
    "pg_rotate_logfile",
    "pg_promote",
    "pg_switch_wal",
    "version",
];

/// The same, by how their names begin.
const SERVER_LOCAL_PREFIXES: &[&str] = &[
    "pg_stat_",
    "pg_ls_",
    "pg_read_",
    "pg_wal_",
    "pg_walfile_",
    "pg_control_",
    "pg_logical_",
    "pg_replication_",
    "pg_last_",
    "pg_current_",
    "pg_xact_",
    "pg_get_replication_",
    "pg_get_shmem_",
    "pg_get_backend_",
    "pg_show_replication_",
    "pg_create_",
    "pg_drop_",
    "pg_copy_",
    "pg_backup_",
    "pg_start_backup",
    "pg_stop_backup",
    "txid_",
    "inet_server_",
    "inet_client_",
    "pg_log_",
];

/// Aggregates whose result follows the order of their rows, or of floating point additions.
const ORDER_DEPENDENT: &[&str] = &[
    "array_agg",
    "string_agg",
    "json_agg",
    "jsonb_agg",
    "json_object_agg",
    "jsonb_object_agg",
    "xmlagg",
    "avg",
    "sum",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "variance",
    "var_pop",
    "var_samp",
    "corr",
    "covar_pop",
    "covar_samp",
    "regr_avgx",
    "regr_avgy",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "mode",
];

impl FunctionFacts {
    /// Takes one more call into account.
    pub(crate) fn add(&mut self, call: &Call<'_>, names: &Names<'_>) {
        let (name, catalog, search_path) = (call.name, names.catalog, names.search_path);
        let declared = names.sharding.declarations();
        if call.window || ORDER_DEPENDENT.contains(&name) {
            note(&mut self.order_dependent, name);
        }
        let mut known = false;
        let mut volatility = Volatility::Immutable;
        // of the overloads any may be meant, so each must be declared
        let (mut user, mut undeclared, mut reads) = (false, false, true);
        for function in catalog.functions(call.schema, name, search_path) {
            known = true;
            self.returns_set |= function.returns_set;
            let mut of_this = function.volatility;
            if !function.is_builtin() {
                let full_name = RelationName::new(function.schema.clone(), function.name.clone());
                user = true;
                match declared.functions.get(&full_name) {
                    Some(tables) => self
                        .touches
                        .extend(tables.iter().map(|table| (name.to_owned(), table.clone()))),
                    None => undeclared = true,
                }
                if declared.reading_functions.contains(&full_name) {
                    of_this = of_this.min(Volatility::Stable);
                } else {
                    reads = false;
                }
            }
            volatility = volatility.max(of_this);
        }
        if !known && call.schema.is_none() {
            known = true;
            if GRAMMAR_IMMUTABLE.contains(&name) {
                volatility = Volatility::Immutable;
            } else if GRAMMAR_STABLE.contains(&name) {
                volatility = Volatility::Stable;
            } else if catalog
                .resolve_type(name, search_path)
                .is_some_and(|found| found.is_builtin())
            {
                // a type's name as a function: a cast
                volatility = Volatility::Stable;
            } else {
                known = false;
            }
        }
        if !known {
            note(&mut self.unknown, name);
            volatility = Volatility::Volatile;
            // made a moment ago, perhaps: what it leaves behind is as unknown as what it does
            self.residue |= Residue::OPAQUE;
        }
        if user {
            if undeclared {
                note(&mut self.user, name);
            }
            if !reads {
                note(&mut self.may_write, name);
                self.user_changing |= volatility != Volatility::Immutable;
            }
        } else {
            self.add_builtin(call);
        }
        if MOMENT.contains(&name) {
            note(&mut self.moment, name);
        }
        // what it changes is a setting, which `sets` tells
        let is_set_config = !user && name == SET_CONFIG;
        if volatility == Volatility::Volatile && !is_set_config {
            note(&mut self.volatile, name);
        }
        if volatility != Volatility::Immutable {
            note(&mut self.changing, name);
        }
    }

    fn add_builtin(&mut self, call: &Call<'_>) {
        let name = call.name;
        if SEQUENCE.contains(&name) {
            note(&mut self.home_only, name);
            note(&mut self.server_local, name);
            if DRAWS.contains(&name) {
                self.residue |= Residue::SEQUENCE;
            } else if ASKS.contains(&name) {
                self.residue |= Residue::ASKS_SEQUENCE;
            }
        } else if name.contains("advisory_") {
            note(&mut self.home_only, name);
            note(&mut self.server_local, name);
            if name.contains("_unlock") {
                self.residue |= Residue::RELEASE;
            } else if !name.contains("_xact_") {
                self.residue |= Residue::ADVISORY_LOCK;
                if name.contains("_try_") {
                    // it may not have been had
                    self.residue |= Residue::RELEASE;
                }
            }
        } else if name.starts_with("lo_") || matches!(name, "loread" | "lowrite" | "pg_notify") {
            note(&mut self.home_only, name);
        } else if RUNS_TEXT.contains(&name) {
            note(&mut self.runs_text, name);
            note(&mut self.volatile, name);
            self.residue |= Residue::OPAQUE;
        } else if name == SET_CONFIG {
            note(&mut self.sets, name);
            self.setting_calls += 1;
            if !call.is_local {
                self.residue |= Residue::SETTING;
            }
        } else if SERVER_LOCAL.contains(&name)
            || SERVER_LOCAL_PREFIXES
                .iter()
                .any(|prefix| name.starts_with(prefix))
        {
            note(&mut self.server_local, name);
        }
    }
}

fn note(first: &mut Option<String>, name: &str) {
    if first.is_none() {
        *first = Some(name.to_owned());
    }
}

/// Relations of pg_catalog that hold the same on a replica: its tables. Its views (`pg_stat_*`,
/// `pg_locks`, `pg_settings`) tell of one server.
pub(crate) fn is_replicated_catalog(name: &str) -> bool {
    const TABLES: &[&str] = &[
        "pg_aggregate",
        "pg_am",
        "pg_amop",
        "pg_amproc",
        "pg_attrdef",
        "pg_attribute",
        "pg_auth_members",
        "pg_authid",
        "pg_cast",
        "pg_class",
        "pg_collation",
        "pg_constraint",
        "pg_conversion",
        "pg_database",
        "pg_db_role_setting",
        "pg_default_acl",
        "pg_depend",
        "pg_description",
        "pg_enum",
        "pg_event_trigger",
        "pg_extension",
        "pg_foreign_data_wrapper",
        "pg_foreign_server",
        "pg_foreign_table",
        "pg_group",
        "pg_index",
        "pg_indexes",
        "pg_inherits",
        "pg_init_privs",
        "pg_language",
        "pg_largeobject_metadata",
        "pg_matviews",
        "pg_namespace",
        "pg_opclass",
        "pg_operator",
        "pg_opfamily",
        "pg_parameter_acl",
        "pg_partitioned_table",
        "pg_policies",
        "pg_policy",
        "pg_proc",
        "pg_publication",
        "pg_publication_namespace",
        "pg_publication_rel",
        "pg_publication_tables",
        "pg_range",
        "pg_rewrite",
        "pg_roles",
        "pg_rules",
        "pg_seclabel",
        "pg_seclabels",
        "pg_sequence",
        "pg_shadow",
        "pg_shdepend",
        "pg_shdescription",
        "pg_shseclabel",
        "pg_statistic_ext",
        "pg_tables",
        "pg_tablespace",
        "pg_transform",
        "pg_trigger",
        "pg_ts_config",
        "pg_ts_config_map",
        "pg_ts_dict",
        "pg_ts_parser",
        "pg_ts_template",
        "pg_type",
        "pg_user",
        "pg_user_mapping",
        "pg_user_mappings",
        "pg_views",
    ];
    TABLES.binary_search(&name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgherd_topology::{Catalog, Sharding};

    #[test]
    fn the_replicated_catalogs_are_found() {
        for name in [
            "pg_class",
            "pg_aggregate",
            "pg_views",
            "pg_user",
            "pg_index",
            "pg_indexes",
        ] {
            assert!(is_replicated_catalog(name), "{name}");
        }
        assert!(!is_replicated_catalog("pg_stat_activity"));
        assert!(!is_replicated_catalog("pg_locks"));
    }

    #[test]
    fn what_a_call_leaves_behind_is_known_or_taken_for_anything() {
        let catalog = Catalog::builder().with_builtins().build();
        let sharding = Sharding::unsharded("s0");
        let names = Names {
            catalog: &catalog,
            sharding: &sharding,
            search_path: &[],
        };
        for (name, residue) in [
            ("pg_advisory_lock", Residue::ADVISORY_LOCK),
            ("pg_advisory_xact_lock", Residue::NONE),
            (
                "pg_try_advisory_lock",
                Residue::ADVISORY_LOCK | Residue::RELEASE,
            ),
            ("nextval", Residue::SEQUENCE),
            ("currval", Residue::ASKS_SEQUENCE),
            ("abs", Residue::NONE),
            ("made_a_moment_ago", Residue::OPAQUE),
        ] {
            let mut facts = FunctionFacts::default();
            let call = Call {
                schema: None,
                name,
                is_local: false,
                window: false,
            };
            facts.add(&call, &names);
            assert_eq!(facts.residue, residue, "{name}");
        }
    }
}
