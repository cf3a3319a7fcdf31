//! Every command, once with success and once with a failure, against a real ArqonBus where it
//! speaks to one: exit code, stdout and stderr are as reviewed.
//!
//! To add a command, add a line to `every_command/cases.rs`; a command without one fails the test, and so
//! does a line without a command. Then look at what it prints, and keep it:
//!
//! ```sh
//! INSTA_UPDATE=always cargo test --workspace --test cli every_command
//! git diff arq/tests/cli/snapshots
//! ```
//!
//! What differs from run to run is replaced (`FILTERS`); where that is most of it, [`Case::loose`]
//! keeps only the exit code.

mod cases;

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use regex::Regex;

use crate::common::{Answer, Bus, Folder, signal};
use crate::help::leaves;
use cases::CASES;

/// Where a command runs.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// In the folder of a running ArqonBus.
    Bus,
    /// In a folder with files to work on, and no ArqonBus.
    Files,
}

/// A command with a run that succeeds and one that fails.
struct Case {
    command: &'static str,
    place: Place,
    /// What follows `arq`, for both; words are split at spaces, and TOKEN is a token.
    succeeds: &'static str,
    fails: &'static str,
    /// Commands before it, which make what it needs.
    first: &'static [&'static str],
    loose: bool,
    /// It goes on until it is told to end, which is after its first line.
    until_told: bool,
}

const fn on(
    place: Place,
    command: &'static str,
    succeeds: &'static str,
    fails: &'static str,
) -> Case {
    Case {
        command,
        place,
        succeeds,
        fails,
        first: &[],
        loose: false,
        until_told: false,
    }
}

impl Case {
    /// Most of what success prints is another with each run.
    const fn loose(mut self) -> Self {
        self.loose = true;
        self
    }

    const fn first(mut self, commands: &'static [&'static str]) -> Self {
        self.first = commands;
        self
    }

    const fn until_told(mut self) -> Self {
        self.until_told = true;
        self
    }
}

