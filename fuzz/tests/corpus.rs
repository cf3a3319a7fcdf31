//! Every input in `corpus/`, through its property: what libFuzzer found worth
//! keeping, and each input that once failed.

use std::{fs, path::Path};

use arqon_fuzz::ALL;

#[test]
fn every_property_holds_for_the_whole_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, property) in ALL {
        let folder = corpus.join(name);
        let mut inputs: Vec<_> = fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|entry| entry.expect("an entry").path())
            .collect();
        inputs.sort();
        assert!(inputs.len() >= 10, "{name} has {} inputs", inputs.len());
        for input in inputs {
            // The failure is told with it.
            println!("{}", input.display());
            property(&fs::read(&input).expect("an input"));
        }
    }
    let folders = fs::read_dir(&corpus).expect("a corpus").count();
    assert_eq!(folders, ALL.len(), "a folder without a property");
}
