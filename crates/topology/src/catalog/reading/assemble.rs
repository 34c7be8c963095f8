//! From the readings of all shards to the one catalog that is planned with.
//!
//! Owns the home shard's view, the translation of OIDs by qualified names and the comparison of tables that must be
//! alike. Pure. Main type: [`Assembly`].

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::Reading;
use super::expression::{self, Purity};
use super::rows::{CollationKind, ColumnRow, ForeignKeyRow, RelationRow, TypeRow};
use super::unread::Unread;
use crate::catalog::{
    Catalog, Collation, Column, ColumnDefault, CompositeField, FIRST_USER_OID, ForeignKey,
    Function, FunctionKind, OidMap, Operator, Persistence, ReferentialAction, Relation,
    RelationKind, TypeInfo, TypeKind, UniqueKey, Volatility,
};
use crate::ids::ShardId;
use crate::names::RelationName;
use crate::sharding::Sharding;

/// The tables that must be alike on every shard.
pub fn compared(sharding: &Sharding) -> Vec<RelationName> {
    let sharded = sharding.tables().map(|rule| rule.table.clone());
    sharded
        .chain(sharding.reference_tables().cloned())
        .collect()
}

/// What a catalog is made of: one reading for each shard, in their order; `None` where a shard was never read. Such a shard
/// has no OIDs yet and is left out of the comparison.
#[derive(Debug)]
pub struct Assembly<'a> {
    /// The shards' readings.
    pub readings: Vec<Option<Arc<Reading>>>,
    /// Which tables must be alike, and which shard is home.
    pub sharding: &'a Sharding,
    /// The version that the catalog gets.
    pub version: u64,
}

impl Assembly<'_> {
    /// The catalog as the home shard has it; `None` until that shard was read.
    pub fn catalog(self) -> Option<Catalog> {
        let home = self.sharding.home();
        let readings = &self.readings;
        let own = readings.get(home.index())?.as_deref()?;
        let drifted = drifted(readings, self.sharding);
        let view = HomeView::new(own);
        let mut builder = Catalog::builder()
            .version(self.version)
            .settings(own.settings.clone())
            .relations(view.relations(&drifted))
            .relations(missing_at_home(readings, own, &drifted))
            .functions(own.functions.iter().filter_map(|row| {
                Some(Function {
                    schema: row.name.schema.clone(),
                    name: row.name.name.clone(),
                    oid: row.oid,
                    kind: FunctionKind::from_prokind(row.kind)?,
                    volatility: Volatility::from_provolatile(row.volatility)?,
                    returns_set: row.returns_set,
                    arguments: row.arguments.as_slice().into(),
                    result: row.result,
                })
            }))
            .operators(own.operators.iter().filter_map(|row| {
                Some(Operator {
                    schema: row.name.schema.clone(),
                    name: row.name.name.clone(),
                    oid: row.oid,
                    left: row.left,
                    right: row.right,
                    result: row.result,
                    volatility: Volatility::from_provolatile(row.volatility)?,
                })
            }))
            .types(own.types.iter().map(|row| view.type_info(row)));
        for (index, reading) in readings.iter().enumerate() {
            let Ok(number) = u16::try_from(index) else {
                continue;
            };
            let map = match reading {
                _ if number == home.0 => OidMap::identity(),
                Some(reading) => oid_map(reading, own),
                None => OidMap::default(),
            };
            builder = builder.oid_map(ShardId(number), map);
        }
        Some(builder.readings(self.readings.into()).build())
    }
}

/// Tables that the shards which were read disagree on.
fn drifted(readings: &[Option<Arc<Reading>>], sharding: &Sharding) -> HashSet<RelationName> {
    let differs = |table: &RelationName| {
        let signatures: BTreeSet<Option<&String>> = readings
            .iter()
            .flatten()
            .map(|reading| reading.signatures.get(table))
            .collect();
        signatures.len() > 1
    };
    compared(sharding).into_iter().filter(differs).collect()
}

/// Drifted tables that the home shard does not have: they must be known, to be refused.
fn missing_at_home(
    readings: &[Option<Arc<Reading>>],
    home: &Reading,
    drifted: &HashSet<RelationName>,
) -> Vec<Relation> {
    let missing = drifted
        .iter()
        .filter(|table| !home.signatures.contains_key(*table));
    missing
        .filter_map(|table| {
            let row = readings
                .iter()
                .flatten()
                .find_map(|reading| reading.relations.iter().find(|row| row.name == *table))?;
            let kind = RelationKind::from_relkind(row.kind)?;
            Some(Relation {
                drifted: true,
                ..Relation::new(table.clone(), kind)
            })
        })
        .collect()
}