/// What is another with each run, and what stands for it.
const FILTERS: &[(&str, &str)] = &[
    (r"eyJ[\w-]+\.[\w-]+\.[\w-]+", "[JWT]"),
    (r"\bS?[AONUCP][A-Z2-7]{55}\b", "[NKEY]"),
    // The beginning of one, as tables show it.
    (r"\b[AONUCP][A-Z2-7]{11}…", "[NKEY]…"),
    (
        r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b",
        "[UUID]",
    ),
    (r"\b[0-9a-f]{12,64}\b", "[HEX]"),
    (r"\b[\w-]+@[\w-]+", "[WHO]"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?Z?", "[TIME]"),
    (r"(127\.0\.0\.1|localhost):\d+", "$1:[PORT]"),
    (r"\b\d+\.\d+\.\d+\b", "[VERSION]"),
    (r"(?i)\bpid:? \d+", "pid [PID]"),
    (
        r"\b\d+(\.\d+)? ?(µs|ns|ms|s|min|m|h|d)\b( \d+[smh]\b)*",
        "[DURATION]",
    ),
    (r"\b\d+(\.\d+)? ?(KiB|MiB|GiB|bytes)\b", "[SIZE]"),
    (r"dev-[0-9A-Za-z_-]{6,}", "[KID]"),
    (r"\b[A-Za-z0-9_-]{43}\b", "[THUMBPRINT]"),
    (r"[ \t]{2,}", "  "),
];

struct Stage {
    bus: Bus,
    files: Folder,
    filters: Vec<(Regex, &'static str)>,
    /// What TOKEN stands for in the table.
    token: String,
    /// What SHIELD_PID stands for.
    shield: String,
}

impl Stage {
    fn new() -> Self {
        let files = Folder::new();
        crate::policy_offline::component(&files);
        for (name, text) in cases::FILES {
            std::fs::write(files.path().join(name), text).unwrap();
        }
        let bus = Bus::start_with_brains(1);
        for (name, text) in cases::FILES {
            std::fs::write(bus.folder.path().join(name), text).unwrap();
        }
        let second = "../shield/policy/built/redact.wasm";
        std::fs::copy(second, files.path().join("second.wasm")).unwrap();
        for component in ["letters.wasm", "core.wasm", "second.wasm"] {
            let from = files.path().join(component);
            std::fs::copy(from, bus.folder.path().join(component)).unwrap();
        }
        let filters = FILTERS
            .iter()
            .map(|(pattern, to)| (Regex::new(pattern).unwrap(), *to))
            .collect();
        let token = bus.arq(&["auth", "gen"]).ok().out.trim().to_owned();
        let shield = bus.part("shield").to_string();
        Self {
            bus,
            files,
            filters,
            token,
            shield,
        }
    }

    fn folder(&self, place: Place) -> &Folder {
        match place {
            Place::Bus => &self.bus.folder,
            Place::Files => &self.files,
        }
    }

    /// Without `--state`: the folder is found as a person's is.
    fn run(&self, place: Place, words: &str, until_told: bool) -> Answer {
        let folder = self.folder(place).path();
        let words = words
            .replace("TOKEN", &self.token)
            .replace("SHIELD_PID", &self.shield);
        let mut command = Command::new(env!("CARGO_BIN_EXE_arq"));
        command
            .args(words.split_whitespace())
            .current_dir(folder)
            .env("HOME", folder)
            .env_remove("XDG_CONFIG_HOME")
            .env("COLUMNS", "100")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if !until_told {
            return command.output().unwrap().into();
        }
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        out.read_line(&mut said).unwrap();
        signal(&child, "TERM");
        out.read_to_string(&mut said).unwrap();
        let mut answer: Answer = child.wait_with_output().unwrap().into();
        answer.out = said;
        answer
    }

    fn shown(&self, place: Place, words: &str, answer: &Answer, loose: bool) -> String {
        let mut shown = format!("$ arq {words}\nexit {}\n", answer.code);
        if loose {
            return shown;
        }
        for (name, text) in [("stdout", &answer.out), ("stderr", &answer.err)] {
            if !text.trim().is_empty() {
                shown += &format!("{name}:\n{}\n", self.steady(place, text).trim_end());
            }
        }
        shown
    }

    fn steady(&self, place: Place, text: &str) -> String {
        let folder = self.folder(place).path().display().to_string();
        let text = text.replace(&folder, "[DIR]");
        self.filters.iter().fold(text, |text, (from, to)| {
            from.replace_all(&text, *to).into_owned()
        })
    }
}

/// What a failure lacks of: no success, one line that names the thing, one with what to do.
fn is_ill_told(answer: &Answer) -> Option<&'static str> {
    let lines: Vec<&str> = answer.err.lines().collect();
    let told = lines.iter().position(|line| line.starts_with("arq: "));
    match (answer.code, told.map(|at| &lines[at..])) {
        (..=0, _) => Some("which has to fail"),
        (_, None) => Some("without a line of its own"),
        (_, Some([_, hint])) if hint.starts_with("hint: ") => None,
        (_, Some(_)) => Some("without a hint in one line"),
    }
}

#[test]
fn every_command_succeeds_and_fails_as_reviewed() {
    let known: Vec<String> = CASES.iter().map(|case| case.command.to_owned()).collect();
    let leaves = leaves();
    let without: Vec<_> = leaves.iter().filter(|leaf| !known.contains(leaf)).collect();
    assert!(without.is_empty(), "commands without a case: {without:?}");
    let gone: Vec<_> = known.iter().filter(|name| !leaves.contains(name)).collect();
    assert!(gone.is_empty(), "cases without a command: {gone:?}");

    let stage = Stage::new();
    let mut nouns: Vec<(&str, String)> = Vec::new();
    let mut wrong = Vec::new();
    for case in CASES {
        let noun = case.command.split(' ').next().unwrap();
        if nouns.last().is_none_or(|(last, _)| *last != noun) {
            nouns.push((noun, String::new()));
        }
        let text = &mut nouns.last_mut().unwrap().1;
        for command in case.first {
            let made = stage.run(case.place, command, false);
            if made.code != 0 {
                wrong.push(format!("`arq {command}` failed: {made:?}"));
            }
        }
        let well = stage.run(case.place, case.succeeds, case.until_told);
        if well.code != 0 {
            wrong.push(format!("`arq {}` failed: {well:?}", case.succeeds));
        }
        *text += &stage.shown(case.place, case.succeeds, &well, case.loose);
        let bad = stage.run(case.place, case.fails, false);
        if let Some(why) = is_ill_told(&bad) {
            wrong.push(format!("`arq {}`, {why}: {bad:?}", case.fails));
        }
        *text += &stage.shown(case.place, case.fails, &bad, false);
        text.push('\n');
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (noun, text) in &nouns {
            insta::assert_snapshot!(format!("every_{noun}"), text);
        }
    });
}

