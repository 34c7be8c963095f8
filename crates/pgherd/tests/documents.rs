//! The files that describe the configuration agree with the code: the schema, the documentation and the examples.
//!
//! `UPDATE_DOCUMENTS=1 cargo test -p pgherd --test documents` writes the generated ones anew.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

const MARKER: &str = "<!-- The rest is generated from the schema: UPDATE_DOCUMENTS=1 cargo test -p pgherd --test documents -->\n";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Compares a file with what it should be, or writes it.
fn hold(path: &Path, wanted: &str) {
    if std::env::var_os("UPDATE_DOCUMENTS").is_some() {
        std::fs::write(path, wanted).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == wanted,
        "{} is not current: run UPDATE_DOCUMENTS=1 cargo test -p pgherd --test documents",
        path.display()
    );
}

#[test]
fn the_schema_beside_the_examples_is_current() {
    hold(
        &repository().join("config/pgherd.schema.json"),
        &pgherd::schema::schema(),
    );
}

#[test]
fn the_documentation_names_every_key_with_its_default() {
    let path = repository().join("docs/CONFIGURATION.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (preface, _) = text
        .split_once(MARKER)
        .expect("the documentation has its marker");
    hold(&path, &format!("{preface}{MARKER}{}", documentation()));
}

#[test]
fn the_examples_are_right_and_say_nothing_that_is_not_in_force() {
    for name in ["pgherd.yaml", "pgherd-full.yaml"] {
        let path = repository().join("config").join(name);
        let source = std::fs::read_to_string(&path).unwrap();
        assert!(
            source.starts_with("# yaml-language-server: $schema=pgherd.schema.json\n"),
            "{name} names its schema"
        );
        let variable = |name: &str| name.ends_with("_PASSWORD").then(|| "secret".to_owned());
        let loaded = pgherd::config::parse(&path, &source, &variable, false)
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(loaded.warnings.to_string(), "", "{name}");
    }
}

#[test]
fn the_readmes_configuration_is_right() {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let (_, rest) = readme.split_once("```yaml\n").unwrap();
    let (source, _) = rest.split_once("```").unwrap();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("control.password"), "secret\n").unwrap();
    let variable = |name: &str| name.ends_with("_PASSWORD").then(|| "secret".to_owned());
    let path = directory.path().join("pgherd.yaml");
    let loaded = pgherd::config::parse(&path, source, &variable, false);
    loaded.unwrap_or_else(|error| panic!("{error}"));
}

/// Every mapping of the configuration as a section, every key as a row.
fn documentation() -> String {
    let schema: Value = serde_json::from_str(&pgherd::schema::schema()).unwrap();
    let mut sections = Sections {
        definitions: schema["definitions"].clone(),
        text: String::new(),
        written: BTreeMap::new(),
    };
    sections.mapping("", &schema);
    sections.text
}

struct Sections {
    definitions: Value,
    text: String,
    /// Definition and the path it was described at.
    written: BTreeMap<String, String>,
}

impl Sections {
    fn mapping(&mut self, path: &str, mapping: &Value) {
        let heading = match path {
            "" => "The whole file".to_owned(),
            path => format!("`{path}`"),
        };
        writeln!(self.text, "\n## {heading}\n").unwrap();
        if let Some(description) = mapping["description"].as_str() {
            writeln!(self.text, "{}\n", one_line(description)).unwrap();
        }
        writeln!(
            self.text,
            "| key | value | default | meaning |\n|---|---|---|---|"
        )
        .unwrap();
        let needed: Vec<&str> = mapping["required"]
            .as_array()
            .map(|keys| keys.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let mut below = Vec::new();
        for (key, property) in mapping["properties"].as_object().unwrap() {
            let description = one_line(property["description"].as_str().unwrap_or_else(|| {
                panic!("{path}.{key} has no description");
            }));
            let (meaning, default) = match description.split_once(" Default: ") {
                Some((meaning, rest)) => {
                    let (default, more) = rest
                        .split_once(". ")
                        .unwrap_or((rest.trim_end_matches('.'), ""));
                    let meaning = format!(
                        "{meaning} {}",
                        more.replace("A change needs a restart.", "*Needs a restart.*")
                    );
                    (meaning.trim_end().to_owned(), default.to_owned())
                }
                None => (
                    description.replace("A change needs a restart.", "*Needs a restart.*"),
                    if needed.contains(&key.as_str()) {
                        "(needed)"
                    } else {
                        ""
                    }
                    .to_owned(),
                ),
            };
            let (value, targets) = self.value(property);
            let meaning = meaning.replace('|', "\\|");
            writeln!(self.text, "| `{key}` | {value} | {default} | {meaning} |").unwrap();
            let below_path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            below.extend(
                targets
                    .into_iter()
                    .map(|(suffix, name)| (format!("{below_path}{suffix}"), name)),
            );
        }
        for (path, name) in below {
            let definition = self.definitions[&name].clone();
            match self.written.get(&name) {
                Some(first) => {
                    let first = first.clone();
                    writeln!(self.text, "\n## `{path}`\n\nAs `{first}`.").unwrap();
                }
                None => {
                    self.written.insert(name, path.clone());
                    self.mapping(&path, &definition);
                }
            }
        }
    }

    /// What a value may be, in words, and the mappings that stand in it.
    fn value(&self, property: &Value) -> (String, Vec<(String, String)>) {
        if let Some(name) = reference(property) {
            let definition = &self.definitions[&name];
            if definition["properties"].is_object() {
                let kind = match property.to_string().contains(r#"{"const":"only"}"#) {
                    true => "mapping, or `only`",
                    false => "mapping",
                };
                return (kind.to_owned(), vec![(String::new(), name)]);
            }
            return (
                choices(definition).unwrap_or_else(|| "text".to_owned()),
                Vec::new(),
            );
        }
        if property["type"] == "array"
            || property["type"]
                .as_array()
                .is_some_and(|types| types.contains(&"array".into()))
        {
            let (item, targets) = self.value(&property["items"]);
            let targets = targets
                .into_iter()
                .map(|(suffix, name)| (format!("[]{suffix}"), name))
                .collect();
            return (format!("list of {item}s"), targets);
        }
        if property["additionalProperties"].is_object() {
            let (item, targets) = self.value(&property["additionalProperties"]);
            let targets = targets
                .into_iter()
                .map(|(suffix, name)| (format!(".<name>{suffix}"), name))
                .collect();
            return (format!("{item}s by name"), targets);
        }
        (plain(property), Vec::new())
    }
}

fn plain(property: &Value) -> String {
    let text = property.to_string();
    let kind = if text.contains("KiB") {
        "memory"
    } else if text.contains("us|ms|s|m|min|h|d") {
        "time"
    } else if text.contains("\"array\"") {
        "text, or list of texts"
    } else if text.contains("\"integer\"") {
        "number"
    } else {
        "text"
    };
    kind.to_owned()
}

fn reference(property: &Value) -> Option<String> {
    if let Some(name) = property["$ref"].as_str() {
        return Some(name.trim_start_matches("#/definitions/").to_owned());
    }
    ["allOf", "anyOf"]
        .iter()
        .find_map(|key| property[key].as_array()?.iter().find_map(reference))
}

fn choices(definition: &Value) -> Option<String> {
    let list = definition["oneOf"].as_array()?;
    let names: Vec<String> = list
        .iter()
        .filter_map(|one| {
            one["const"]
                .as_str()
                .or_else(|| one["enum"][0].as_str())
                .map(|name| format!("`{name}`"))
        })
        .collect();
    Some(names.join(", "))
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
