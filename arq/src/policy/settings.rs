//! A binding's configuration: from a file, from typed flags, or both, as the JSON bytes that a
//! policy is given.

use std::path::Path;

use arqon_policy::MAX_CONFIG_BYTES;
use serde_json::{Map, Value};

use crate::failure::{Doing, Failure, Result};

/// Reads a configuration. TOML and JSON become JSON; any other file is passed on as it is.
pub(super) fn read(file: &Path) -> Result<Vec<u8>> {
    let bytes =
        std::fs::read(file).doing(format!("cannot read the configuration {}", file.display()))?;
    let kind = file.extension().and_then(|kind| kind.to_str());
    let json = match kind {
        Some("toml") => {
            let text = String::from_utf8(bytes).doing(file.display())?;
            let value: toml::Value = toml::from_str(&text).map_err(|error| {
                Failure::new(format!(
                    "{} is no TOML: {}",
                    file.display(),
                    error.to_string().trim_end()
                ))
            })?;
            from_toml(&value).doing(file.display())?
        }
        Some("json") => {
            let value: Value =
                serde_json::from_slice(&bytes).doing(format!("{} is no JSON", file.display()))?;
            serde_json::to_vec(&value)?
        }
        _ => bytes,
    };
    bounded(json)
}

/// A TOML value as JSON bytes.
pub(super) fn from_toml(value: &toml::Value) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(&to_json(value)?)?)
}

/// What JSON has no form for is refused, not guessed.
fn to_json(value: &toml::Value) -> Result<Value> {
    Ok(match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => serde_json::Number::from_f64(*number)
            .ok_or_else(|| Failure::new(format!("{number} has no form in JSON")))?
            .into(),
        toml::Value::Boolean(is) => (*is).into(),
        toml::Value::Datetime(at) => {
            return Err(
                Failure::new(format!("the date {at} has no form in JSON")).hint("put it in quotes")
            );
        }
        toml::Value::Array(items) => items
            .iter()
            .map(to_json)
            .collect::<Result<Vec<_>>>()?
            .into(),
        toml::Value::Table(table) => Value::Object(
            table
                .iter()
                .map(|(key, value)| Ok((key.clone(), to_json(value)?)))
                .collect::<Result<Map<_, _>>>()?,
        ),
    })
}

/// A configuration made of a file and flags: a flag replaces the file's value, but lists grow.
pub(super) fn merged(file: Option<&Path>, flags: Map<String, Value>) -> Result<Vec<u8>> {
    let mut all = match file {
        None => Map::new(),
        Some(file) => match serde_json::from_slice(&read(file)?) {
            Ok(Value::Object(map)) => map,
            _ => {
                return Err(
                    Failure::new(format!("{} holds no table of settings", file.display()))
                        .hint("name it .toml or .json; the shipped policies take a table"),
                );
            }
        },
    };
    for (key, value) in flags {
        match (all.get_mut(&key), value) {
            (Some(Value::Array(known)), Value::Array(more)) => {
                for item in more {
                    if !known.contains(&item) {
                        known.push(item);
                    }
                }
            }
            (_, value) => {
                all.insert(key, value);
            }
        }
    }
    bounded(serde_json::to_vec(&Value::Object(all))?)
}

fn bounded(config: Vec<u8>) -> Result<Vec<u8>> {
    if config.len() > MAX_CONFIG_BYTES {
        return Err(Failure::new(format!(
            "the configuration has {} bytes, and a binding takes {MAX_CONFIG_BYTES}",
            config.len()
        ))
        .hint("split it over several bindings"));
    }
    Ok(config)
}

/// A configuration as people read it: indented if it is JSON, its size if it is not text.
pub(super) fn words(config: &[u8]) -> String {
    if let Ok(value) = serde_json::from_slice::<Value>(config) {
        return serde_json::to_string(&value).unwrap_or_default();
    }
    match std::str::from_utf8(config) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("{} bytes", config.len()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn flags(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn flags_and_a_file_become_one_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, "words = ['a', 'b']\nignore_case = true\n").unwrap();
        let both = merged(
            Some(&file),
            flags(serde_json::json!({"words": ["b", "c"], "ignore_case": false})),
        )
        .unwrap();
        let both: Value = serde_json::from_slice(&both).unwrap();
        assert_eq!(
            both,
            serde_json::json!({"words": ["a", "b", "c"], "ignore_case": false})
        );
        assert_eq!(merged(None, Map::new()).unwrap(), b"{}");
    }

    #[test]
    fn toml_and_json_become_json_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let file = folder.path().join(name);
            std::fs::write(&file, bytes).unwrap();
            file
        };
        let toml = write("c.toml", b"n = 1\nf = 1.5\n[t]\nyes = true\n");
        assert_eq!(read(&toml).unwrap(), br#"{"f":1.5,"n":1,"t":{"yes":true}}"#);
        let json = write("c.json", b"{ \"a\": [1] }");
        assert_eq!(read(&json).unwrap(), br#"{"a":[1]}"#);
        let other = write("c.bin", &[0xff, 0x00]);
        assert_eq!(read(&other).unwrap(), [0xff, 0x00]);
        assert!(merged(Some(&other), Map::new()).is_err());
        for (name, bytes) in [
            ("d.toml", &b"a = "[..]),
            ("d.json", b"{"),
            ("date.toml", b"at = 2026-01-01"),
            ("nan.toml", b"f = nan"),
        ] {
            assert!(read(&write(name, bytes)).is_err(), "{name}");
        }
        let large = write("large.bin", &vec![b'x'; MAX_CONFIG_BYTES + 1]);
        assert!(read(&large).unwrap_err().message.contains("1048577"));
        assert!(read(&folder.path().join("none")).is_err());
    }
}
