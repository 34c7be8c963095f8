//! The settings that a server connection has beyond those of its login.
//!
//! Owns: how they are recorded, and the statements that lead from those of one client to those of another (Postgres documentation, reference:
//! SET, RESET, SET ROLE). Never sends one. Main type: [`CarriedSettings`].

/// The setting that decides what a session may do, others included.
const ROLE: &str = "role";
/// The setting that decides how the bytes of later statements are read.
const CLIENT_ENCODING: &str = "client_encoding";
/// The setting of which a value may leave one half as it was.
const DATE_STYLE: &str = "datestyle";

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    /// In lower case.
    name: Box<str>,
    /// What follows `SET name =`: string literals, separated by commas.
    value: Box<str>,
    /// The role in force when it was made, which may have needed it: to make it again or to take it back needs it too.
    role: Option<Box<str>>,
}

/// Settings beyond those of a connection's login, in the order in which they were made, each name once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CarriedSettings(Vec<Setting>);

impl CarriedSettings {
    /// Sets one. `name` is in lower case, `values` as SET takes them, unquoted.
    pub fn set<'v>(&mut self, name: &str, values: impl IntoIterator<Item = &'v str>) {
        let mut value = String::new();
        for text in values {
            if !value.is_empty() {
                value.push_str(", ");
            }
            push_literal(&mut value, text);
        }
        let role = self.value(ROLE).filter(|_| name != ROLE).map(Into::into);
        self.reset(name);
        self.0.push(Setting {
            name: name.into(),
            value: value.into(),
            role,
        });
    }

    /// Forgets one: it is as after the login.
    pub fn reset(&mut self, name: &str) {
        self.0.retain(|setting| *setting.name != *name);
    }

    /// Forgets all that RESET ALL takes back: everything but the role.
    pub fn reset_all(&mut self) {
        self.0.retain(|setting| &*setting.name == ROLE);
    }

    /// The role that SET ROLE has put in force.
    #[must_use]
    pub fn role(&self) -> Option<&str> {
        self.value(ROLE)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those whose name `keeps` holds of.
    #[must_use]
    pub fn filtered(&self, keeps: impl Fn(&str) -> bool) -> Self {
        let kept = self.0.iter().filter(|setting| keeps(&setting.name));
        Self(kept.cloned().collect())
    }

    /// Names with values, as text that is the same for the same settings in the same order.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut text = String::new();
        for setting in &self.0 {
            let role = setting.role.as_deref().unwrap_or_default();
            for part in [&*setting.name, &*setting.value, role] {
                text.push_str(part);
                text.push('\0');
            }
        }
        text
    }

    /// The statements that lead from these settings to `wanted`, each to be sent by itself.
    #[must_use]
    pub fn statements_to(&self, wanted: &Self, scope: SetScope) -> Vec<String> {
        self.statements_over(None, wanted, scope)
    }

    /// As [`Self::statements_to`]; where something goes back to what it was at the login, `connect_query` comes between.
    #[must_use]
    pub fn statements_over(
        &self,
        connect_query: Option<&str>,
        wanted: &Self,
        scope: SetScope,
    ) -> Vec<String> {
        let mut path = Path {
            role: self.value(ROLE),
            scope,
            statements: Vec::new(),
        };
        // what is sent from here on is read in the encoding of the login, then in that of `wanted`
        let encoding_first = |setting: &&Setting| &*setting.name != CLIENT_ENCODING;
        let mut gone: Vec<&Setting> = self
            .0
            .iter()
            .filter(|setting| {
                &*setting.name != ROLE
                    && match wanted.setting(&setting.name) {
                        None => true,
                        Some(other) => {
                            [CLIENT_ENCODING, DATE_STYLE].contains(&&*setting.name)
                                && other.value != setting.value
                        }
                    }
            })
            .collect();
        gone.sort_by_key(encoding_first);
        for setting in gone {
            path.act_as(setting.role.as_deref());
            path.push_set(&setting.name, None);
        }
        if let Some(query) = connect_query.filter(|_| !path.statements.is_empty()) {
            path.act_as(None);
            path.statements.push(query.to_owned());
        }
        for setting in wanted.0.iter().filter(|setting| &*setting.name != ROLE) {
            if self
                .setting(&setting.name)
                .is_none_or(|other| other.value != setting.value)
            {
                path.act_as(setting.role.as_deref());
                path.push_set(&setting.name, Some(&setting.value));
            }
        }
        path.act_as(wanted.value(ROLE));
        path.statements
    }

    fn setting(&self, name: &str) -> Option<&Setting> {
        self.0.iter().find(|setting| *setting.name == *name)
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.setting(name).map(|setting| &*setting.value)
    }
}

