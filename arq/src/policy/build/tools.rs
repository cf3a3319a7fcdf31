//! The toolchains, and how each is called. A small stack matters: a default one of 1 MiB makes
//! every instance larger and slower.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::failure::{Doing, Failure, Result};
use crate::output::Output;

/// Bytes of a guest's stack.
const STACK: &str = "32768";

/// The only target that imports nothing.
const TARGET: &str = "wasm32-unknown-unknown";

/// Something to be built.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Project {
    /// A folder with Cargo.toml.
    Rust(PathBuf),
    /// C sources, and the folder of their headers.
    C(Vec<PathBuf>, PathBuf),
    /// The root source of a Zig program, C sources beside it, and the folder of their headers.
    Zig(PathBuf, Vec<PathBuf>, PathBuf),
    /// A module or a component that is there.
    Module(PathBuf),
}

/// What was built.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) file: PathBuf,
    /// With what, for people.
    pub(super) with: String,
    /// Holds `file` where it is a temporary one.
    _folder: Option<Scratch>,
}

impl Project {
    /// What lies in a folder.
    pub(super) fn of_folder(folder: &Path) -> Result<Self> {
        if folder.join("Cargo.toml").is_file() {
            return Ok(Self::Rust(folder.to_owned()));
        }
        // Templates keep sources beside cases.toml; others often keep them in src.
        for place in [folder.to_owned(), folder.join("src")] {
            let zig = sources(&place, "zig")?;
            let c = sources(&place, "c")?;
            if let Some(root) = root(&zig) {
                return Ok(Self::Zig(root, c, place));
            }
            if zig.len() > 1 {
                return Err(Failure::new(format!(
                    "{} holds several Zig files and no main.zig or policy.zig",
                    place.display()
                ))
                .hint("name the root file: `arq policy build FILE.zig`"));
            }
            if !c.is_empty() {
                return Ok(Self::C(c, place));
            }
        }
        Err(Failure::new(format!(
            "{} holds no policy: no Cargo.toml, no .c, no .zig",
            folder.display()
        ))
        .hint("`arq policy new NAME --lang rust|c|zig` makes a folder to begin with"))
    }

    /// What a file is.
    pub(super) fn of_file(file: &Path) -> Result<Self> {
        let own = || file.to_owned();
        match file.extension().and_then(|kind| kind.to_str()) {
            Some("c") => {
                let folder = folder_of(file);
                Ok(Self::C(vec![own()], folder))
            }
            Some("zig") => {
                let folder = folder_of(file);
                Ok(Self::Zig(own(), sources(&folder, "c")?, folder))
            }
            Some("wasm") => Ok(Self::Module(own())),
            Some("rs") => Err(
                Failure::usage(format!("{} alone cannot be built", file.display()))
                    .hint("name the folder with its Cargo.toml"),
            ),
            _ => Err(Failure::usage(format!(
                "{} is nothing that a policy is built of",
                file.display()
            ))
            .hint("name a folder, or a file .c, .zig or .wasm")),
        }
    }

    /// Builds it.
    pub(super) fn build(&self, output: &Output) -> Result<Built> {
        match self {
            Self::Module(file) => Ok(Built {
                file: file.clone(),
                with: "the module that was there".to_owned(),
                _folder: None,
            }),
            Self::Rust(folder) => cargo(folder, output),
            Self::C(files, include) => {
                let tool = c_compiler()?;
                let arguments = |out: &Path| c_arguments(&tool, files, include, out);
                compile(&tool, arguments, output)
            }
            Self::Zig(root, c, include) => {
                let tool = zig()?;
                compile(&tool, |out| zig_arguments(root, c, include, out), output)
            }
        }
    }
}

