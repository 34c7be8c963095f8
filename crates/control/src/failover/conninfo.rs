//! `primary_conninfo`: pointing a standby at another primary.
//!
//! Owns reading and writing libpq's keyword/value form (Postgres documentation, chapter 34.1.1.1). Never shows a value: one may be a
//! password. Main type: [`Conninfo`].

use pgherd_topology::Address;

/// What says where the server is, or what the standby goes by there.
const REPLACED: [&str; 4] = ["host", "hostaddr", "port", "application_name"];

/// Keywords and values, in order.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Conninfo(Vec<(String, String)>);

impl Conninfo {
    /// Reads it; what is wrong with it, without a value, where it is none that libpq would take, or a URI.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let mut pairs = Vec::new();
        let mut rest = text.trim_start();
        if rest.starts_with("postgresql://") || rest.starts_with("postgres://") {
            return Err(
                "primary_conninfo is a URI: write it as keywords and values (host=... port=...)",
            );
        }
        while !rest.is_empty() {
            let (key, after) = rest
                .split_once('=')
                .ok_or("primary_conninfo has a keyword without a value")?;
            let (value, after) = value(after.trim_start())?;
            pairs.push((key.trim_end().to_owned(), value));
            rest = after.trim_start();
        }
        Ok(Self(pairs))
    }

    /// The value of a keyword.
    pub(crate) fn get(&self, keyword: &str) -> Option<&str> {
        let pair = self.0.iter().rev().find(|(key, _)| key == keyword);
        pair.map(|(_, value)| value.as_str())
    }

    /// The same login, to another server, under another name.
    pub(crate) fn redirected(&self, primary: &Address, application_name: &str) -> Self {
        let kept = |(key, _): &&(String, String)| !REPLACED.contains(&key.as_str());
        let mut pairs: Vec<(String, String)> = self.0.iter().filter(kept).cloned().collect();
        let (host, port) = match primary {
            Address::Tcp { host, port } => (host, port),
            Address::Unix { directory, port } => (directory, port),
        };
        for (key, value) in [
            ("host", host.to_string()),
            ("port", port.to_string()),
            ("application_name", application_name.to_owned()),
        ] {
            pairs.push((key.to_owned(), value));
        }
        Self(pairs)
    }

    /// As `primary_conninfo` takes it.
    pub(crate) fn to_text(&self) -> String {
        let pair = |(key, value): &(String, String)| {
            format!(
                "{key}='{}'",
                value.replace('\\', "\\\\").replace('\'', "\\'")
            )
        };
        let pairs: Vec<String> = self.0.iter().map(pair).collect();
        pairs.join(" ")
    }
}

/// A value, and what follows it.
fn value(text: &str) -> Result<(String, &str), &'static str> {
    let (quoted, body) = match text.strip_prefix('\'') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let mut value = String::new();
    let mut characters = body.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some((_, escaped)) => value.push(escaped),
                None => return Err("primary_conninfo ends within an escape"),
            },
            '\'' if quoted => return Ok((value, &body[at + 1..])),
            space if !quoted && space.is_ascii_whitespace() => return Ok((value, &body[at..])),
            other => value.push(other),
        }
    }
    if quoted {
        return Err("primary_conninfo has a quote that is not closed");
    }
    Ok((value, ""))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_standby_keeps_its_login_and_changes_its_server() {
        let conninfo = Conninfo::parse(
            "user=rep passfile='/a b/.pgpass' channel_binding = prefer host=10.0.0.1 hostaddr='10.0.0.1' port=5501 \
             application_name=walreceiver password='it\\'s \\\\'",
        )
        .unwrap();
        assert_eq!(conninfo.get("password"), Some("it's \\"));
        let to: Address = "db2:5502".parse().unwrap();
        let text = conninfo.redirected(&to, "s0b_e7").to_text();
        assert_eq!(
            text,
            "user='rep' passfile='/a b/.pgpass' channel_binding='prefer' password='it\\'s \\\\' host='db2' port='5502' \
             application_name='s0b_e7'"
        );
        assert_eq!(Conninfo::parse(&text).unwrap().to_text(), text);
    }

    #[test]
    fn what_libpq_would_not_take_is_refused_without_showing_it() {
        for text in [
            "host",
            "password='secret",
            "password=secret\\",
            "postgres://u:secret@h/",
        ] {
            let wrong = Conninfo::parse(text).err().unwrap();
            assert!(!wrong.contains("secret"), "{wrong}");
        }
        assert_eq!(Conninfo::parse("").unwrap().to_text(), "");
    }
}