/// What people do wrong every day: the line that names it, and the one that helps.
#[test]
fn what_goes_wrong_every_day_is_one_line_and_a_hint() {
    let bus = Bus::start();
    let state = bus.folder.state();
    let context = std::fs::read_to_string(state.join("context.toml")).unwrap();
    let lost = context
        .lines()
        .map(|line| match line.split_once(" = ") {
            Some(("nats", _)) => "nats = [\"nats://127.0.0.1:1\"]".to_owned(),
            Some(("shield_url", _)) => {
                "shield_url = \"ws://nobody.invalid:1/v1/socket\"".to_owned()
            }
            _ => line.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("\n");
    let run = |words: &str| -> Answer {
        Command::new(env!("CARGO_BIN_EXE_arq"))
            .args(words.split(' '))
            .current_dir(bus.folder.path())
            .env("HOME", bus.folder.path())
            .env_remove("XDG_CONFIG_HOME")
            .stdin(Stdio::null())
            .output()
            .unwrap()
            .into()
    };
    let told = |words: &str, code: i32, named: &str, hinted: &str| {
        let answer = run(words);
        assert_eq!(answer.code, code, "`arq {words}`: {answer:?}");
        assert_eq!(answer.err.lines().count(), 2, "`arq {words}`: {answer:?}");
        assert_eq!(is_ill_told(&answer), None, "`arq {words}`: {answer:?}");
        let (line, hint) = answer.err.split_once('\n').unwrap();
        assert!(line.contains(named), "`arq {words}`: {line}");
        assert!(hint.contains(hinted), "`arq {words}`: {hint}");
    };
    told("--context prdo status", 1, "prdo", "context");
    told("tennant list", 2, "tennant", "tenant");
    told("tenant lsit", 2, "lsit", "list");
    told("sub lobby --cuont 1", 2, "--cuont", "--count");
    // Wrong credentials.
    told("pub lobby hi --token nonsense", 1, "refused", "token");
    told("pub lobby hi --tenant nobody", 1, "refused", "tenant");
    // Destructive, and nobody to ask.
    told("tenant delete acme", 1, "nothing was deleted", "--force");
    told("dev reset", 1, "nothing was deleted", "--force");
    // Hops that cannot be reached.
    told(
        "pub lobby hi --url ws://127.0.0.1:1",
        1,
        "ws://127.0.0.1:1",
        "arq doctor",
    );
    std::fs::write(state.join("context.toml"), lost).unwrap();
    told("tenant list", 1, "nats://127.0.0.1:1", "");
    told("status", 1, "nats://127.0.0.1:1", "");
    told(
        "pub lobby hi",
        1,
        "no host is named `nobody.invalid`",
        "/etc/hosts",
    );
    std::fs::write(state.join("context.toml"), context).unwrap();
}