/// A file's folder; that of a bare name is the current one.
fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn sources(folder: &Path, kind: &str) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).doing(format!("cannot read {}", folder.display()))? {
        let file = entry?.path();
        if file.extension().is_some_and(|is| is == kind) {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// The file a Zig program begins with.
fn root(files: &[PathBuf]) -> Option<PathBuf> {
    if let [only] = files {
        return Some(only.clone());
    }
    ["main.zig", "policy.zig"].iter().find_map(|name| {
        let is = |file: &&PathBuf| file.file_name().is_some_and(|is| is == *name);
        files.iter().find(is).cloned()
    })
}

/// A program with the words that come first.
#[derive(Debug)]
struct Tool {
    words: &'static [&'static str],
}

impl Tool {
    fn runs(&self) -> bool {
        let probe = if self.words[0] == "clang" {
            "--version"
        } else {
            "version"
        };
        // `zig cc version` would compile a file of that name.
        let words = self.words.iter().filter(|word| **word != "cc");
        let words: Vec<&str> = words.copied().collect();
        Command::new(words[0])
            .args(&words[1..])
            .arg(probe)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    fn is_zig(&self) -> bool {
        self.words[0] != "clang"
    }
}

fn c_compiler() -> Result<Tool> {
    [
        &["zig", "cc"][..],
        &["python3", "-m", "ziglang", "cc"],
        &["clang"],
    ]
    .into_iter()
    .map(|words| Tool { words })
    .find(Tool::runs)
    .ok_or_else(|| {
        Failure::new("there is no compiler of C for Wasm: neither zig nor clang")
            .hint("`pip install ziglang` gives one, as do the packages clang and lld")
    })
}

fn zig() -> Result<Tool> {
    [&["zig"][..], &["python3", "-m", "ziglang"]]
        .into_iter()
        .map(|words| Tool { words })
        .find(Tool::runs)
        .ok_or_else(|| Failure::new("there is no zig").hint("`pip install ziglang` gives one"))
}

fn c_arguments(tool: &Tool, files: &[PathBuf], include: &Path, out: &Path) -> Vec<OsString> {
    let target = if tool.is_zig() {
        ["-target", "wasm32-freestanding"]
    } else {
        ["--target=wasm32", "-ffreestanding"]
    };
    let mut arguments: Vec<OsString> = target.into_iter().map(Into::into).collect();
    arguments.extend(
        ["-O2", "-nostdlib", "-Wl,--no-entry", "-Wl,-s"]
            .into_iter()
            .map(Into::into),
    );
    arguments.push(format!("-Wl,-z,stack-size={STACK}").into());
    arguments.extend(["-I".into(), include.into(), "-o".into(), out.into()]);
    arguments.extend(files.iter().map(Into::into));
    arguments
}

fn zig_arguments(root: &Path, c: &[PathBuf], include: &Path, out: &Path) -> Vec<OsString> {
    let mut emit = OsString::from("-femit-bin=");
    emit.push(out);
    let mut arguments = vec!["build-exe".into(), root.into()];
    arguments.extend(c.iter().map(Into::into));
    arguments.extend(["-I".into(), include.into()]);
    arguments.extend(
        [
            "-target",
            "wasm32-freestanding",
            "-fno-entry",
            "-rdynamic",
            "-O",
            "ReleaseSmall",
            "-fstrip",
            "--stack",
            STACK,
        ]
        .into_iter()
        .map(Into::into),
    );
    arguments.push(emit);
    arguments
}

/// A folder that goes with what was built in it.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let name = format!(
            "arq-policy-{}-{:x}",
            std::process::id(),
            rand::random::<u64>()
        );
        let folder = std::env::temp_dir().join(name);
        crate::context::create_folder(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn compile(
    tool: &Tool,
    arguments: impl FnOnce(&Path) -> Vec<OsString>,
    output: &Output,
) -> Result<Built> {
    let folder = Scratch::new()?;
    let file = folder.0.join("core.wasm");
    let mut command = Command::new(tool.words[0]);
    command.args(&tool.words[1..]).args(arguments(&file));
    run(command, tool.words[0], output)?;
    Ok(Built {
        file,
        with: tool.words.join(" "),
        _folder: Some(folder),
    })
}

/// Runs a compiler; what it says goes to stderr.
fn run(mut command: Command, name: &str, output: &Output) -> Result<Vec<u8>> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .doing(format!("cannot start {name}"))?;
    let said = String::from_utf8_lossy(&done.stderr);
    if !said.trim().is_empty() {
        output.note(said.trim_end());
    }
    if !done.status.success() {
        return Err(Failure::new(format!("{name} failed ({})", done.status))
            .hint("its messages stand above"));
    }
    Ok(done.stdout)
}

fn cargo(folder: &Path, output: &Output) -> Result<Built> {
    if !has_target() {
        return Err(
            Failure::new(format!("Rust has no target {TARGET} here"))
                .hint(format!(
                    "`rustup target add {TARGET}` installs it; without rustup, your system's package of Rust for wasm32; C and Zig need no Rust"
                )),
        );
    }
    let mut command = Command::new("cargo");
    command
        .args(["build", "--release", "--target", TARGET])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(folder);
    // Flags of the environment would replace those of the project's .cargo/config.toml.
    if !folder.join(".cargo/config.toml").is_file() && std::env::var_os("RUSTFLAGS").is_none() {
        command.env("RUSTFLAGS", format!("-C link-arg=-zstack-size={STACK}"));
    }
    let said = run(command, "cargo", output)?;
    let files = artifacts(&said);
    match &files[..] {
        [file] => Ok(Built {
            file: file.clone(),
            with: "cargo".to_owned(),
            _folder: None,
        }),
        [] => Err(Failure::new("cargo built no .wasm")
            .hint("Cargo.toml needs `[lib]` with `crate-type = [\"cdylib\"]`")),
        more => Err(Failure::new(format!("cargo built {} modules", more.len()))
            .hint("name the folder of one package")),
    }
}

fn has_target() -> bool {
    Command::new("rustc")
        .args(["--print", "target-libdir", "--target", TARGET])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|done| {
            done.status.success()
                && Path::new(String::from_utf8_lossy(&done.stdout).trim()).is_dir()
        })
}