/// Pairs of users' types and relations of one name. An array goes by its element, since its own name depends on what
/// was there first.
fn oid_map(shard: &Reading, home: &Reading) -> OidMap {
    let home_types = type_keys(home);
    let mut pairs: Vec<(u32, u32)> = type_keys(shard)
        .into_iter()
        .filter_map(|(key, oid)| Some((oid, *home_types.get(&key)?)))
        .collect();
    let (of_shard, of_home): (HashSet<u32>, HashSet<u32>) = pairs.iter().copied().unzip();
    let home_relations: HashMap<&RelationName, u32> = home
        .relations
        .iter()
        .map(|row| (&row.name, row.oid))
        .collect();
    let relations = shard
        .relations
        .iter()
        .filter_map(|row| Some((row.oid, *home_relations.get(&row.name)?)));
    // One number may be a type and a relation once the counter has wrapped: rows carry types.
    pairs.extend(
        relations.filter(|(here, there)| !of_shard.contains(here) && !of_home.contains(there)),
    );
    OidMap::from_pairs(pairs)
}

fn type_keys(reading: &Reading) -> HashMap<(&RelationName, u8), u32> {
    let by_oid: HashMap<u32, &TypeRow> = reading.types.iter().map(|row| (row.oid, row)).collect();
    let user_types = reading.types.iter().filter(|row| row.oid >= FIRST_USER_OID);
    user_types
        .map(|row| match by_oid.get(&row.element) {
            Some(element) => ((&element.name, b'['), row.oid),
            None => ((&row.name, b' '), row.oid),
        })
        .collect()
}

/// The home shard's reading, with what is looked up in it again and again.
struct HomeView<'a> {
    reading: &'a Reading,
    names: HashMap<u32, &'a RelationName>,
    functions: HashMap<u32, u8>,
    operators: HashMap<u32, u8>,
    unread: Unread<'a>,
}

impl<'a> HomeView<'a> {
    fn new(reading: &'a Reading) -> Self {
        Self {
            reading,
            names: reading
                .relations
                .iter()
                .map(|row| (row.oid, &row.name))
                .collect(),
            functions: reading
                .functions
                .iter()
                .map(|row| (row.oid, row.volatility))
                .collect(),
            operators: reading
                .operators
                .iter()
                .map(|row| (row.oid, row.volatility))
                .collect(),
            unread: Unread::new(reading),
        }
    }

    fn relations(&self, drifted: &HashSet<RelationName>) -> Vec<Relation> {
        let triggered = self.with_triggers();
        let mut relations: HashMap<u32, Relation> = self
            .reading
            .relations
            .iter()
            .filter_map(|row| {
                let mut relation = self.relation(row)?;
                relation.has_triggers = triggered.contains(&row.oid);
                relation.drifted = drifted.contains(&row.name);
                Some((row.oid, relation))
            })
            .collect();
        for row in &self.reading.unique_keys {
            if let Some(relation) = relations.get_mut(&row.relation) {
                relation.unique_keys.push(UniqueKey {
                    columns: self.column_names(row.relation, &row.columns),
                    is_primary: row.is_primary,
                });
            }
        }
        for row in &self.reading.foreign_keys {
            if let (Some(relation), Some(key)) =
                (relations.get_mut(&row.relation), self.foreign_key(row))
            {
                relation.foreign_keys.push(key);
            }
        }
        for row in &self.reading.views {
            if let Some(relation) = relations.get_mut(&row.relation) {
                relation.depends_on = row.reads.iter().filter_map(|oid| self.name(*oid)).collect();
                relation.is_opaque = self.is_opaque(&row.definition);
            }
        }
        self.unread.note(&mut relations, &self.names);
        relations.into_values().collect()
    }

    fn relation(&self, row: &RelationRow) -> Option<Relation> {
        let columns = self
            .reading
            .columns
            .get(&row.oid)
            .map_or(&[][..], Vec::as_slice);
        Some(Relation {
            oid: row.oid,
            persistence: Persistence::from_relpersistence(row.persistence)?,
            columns: columns.iter().map(|column| self.column(column)).collect(),
            has_rules: row.has_rules,
            has_row_security: row.has_row_security,
            parent: row.parent.and_then(|oid| self.name(oid)),
            depends_on: row
                .owner
                .and_then(|oid| self.name(oid))
                .into_iter()
                .collect(),
            ..Relation::new(row.name.clone(), RelationKind::from_relkind(row.kind)?)
        })
    }

