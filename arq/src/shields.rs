//! What is told of Shields that were waited for.

use arqon_spine::admin::Answer;

use crate::Globals;
use crate::output::counted;

/// The Shields where it is in force, and those that are live and did not say so.
pub(crate) fn heard(answers: &[Answer<()>]) -> (Vec<&str>, Vec<&str>) {
    let named = |said: bool| {
        let those = answers
            .iter()
            .filter(|answer| answer.said.is_some() == said);
        those.map(|answer| answer.shield.as_str()).collect()
    };
    (named(true), named(false))
}

/// Says where it is in force.
pub(crate) fn in_force(shields: &[&str], globals: &Globals) {
    if globals.output.json {
        return;
    }
    globals.output.note(match shields.len() {
        0 => "no Shield is live; each goes by it when it starts".to_owned(),
        count => format!(
            "in force on {}: {}",
            counted(count, "Shield"),
            shields.join(", ")
        ),
    });
}
