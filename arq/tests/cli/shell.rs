//! What shells and `man` are given works in them.

use std::process::{Command, Stdio};

use crate::common::Folder;
use crate::help::leaves;

/// What Bash completes of a line of words, the last of which has been begun.
fn completed(line: &str) -> Vec<String> {
    let script = r#"
        source <("$1" completions bash)
        shift
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
        complete -p arq | grep -q -- '-F _arq' || exit 1
        _arq arq "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let output = Command::new("bash")
        .args(["--norc", "-c", script, "bash", env!("CARGO_BIN_EXE_arq")])
        .args(line.split(' '))
        .output()
        .unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    assert_eq!(completed("arq ten"), ["tenant"]);
    assert_eq!(completed("arq tenant cre"), ["create", "creds"]);
    assert_eq!(completed("arq sub lobby --pres"), ["--presence"]);
    assert_eq!(completed("arq completions z"), ["zsh"]);
    assert!(completed("arq ").contains(&"doctor".to_owned()));
}

#[test]
fn every_shell_has_a_script() {
    let folder = Folder::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = folder.arq(&["completions", shell]).ok();
        assert!(script.out.contains("tenant"), "{shell}");
        assert_eq!(script.err, "", "{shell}");
    }
}

#[test]
fn every_command_has_a_manual_page_that_renders() {
    let folder = Folder::new();
    folder.arq(&["man", "--out", "man1"]).ok();
    for command in leaves() {
        let page = format!("man1/arq-{}.1", command.replace(' ', "-"));
        assert!(folder.path().join(&page).exists(), "no {page}");
    }
    let mut pages = 0;
    for entry in std::fs::read_dir(folder.path().join("man1")).unwrap() {
        let page = entry.unwrap().path();
        let lint = Command::new("mandoc")
            .args(["-T", "lint", "-W", "warning"])
            .arg(&page)
            .output()
            .expect("mandoc is missing: scripts/setup --test installs it");
        // Without a release there is no date.
        let said = String::from_utf8(lint.stdout).unwrap();
        let wrong: Vec<&str> = said
            .lines()
            .filter(|line| !line.contains("cannot parse date"))
            // An empty line too many, of which readers see nothing.
            .filter(|line| !line.contains("skipping paragraph macro"))
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        let shown = Command::new("mandoc")
            .args(["-T", "utf8"])
            .arg(&page)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        let text = String::from_utf8(shown.stdout).unwrap();
        assert!(text.contains("arq"), "{}", page.display());
        pages += 1;
    }
    assert!(pages > 60, "only {pages} pages");
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let folder = Folder::new();
    let coloured = |setting: &str, words: &str| {
        // A terminal, by util-linux's script; what it shows comes back.
        let line = format!("{setting} {} {words}", env!("CARGO_BIN_EXE_arq"));
        let output = Command::new("script")
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .env_remove("NO_COLOR")
            .env("TERM", "xterm")
            .env("CI", "true")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().contains('\x1b')
    };
    for words in [
        "help",
        "help tenant",
        "--help",
        "tennant",
        "version",
        "tenant list",
    ] {
        assert!(coloured("env", words), "{words}");
        assert!(!coloured("env NO_COLOR=1", words), "{words}");
        assert!(!coloured("env TERM=dumb", words), "{words}");
    }
    for words in ["help", "help tenant", "--help", "version", "tenant list"] {
        let answer = folder.arq(&words.split(' ').collect::<Vec<_>>());
        assert!(!(answer.out + &answer.err).contains('\x1b'), "{words}");
    }
}
