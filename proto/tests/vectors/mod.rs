//! The files of `testdata/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;

/// JSON twins by the names of their vectors.
pub(crate) type Twins = BTreeMap<String, serde_json::Value>;

/// One file.
pub(crate) struct Vector {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) fields: BTreeMap<String, String>,
    pub(crate) bytes: Bytes,
    pub(crate) content: Option<serde_json::Value>,
}

impl Vector {
    fn parse(name: String, text: &str) -> Self {
        let (head, content) = match text.split_once("\ncontent:\n") {
            Some((head, json)) => (head, Some(serde_json::from_str(json).unwrap())),
            None => (text, None),
        };
        let (head, hex) = head.split_once("\nbytes:").unwrap();
        let (about, head) = head.split_once('\n').unwrap();
        let digits: String = hex
            .lines()
            .map(|line| line.split('#').next().unwrap())
            .flat_map(str::chars)
            .filter(|c| !c.is_whitespace())
            .collect();
        let fields = head.lines().map(|line| {
            let (key, value) = line.split_once(':').unwrap();
            (key.to_owned(), value.trim().to_owned())
        });
        Self {
            about: about.strip_prefix("# ").unwrap().to_owned(),
            fields: fields.collect(),
            bytes: (0..digits.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap())
                .collect(),
            content,
            name,
        }
    }

    pub(crate) fn is_from_client(&self) -> bool {
        match &*self.fields["from"] {
            "client" => true,
            "server" => false,
            other => panic!("{}: from: {other}", self.name),
        }
    }
}

/// All of them, by name.
pub(crate) fn vectors() -> Vec<Vector> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    paths.sort();
    let parse = |path: &Path| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        Vector::parse(name, &fs::read_to_string(path).unwrap())
    };
    paths.iter().map(|path| parse(path)).collect()
}
