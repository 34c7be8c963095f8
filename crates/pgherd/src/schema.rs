//! `pgherd schema`: the JSON Schema of the configuration, for editors.

use crate::config::raw;

/// The schema as pretty JSON with a newline at its end.
pub fn schema() -> String {
    let schema = schemars::generate::SchemaSettings::draft07()
        .into_generator()
        .into_root_schema_for::<raw::File>();
    // a Schema is a JSON value with text keys: serialising it cannot fail
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is JSON");
    text.push('\n');
    text
}