    /// Relations with triggers of their own or of any of their partitions and children.
    fn with_triggers(&self) -> HashSet<u32> {
        let parents: HashMap<u32, u32> = self
            .reading
            .relations
            .iter()
            .filter_map(|row| Some((row.oid, row.parent?)))
            .collect();
        let mut triggered = HashSet::new();
        for row in self.reading.relations.iter().filter(|row| row.has_triggers) {
            let mut next = Some(row.oid);
            while let Some(oid) = next.filter(|oid| triggered.insert(*oid)) {
                next = parents.get(&oid).copied();
            }
        }
        triggered
    }

    fn column(&self, row: &ColumnRow) -> Column {
        Column {
            name: row.name.clone(),
            type_oid: row.type_oid,
            modifier: row.modifier,
            collation: match self.reading.collations.get(&row.collation) {
                None => Collation::NotApplicable,
                Some(CollationKind::Nondeterministic) => Collation::Nondeterministic,
                Some(CollationKind::Bytewise) => Collation::Bytewise,
                Some(CollationKind::Other) => Collation::Deterministic,
            },
            not_null: row.not_null,
            default: match (row.identity, row.generated, &row.default) {
                (b'a', _, _) => ColumnDefault::IdentityAlways,
                (b'd', _, _) => ColumnDefault::IdentityByDefault,
                (_, b's' | b'v', _) => ColumnDefault::Generated,
                (_, _, None) => ColumnDefault::Null,
                (_, _, Some(tree)) if self.is_immutable(tree) => ColumnDefault::Immutable,
                (_, _, Some(_)) => ColumnDefault::Varying,
            },
        }
    }

    fn is_immutable(&self, tree: &str) -> bool {
        let calls = expression::calls(tree);
        calls.purity == Purity::CallsOnly
            && calls
                .functions
                .iter()
                .all(|oid| self.functions.get(oid) == Some(&b'i'))
            && calls
                .operators
                .iter()
                .all(|oid| self.operators.get(oid) == Some(&b'i'))
    }

    fn is_opaque(&self, definition: &str) -> bool {
        let calls = expression::calls(definition);
        let hides = |known: &HashMap<u32, u8>, oid: u32| {
            oid >= FIRST_USER_OID || known.get(&oid).is_none_or(|kind| *kind == b'v')
        };
        calls
            .functions
            .into_iter()
            .any(|oid| hides(&self.functions, oid))
            || calls
                .operators
                .into_iter()
                .any(|oid| hides(&self.operators, oid))
    }

    fn foreign_key(&self, row: &ForeignKeyRow) -> Option<ForeignKey> {
        Some(ForeignKey {
            columns: self.column_names(row.relation, &row.columns),
            target: self.name(row.target)?,
            target_columns: self.column_names(row.target, &row.target_columns),
            on_delete: ReferentialAction::from_code(row.on_delete)?,
            on_update: ReferentialAction::from_code(row.on_update)?,
        })
    }

    fn type_info(&self, row: &TypeRow) -> TypeInfo {
        let kind = match row.kind {
            b'e' => TypeKind::Enum,
            b'd' => TypeKind::Domain {
                base: row.base,
                modifier: row.modifier,
            },
            b'c' => TypeKind::Composite {
                fields: self.fields(row.relation),
            },
            b'r' => TypeKind::Range {
                subtype: row.subtype,
            },
            b'm' => TypeKind::Multirange { range: row.range },
            b'p' => TypeKind::Pseudo,
            _ if row.element != 0 => TypeKind::Array {
                element: row.element,
            },
            _ => TypeKind::Base,
        };
        TypeInfo {
            name: row.name.clone(),
            oid: row.oid,
            kind,
            calls: self.unread.of_type(row.oid),
        }
    }

    fn fields(&self, relation: u32) -> Box<[CompositeField]> {
        let columns = self
            .reading
            .columns
            .get(&relation)
            .map_or(&[][..], Vec::as_slice);
        columns
            .iter()
            .map(|column| CompositeField {
                name: column.name.clone(),
                type_oid: column.type_oid,
            })
            .collect()
    }

    /// The columns of these numbers, in the order of the numbers. A system column has no row here.
    fn column_names(&self, relation: u32, numbers: &[i32]) -> Vec<Box<str>> {
        let columns = self
            .reading
            .columns
            .get(&relation)
            .map_or(&[][..], Vec::as_slice);
        numbers
            .iter()
            .filter_map(|number| columns.iter().find(|column| column.number == *number))
            .map(|column| column.name.clone())
            .collect()
    }

    fn name(&self, oid: u32) -> Option<RelationName> {
        self.names.get(&oid).map(|name| (*name).clone())
    }
}
