//! The help of every command, as a person sees it.

use std::process::Command;

fn help(path: &[String]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_arq"))
        .args(path)
        .arg("--help")
        .env("NO_COLOR", "1")
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    assert!(output.status.success(), "{path:?}");
    assert!(output.stderr.is_empty(), "{path:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands that a help names.
fn commands(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// The words of every command that has none below it.
pub(crate) fn leaves() -> Vec<String> {
    fn gather(path: &[String], all: &mut Vec<String>) {
        let below = commands(&help(path));
        if below.is_empty() {
            all.push(path.join(" "));
        }
        for command in below {
            gather(&[path, &[command]].concat(), all);
        }
    }
    let mut all = Vec::new();
    gather(&[], &mut all);
    all
}

fn walk(path: &[String], all: &mut String) -> usize {
    let text = help(path);
    let name = ["arq".to_owned()]
        .iter()
        .chain(path)
        .cloned()
        .collect::<Vec<_>>()
        .join(" ");
    // What every command has is told once.
    let own = if path.is_empty() {
        text.as_str()
    } else {
        text.split("\nGlobal options:").next().unwrap()
    };
    let own: Vec<&str> = own.lines().map(str::trim_end).collect();
    all.push_str(&format!(
        "==== {name} --help\n{}\n\n",
        own.join("\n").trim_end()
    ));
    let mut count = 1;
    for command in commands(&text) {
        let path: Vec<String> = path.iter().cloned().chain([command]).collect();
        count += walk(&path, all);
    }
    count
}

#[test]
fn the_help_of_every_command_is_as_reviewed() {
    let mut all = String::new();
    let count = walk(&[], &mut all);
    assert!(count > 30, "only {count} commands were found");
    insta::assert_snapshot!(all);
}
