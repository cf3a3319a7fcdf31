//! What `arq version` tells of the build, from Cargo.lock, git and the environment. Two builds of
//! one commit are the same: no clock is read.

use std::path::Path;
use std::process::Command;

/// The dependencies whose versions matter to whoever looks for a fault.
const DEPENDENCIES: [&str; 11] = [
    "async-nats",
    "aws-lc-rs",
    "clap",
    "hickory-resolver",
    "hyper",
    "prost",
    "rustls",
    "tokio",
    "tonic",
    "tungstenite",
    "wasmtime",
];

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    println!("cargo::rerun-if-changed=build.rs");
    for name in ["ARQON_REVISION", "SOURCE_DATE_EPOCH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    tell("TARGET", variable("TARGET"));
    tell("PROFILE", variable("PROFILE"));
    tell("RUSTC", rustc());
    let git = Git::new(&root);
    tell(
        "COMMIT",
        variable("ARQON_REVISION").or_else(|| git.commit()),
    );
    tell(
        "SECONDS",
        variable("SOURCE_DATE_EPOCH").or_else(|| git.seconds()),
    );
    tell("DEPENDENCIES", locked(&root));
    tell("PIPE", pipe(&root));
}

fn tell(name: &str, value: Option<String>) {
    let value = value.unwrap_or_default();
    println!("cargo::rustc-env=ARQ_BUILD_{name}={}", value.trim());
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn rustc() -> Option<String> {
    output(Command::new(variable("RUSTC")?).arg("--version"))
}

fn output(command: &mut Command) -> Option<String> {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

/// Asked for releases only: else each commit would build `arq` anew.
struct Git<'a>(Option<&'a Path>);

impl<'a> Git<'a> {
    fn new(root: &'a Path) -> Self {
        let release = variable("PROFILE").is_some_and(|profile| profile == "release");
        if !release || !root.join(".git").exists() {
            return Self(None);
        }
        // Each commit, and each change of branch, is written there.
        println!(
            "cargo::rerun-if-changed={}",
            root.join(".git/logs/HEAD").display()
        );
        Self(Some(root))
    }

    fn run(&self, arguments: &[&str]) -> Option<String> {
        output(Command::new("git").args(arguments).current_dir(self.0?))
    }

    fn commit(&self) -> Option<String> {
        let commit = self.run(&["rev-parse", "HEAD"])?;
        let changed = self.run(&["status", "--porcelain", "--untracked-files=no"])?;
        let mark = if changed.is_empty() {
            ""
        } else {
            " and changes"
        };
        Some(format!("{}{mark}", commit.trim()))
    }

    /// When the commit was made, in seconds since 1970.
    fn seconds(&self) -> Option<String> {
        self.run(&["log", "-1", "--format=%ct"])
    }
}

/// `name version`, separated by commas.
fn locked(root: &Path) -> Option<String> {
    let file = root.join("Cargo.lock");
    println!("cargo::rerun-if-changed={}", file.display());
    let text = std::fs::read_to_string(file).ok()?;
    let mut found = Vec::new();
    for package in text.split("[[package]]") {
        let field = |name: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.strip_prefix(" = \"")?.strip_suffix('"')?.to_owned())
        };
        if let (Some(name), Some(version)) = (field("name"), field("version"))
            && DEPENDENCIES.contains(&name.as_str())
        {
            found.push(format!("{name} {version}"));
        }
    }
    Some(found.join(","))
}

/// The version of the pipe between Brain and its link, where the link says it.
fn pipe(root: &Path) -> Option<String> {
    let file = root.join("brain/link/src/identity.rs");
    println!("cargo::rerun-if-changed={}", file.display());
    let text = std::fs::read_to_string(file).ok()?;
    let (_, rest) = text.split_once("const PIPE: u64 = ")?;
    Some(rest.split_once(';')?.0.to_owned())
}