/// The modules that cargo's messages name.
fn artifacts(messages: &[u8]) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = messages
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter_map(|message| message["filenames"].as_array().cloned())
        .flatten()
        .filter_map(|file| Some(PathBuf::from(file.as_str()?)))
        .filter(|file| file.extension().is_some_and(|kind| kind == "wasm"))
        .collect();
    files.sort();
    files.dedup();
    files
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_folder_is_known_by_its_sources() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        assert!(Project::of_folder(here).is_err());
        let write = |name: &str| std::fs::write(here.join(name), "").unwrap();
        write("b.c");
        write("a.c");
        let c = Project::C(vec![here.join("a.c"), here.join("b.c")], here.to_owned());
        assert_eq!(Project::of_folder(here).unwrap(), c);
        let zig = |root: &str| {
            let c = vec![here.join("a.c"), here.join("b.c")];
            Project::Zig(here.join(root), c, here.to_owned())
        };
        write("one.zig");
        assert_eq!(Project::of_folder(here).unwrap(), zig("one.zig"));
        write("two.zig");
        assert!(
            Project::of_folder(here)
                .unwrap_err()
                .message
                .contains("several")
        );
        write("main.zig");
        assert_eq!(Project::of_folder(here).unwrap(), zig("main.zig"));
        write("Cargo.toml");
        assert_eq!(
            Project::of_folder(here).unwrap(),
            Project::Rust(here.to_owned())
        );
        assert!(Project::of_file(Path::new("a.rs")).is_err());
        assert!(Project::of_file(Path::new("a.txt")).is_err());
    }

    #[test]
    fn the_modules_are_found_among_what_cargo_says() {
        let said = br#"{"reason":"compiler-artifact","filenames":["/t/libdep.rlib"]}
{"reason":"compiler-artifact","filenames":["/t/greeter.wasm","/t/libgreeter.rlib"]}
no json
{"reason":"build-finished","success":true}
"#;
        assert_eq!(artifacts(said), [PathBuf::from("/t/greeter.wasm")]);
    }

    #[test]
    fn every_compiler_is_told_of_the_small_stack() {
        let out = Path::new("o.wasm");
        let clang = Tool { words: &["clang"] };
        let all = [
            c_arguments(&clang, &["a.c".into()], Path::new("."), out),
            zig_arguments(Path::new("a.zig"), &[], Path::new("."), out),
        ];
        for arguments in all {
            let line = arguments.join(" ".as_ref());
            assert!(line.to_str().unwrap().contains("32768"), "{line:?}");
        }
    }
}
