//! The settings of a session that change what a text means.
//!
//! Owns their names, their digest, and which client encodings can be read by bytes. Never knows a
//! session. Main types: [`SettingsDigest`], [`ClientEncoding`].

use xxhash_rust::xxh3::Xxh3;

/// The settings, in lower case, that change what the same text means, or what its values are read as.
pub const MEANING_SETTINGS: [&str; 8] = [
    "standard_conforming_strings",
    "backslash_quote",
    "transform_null_equals",
    "client_encoding",
    "datestyle",
    "timezone",
    "intervalstyle",
    "row_security",
];

/// A digest of [`MEANING_SETTINGS`], as one session has set them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct SettingsDigest(pub(crate) u128);

impl SettingsDigest {
    /// The digest of the values that `value` gives by the settings' names; `None` is the database's
    /// default.
    #[must_use]
    pub fn of<'v>(value: impl Fn(&str) -> Option<&'v str>) -> Self {
        let mut hash = Xxh3::new();
        let mut any = false;
        for (position, name) in (0_u8..).zip(MEANING_SETTINGS) {
            if let Some(value) = value(name) {
                any = true;
                hash.update(&[position]);
                hash.update(&(value.len() as u64).to_le_bytes());
                hash.update(value.as_bytes());
            }
        }
        if any {
            Self(hash.digest128())
        } else {
            Self::default()
        }
    }
}

/// Whether the bytes of a client's texts tell where quotes are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ClientEncoding {
    /// A byte of the ASCII range is always that character: UTF8, LATIN1, EUC and the like.
    #[default]
    ByteSafe,
    /// A character's second byte may be that of a quote or a backslash.
    AsciiTrail,
}

impl ClientEncoding {
    /// The class of a `client_encoding`, as the setting spells it: case, blanks and punctuation do
    /// not count (Postgres documentation, 24.3).
    #[must_use]
    pub fn of_name(name: &str) -> Self {
        let plain: String = name
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|character| character.to_ascii_lowercase())
            .collect();
        match plain.as_str() {
            "sjis" | "mskanji" | "shiftjis" | "win932" | "windows932" | "shiftjis2004"
            | "shiftjisx0213" | "big5" | "win950" | "windows950" | "gbk" | "win936"
            | "windows936" | "uhc" | "win949" | "windows949" | "gb18030" | "johab" => {
                Self::AsciiTrail
            }
            _ => Self::ByteSafe,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_with_ascii_second_bytes_are_known_by_all_their_names() {
        for name in [
            "SJIS",
            "Shift_JIS",
            "shift_jis_2004",
            "BIG5",
            "gbk",
            "UHC",
            "GB18030",
            "johab",
            "WIN936",
            "mskanji",
        ] {
            assert_eq!(
                ClientEncoding::of_name(name),
                ClientEncoding::AsciiTrail,
                "{name}"
            );
        }
        for name in [
            "UTF8",
            "utf-8",
            "LATIN1",
            "EUC_JP",
            "EUC_KR",
            "SQL_ASCII",
            "WIN1252",
        ] {
            assert_eq!(
                ClientEncoding::of_name(name),
                ClientEncoding::ByteSafe,
                "{name}"
            );
        }
    }

    #[test]
    fn each_setting_and_each_value_has_a_digest_of_its_own() {
        let mut seen = vec![SettingsDigest::of(|_| None)];
        for name in MEANING_SETTINGS {
            for value in ["on", "off"] {
                let digest = SettingsDigest::of(|asked| (asked == name).then_some(value));
                assert!(!seen.contains(&digest), "{name} {value}");
                seen.push(digest);
            }
        }
    }
}
