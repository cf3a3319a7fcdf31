//! After the suite: every metric of the catalogue moved in some test.
//!
//! `scripts/test` empties the folder before the suite and runs this after it,
//! by `--ignored`: alone it would look at what an older run left behind.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;

use arqon_harness::moved;
use arqon_telemetry::metrics::CATALOGUE;

/// Lengths of queues in Brain, which are empty again within milliseconds: mostly they are
/// seen to move, but by chance. Of these it is enough that they are shown.
const MOMENTARY: [&str; 3] = [
    "arqon_brain_beam_run_queue",
    "arqon_brain_mailbox_max",
    "arqon_brain_waiting",
];

#[test]
#[ignore = "looks at what the whole suite has left; scripts/test runs it after it"]
fn every_metric_of_the_catalogue_has_moved() {
    let folder = moved::folder();
    let files = fs::read_dir(&folder).unwrap_or_else(|error| {
        panic!("{}: {error}; run the suite first", folder.display());
    });
    let mut seen = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        seen.extend(text.lines().map(str::to_owned));
    }
    let catalogued: Vec<&str> = CATALOGUE
        .iter()
        .flat_map(|(_, part)| part.iter().map(|definition| definition.name))
        .collect();
    let still: Vec<&&str> = catalogued
        .iter()
        .filter(|name| {
            let shown = || seen.contains(&format!("{}{name}", moved::STILL));
            !(seen.contains(**name) || MOMENTARY.contains(name) && shown())
        })
        .collect();
    assert!(still.is_empty(), "never moved: {still:#?}");
    let unknown: Vec<_> = seen
        .iter()
        .filter(|name| name.starts_with("arqon_") && !catalogued.contains(&name.as_str()))
        .collect();
    assert!(unknown.is_empty(), "not in the catalogue: {unknown:#?}");
}