/// How long the statements of [`CarriedSettings::statements_to`] hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetScope {
    /// To the end of the session, unless the transaction is rolled back.
    Session,
    /// To the end of the transaction.
    Local,
}

/// Statements on the way from one state to another.
struct Path<'s> {
    /// The role in force, as a literal; `None` is the login's.
    role: Option<&'s str>,
    scope: SetScope,
    statements: Vec<String>,
}

impl<'s> Path<'s> {
    fn act_as(&mut self, role: Option<&'s str>) {
        if self.role != role {
            self.push_set(ROLE, role);
            self.role = role;
        }
    }

    fn push_set(&mut self, name: &str, value: Option<&str>) {
        let scope = match self.scope {
            SetScope::Session => "",
            SetScope::Local => "LOCAL ",
        };
        let name: Vec<String> = name.split('.').map(quoted).collect();
        let name = name.join(".");
        let value = value.unwrap_or("DEFAULT");
        self.statements.push(format!("SET {scope}{name} = {value}"));
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string literal that reads the same whatever `standard_conforming_strings` is.
fn push_literal(out: &mut String, text: &str) {
    let escapes = text.contains('\\');
    out.push_str(if escapes { "E'" } else { "'" });
    for character in text.chars() {
        if character == '\'' || character == '\\' {
            out.push(character);
        }
        out.push(character);
    }
    out.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(made: &[(&str, &[&str])]) -> CarriedSettings {
        let mut settings = CarriedSettings::default();
        for (name, values) in made {
            settings.set(name, values.iter().copied());
        }
        settings
    }

    fn path(from: &CarriedSettings, to: &CarriedSettings) -> Vec<String> {
        from.statements_to(to, SetScope::Session)
    }

    #[test]
    fn only_what_differs_is_said() {
        let one = settings(&[("search_path", &["a", "B c"]), ("my.x", &["it's"])]);
        let other = settings(&[("my.x", &["it's"]), ("timezone", &["UTC"])]);
        assert_eq!(
            path(&one, &other),
            ["SET \"search_path\" = DEFAULT", "SET \"timezone\" = 'UTC'"]
        );
        assert_eq!(
            path(&CarriedSettings::default(), &one),
            [
                "SET \"search_path\" = 'a', 'B c'",
                "SET \"my\".\"x\" = 'it''s'"
            ]
        );
        assert!(path(&one, &one).is_empty());
    }

    #[test]
    fn a_setting_is_made_and_taken_back_in_the_role_that_made_it() {
        let mut one = settings(&[("role", &["boss"]), ("log_statement", &["all"])]);
        one.reset("role");
        let none = CarriedSettings::default();
        assert_eq!(
            path(&none, &one),
            [
                "SET \"role\" = 'boss'",
                "SET \"log_statement\" = 'all'",
                "SET \"role\" = DEFAULT"
            ]
        );
        assert_eq!(
            path(&one, &none),
            [
                "SET \"role\" = 'boss'",
                "SET \"log_statement\" = DEFAULT",
                "SET \"role\" = DEFAULT"
            ]
        );
    }

    #[test]
    fn the_role_comes_last_and_the_encoding_goes_first() {
        let one = settings(&[
            ("a.b", &["x"]),
            ("client_encoding", &["latin1"]),
            ("role", &["r"]),
        ]);
        let other = settings(&[("role", &["s"]), ("client_encoding", &["utf8"])]);
        assert_eq!(
            path(&one, &other),
            [
                "SET \"role\" = DEFAULT",
                "SET \"client_encoding\" = DEFAULT",
                "SET \"a\".\"b\" = DEFAULT",
                "SET \"role\" = 's'",
                "SET \"client_encoding\" = 'utf8'"
            ]
        );
    }

    #[test]
    fn what_is_set_in_a_transaction_can_be_kept_to_it() {
        let one = settings(&[("timezone", &["UTC"])]);
        assert_eq!(
            CarriedSettings::default().statements_to(&one, SetScope::Local),
            ["SET LOCAL \"timezone\" = 'UTC'"]
        );
    }

    #[test]
    fn a_backslash_is_read_the_same_in_every_session() {
        let one = settings(&[("a.b", &["c\\d'"])]);
        assert_eq!(
            path(&CarriedSettings::default(), &one),
            ["SET \"a\".\"b\" = E'c\\\\d'''"]
        );
    }
}
