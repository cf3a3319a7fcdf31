//! The compiler against its real child, and against children that fail.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use arqon_policy::{
    CacheError, Draft, Host, HostOptions, Limits, Message, Verdict,
    compile::{CompileCommand, CompileError, Compiled, Compiler, CompilerOptions},
};

mod wasm;
use wasm::Core;

const CHILD: &str = env!("CARGO_BIN_EXE_arqon-policy-compile");
const LONG: Duration = Duration::from_secs(120);

fn host() -> Host {
    Host::new(&HostOptions::default()).expect("a host")
}

fn options(cache: Option<&Path>) -> CompilerOptions {
    CompilerOptions {
        command: CompileCommand {
            program: CHILD.into(),
            args: Vec::new(),
        },
        cache_dir: cache.map(Path::to_owned),
        cache_key: [7; 32],
        timeout: LONG,
    }
}

fn compiler(cache: Option<&Path>) -> Compiler {
    Compiler::new(host(), options(cache)).expect("a compiler")
}

/// A compiler whose child is this script. `$@` is what the real child gets.
fn scripted(script: &str, timeout: Duration) -> Compiler {
    let options = CompilerOptions {
        command: CompileCommand {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into(), "sh".into()],
        },
        timeout,
        ..options(None)
    };
    Compiler::new(host(), options).expect("a compiler")
}

fn good() -> Vec<u8> {
    Core::default().component()
}

/// Another good one.
fn other() -> Vec<u8> {
    Core {
        more: "(func) (func)".into(),
        ..Core::default()
    }
    .component()
}

fn allows(compiled: &Compiled) {
    let limits = Limits::default();
    let mut instance = compiled.module.start(b"", &limits).expect("an instance");
    let draft = Draft::default();
    let message = Message {
        tenant: "acme",
        room: "lobby",
        user: "ada",
        role: "user",
        draft: &draft,
    };
    // A slow machine is no reason to fail here.
    let limits = Limits {
        cpu: Duration::from_secs(5),
        wall: Duration::from_secs(60),
        ..limits
    };
    assert_eq!(instance.run(&message, &limits).result, Ok(Verdict::Allow));
}

/// Passes the check, and takes the compiler very long: many locals that live
/// through many branches.
fn bomb() -> Vec<u8> {
    let mut body = String::from("(local");
    body.push_str(&" i32".repeat(900));
    body.push_str(") (loop $again ");
    for n in 0..3_600_usize {
        let (a, b, c) = (n * 7 % 900, n * 13 % 900, n * 29 % 900);
        body.push_str(&format!(
            "(block (br_if 0 (local.get {a})) (local.set {b} (i32.add (local.get {b}) (local.get {c}))))"
        ));
    }
    body.push_str("(br_if $again (local.get 1)))");
    let function = format!("(func {body})");
    Core {
        more: function.repeat(14),
        ..Core::default()
    }
    .component()
}

fn only_file(folder: &Path) -> PathBuf {
    let files: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.into_iter().next().expect("one file")
}

#[test]
fn a_policy_is_compiled_once_and_then_comes_out_of_the_cache() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = compiler(Some(folder.path()));
    let compiled = first.module(&good()).expect("compiled");
    assert!(!compiled.cached);
    allows(&compiled);
    assert!(first.module(&good()).expect("cached").cached);
    assert!(!first.module(&other()).expect("compiled").cached);

    // Another process, later.
    let second = compiler(Some(folder.path()));
    let compiled = second.module(&good()).expect("cached");
    assert!(compiled.cached);
    allows(&compiled);
}

#[test]
fn without_a_cache_each_time_is_the_first() {
    let compiler = compiler(None);
    assert!(!compiler.module(&good()).expect("compiled").cached);
    assert!(!compiler.module(&good()).expect("compiled").cached);
}

#[test]
fn the_child_compiles_for_guarded_memory_too_and_its_code_is_kept_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(
        !compiler(Some(folder.path()))
            .module(&good())
            .expect("compiled")
            .cached
    );
    let guarded = HostOptions {
        guarded: true,
        slots: 4,
        ..HostOptions::default()
    };
    let host = Host::new(&guarded).expect("a host");
    let compiler = Compiler::new(host, options(Some(folder.path()))).expect("a compiler");
    let compiled = compiler.module(&good()).expect("compiled");
    assert!(!compiled.cached);
    allows(&compiled);
    assert!(compiler.module(&good()).expect("cached").cached);
}

#[test]
fn what_the_check_refuses_never_gets_to_the_compiler() {
    // This child would say something else.
    let compiler = scripted("exit 0", LONG);
    for (component, code) in [
        (b"rubbish".to_vec(), "not_wasm"),
        (Core::default().bytes(), "core_module"),
        (
            wasm::holding(&wasm::one_large_function(397_000)),
            "function_too_large",
        ),
        (
            wasm::holding(&wasm::one_large_function(2_000_000)),
            "too_large",
        ),
    ] {
        let error = compiler.module(&component).expect_err("refused");
        assert!(error.is_final());
        let CompileError::Refused(findings) = &error else {
            panic!("{error}");
        };
        assert!(
            findings.iter().any(|finding| finding.code == code),
            "{error}"
        );
    }
}

#[test]
fn a_bomb_that_passes_the_check_is_cut_by_the_limits() {
    let options = CompilerOptions {
        timeout: Duration::from_secs(2),
        ..options(None)
    };
    let short = Compiler::new(host(), options).expect("a compiler");
    let error = short.module(&bomb()).expect_err("a bomb");
    let cut = matches!(error, CompileError::TooSlow(_) | CompileError::TimedOut(_));
    assert!(cut, "{error}");
    assert!(!error.is_final());
    // And the next one is compiled as if nothing had been.
    allows(&compiler(None).module(&good()).expect("compiled"));
}

#[test]
fn a_child_that_does_not_start_is_told() {
    let options = CompilerOptions {
        command: CompileCommand {
            program: "/nowhere/at/all".into(),
            args: Vec::new(),
        },
        ..options(None)
    };
    let compiler = Compiler::new(host(), options).expect("a compiler");
    let error = compiler.module(&good()).expect_err("no child");
    assert!(matches!(error, CompileError::Spawn(_)), "{error}");
}

#[test]
fn garbage_is_not_loaded() {
    for script in [
        "exit 0",
        "cat",
        "cat >/dev/null; head -c 100000 /dev/urandom",
        "printf ARQCODE1; cat",
        // Without end.
        "cat >/dev/null; exec yes",
    ] {
        let error = scripted(script, LONG).module(&good()).expect_err(script);
        assert!(
            matches!(error, CompileError::Output(_)),
            "{script}: {error}"
        );
    }
    // The code of another component, and half of the code.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("other.wasm");
    fs::write(&file, other()).expect("written");
    let another = format!("cat >/dev/null; exec {CHILD} \"$@\" <{}", file.display());
    let error = scripted(&another, LONG)
        .module(&good())
        .expect_err("another");
    assert_eq!(error, CompileError::Output("it is of another component"));
    let half = format!("{CHILD} \"$@\" | head -c 5000");
    let error = scripted(&half, LONG).module(&good()).expect_err("a half");
    assert_eq!(error, CompileError::Output("it is not whole"));
}

#[test]
fn a_child_that_fails_says_why_in_few_words() {
    let error = scripted("echo so it is >&2; exit 3", LONG)
        .module(&good())
        .expect_err("a failure");
    assert_eq!(error, CompileError::Failed("so it is".into()));
    let script = "cat >/dev/null; head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 3";
    let error = scripted(script, LONG)
        .module(&good())
        .expect_err("a failure");
    let CompileError::Failed(text) = error else {
        panic!("{error}");
    };
    assert_eq!(text.len(), 4096);
}

#[test]
fn the_child_does_not_see_the_environment() {
    assert!(std::env::vars().any(|(name, _)| name.starts_with("CARGO")));
    let error = scripted("env >&2; exit 3", LONG)
        .module(&good())
        .expect_err("a failure");
    let CompileError::Failed(text) = error else {
        panic!("{error}");
    };
    assert!(text.contains("PWD") && !text.contains("CARGO"), "{text}");
}

#[test]
fn a_child_that_hangs_is_killed_with_all_it_started() {
    let folder = tempfile::tempdir().expect("a folder");
    let pids = folder.path().join("pids");
    let script = format!(
        "sleep 1000 & echo $! >>{0}; echo $$ >>{0}; wait",
        pids.display()
    );
    let error = scripted(&script, Duration::from_secs(1))
        .module(&good())
        .expect_err("a child that hangs");
    assert_eq!(error, CompileError::TimedOut(Duration::from_secs(1)));
    let pids = fs::read_to_string(pids).expect("the pids");
    assert_eq!(pids.lines().count(), 2);
    for pid in pids.lines() {
        ends(pid);
    }
}

/// Waits until a process is gone, or waits for somebody to collect it.
fn ends(pid: &str) {
    for _ in 0..3_000 {
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            return;
        };
        if stat.contains(") Z ") || stat.contains(") X ") {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("process {pid} still runs");
}

/// The real child, which leaves its pid in this file before, and reads `input`.
fn telling(file: &Path, input: &str) -> Compiler {
    let file = file.display();
    let script = format!("echo $$ >{file}.new; mv {file}.new {file}; exec {CHILD} \"$@\" {input}");
    scripted(&script, LONG)
}

/// Starts the real child on the bomb, and waits until it has set its limits.
fn busy() -> (Arc<Compiler>, thread::JoinHandle<CompileError>, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pid");
    let compiler = Arc::new(telling(&file, ""));
    let running = thread::spawn({
        let compiler = Arc::clone(&compiler);
        move || compiler.module(&bomb()).expect_err("a bomb")
    });
    let pid = limited(&file);
    (compiler, running, pid)
}

/// The pid of a real child that has set its limits.
fn limited(file: &Path) -> String {
    for _ in 0..6_000 {
        thread::sleep(Duration::from_millis(10));
        let Ok(pid) = fs::read_to_string(file) else {
            continue;
        };
        let pid = pid.trim().to_owned();
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
        if limit(&limits, "Max open files") == "32" {
            return pid;
        }
    }
    panic!("the child never set its limits");
}

fn limit<'a>(limits: &'a str, name: &str) -> &'a str {
    limits
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .unwrap_or_default()
}

fn kill(pid: &str) {
    let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("a pid"), rustix::process::Signal::KILL)
        .expect("killed");
}

#[test]
fn the_child_is_polite_and_bounded_and_its_death_is_not_ours() {
    let (compiler, running, pid) = busy();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("its limits");
    assert_eq!(limit(&limits, "Max cpu time"), "60");
    assert_eq!(limit(&limits, "Max core file size"), "0");
    let memory: u64 = limit(&limits, "Max address space").parse().expect("bytes");
    assert!((2 << 30..3 << 30).contains(&memory), "{memory}");
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("its state");
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .expect("fields")
        .split(' ')
        .collect();
    assert_eq!(fields[17], "19", "nice of {stat}");

    kill(&pid);
    let error = running.join().expect("no panic");
    assert!(
        matches!(error, CompileError::Killed { signal: 9, .. }),
        "{error}"
    );
    allows(&compiler.module(&good()).expect("compiled"));
}

const PID: &str = "ARQON_TEST_PID";

#[test]
#[ignore = "the_child_ends_with_its_parent runs it, and kills it"]
fn compiling_without_end() {
    let file = PathBuf::from(std::env::var_os(PID).expect("the file"));
    let input = format!("<{}.pipe", file.display());
    let _ = telling(&file, &input).module(&good());
}

#[test]
fn the_child_ends_with_its_parent() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pid");
    // Nothing ever comes through this pipe, so the child does not end by itself.
    let pipe = folder.path().join("pid.pipe");
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, fifo, 0o600.into(), 0).expect("a pipe");
    let _open = fs::File::options()
        .read(true)
        .write(true)
        .open(&pipe)
        .expect("the pipe");
    let mut parent = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "compiling_without_end", "--ignored"])
        .env(PID, &file)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("a process");
    let child = limited(&file);
    parent.kill().expect("killed");
    parent.wait().expect("ended");
    ends(&child);
}

#[test]
fn a_cache_that_was_tampered_with_is_compiled_anew_and_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let compiler = compiler(Some(folder.path()));
    compiler.module(&good()).expect("compiled");
    let file = only_file(folder.path());
    let whole = fs::read(&file).expect("the file");
    let mode = fs::metadata(&file).expect("the file").permissions().mode();
    assert_eq!(mode & 0o077, 0);
    let damages: [fn(&mut Vec<u8>); 5] = [
        |bytes| bytes[0] ^= 1,
        |bytes| bytes[50] ^= 0x80,
        |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
        },
        |bytes| bytes.truncate(bytes.len() - 1),
        Vec::clear,
    ];
    for damage in damages {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        fs::write(&file, &bytes).expect("written");
        let compiled = compiler.module(&good()).expect("compiled");
        assert!(!compiled.cached);
        allows(&compiled);
        assert!(compiler.module(&good()).expect("cached").cached);
        assert_eq!(only_file(folder.path()), file);
    }
}

#[test]
fn a_cache_of_another_key_or_component_is_not_believed() {
    let folder = tempfile::tempdir().expect("a folder");
    compiler(Some(folder.path()))
        .module(&other())
        .expect("compiled");
    let alien = only_file(folder.path());
    let stranger = CompilerOptions {
        cache_key: [8; 32],
        ..options(Some(folder.path()))
    };
    let stranger = Compiler::new(host(), stranger).expect("a compiler");
    assert!(!stranger.module(&other()).expect("compiled").cached);
    assert!(stranger.module(&other()).expect("cached").cached);

    // Sealed by the right key, but under another's name.
    fs::remove_file(&alien).expect("removed");
    let compiler = compiler(Some(folder.path()));
    compiler.module(&good()).expect("compiled");
    let mine = only_file(folder.path());
    compiler.module(&other()).expect("compiled");
    fs::rename(&alien, &mine).expect("renamed");
    let compiled = compiler.module(&good()).expect("compiled");
    assert!(!compiled.cached);
    assert_eq!(compiled.module.digest(), arqon_policy::Digest::of(&good()));
}

#[test]
fn a_cache_that_others_can_write_to_is_refused_at_the_start() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
    let Err(error) = Compiler::new(host(), options(Some(folder.path()))) else {
        panic!("anybody's folder is taken");
    };
    assert!(matches!(error, CacheError::Unsafe { .. }), "{error}");
}

#[test]
fn a_cache_that_vanishes_costs_time_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let compiler = compiler(Some(folder.path()));
    fs::remove_dir(folder.path()).expect("removed");
    allows(&compiler.module(&good()).expect("compiled"));
    assert!(!compiler.module(&good()).expect("compiled").cached);
}

const FULL: &str = "ARQON_TEST_FULL_DISK";

/// A full disk, as the test below makes it: no file gets longer than 512 bytes.
#[test]
#[ignore = "a_full_disk_costs_time_only runs it, where files stay short"]
fn on_a_full_disk() {
    let folder = PathBuf::from(std::env::var_os(FULL).expect("the folder"));
    let compiler = compiler(Some(&folder));
    let compiled = compiler.module(&good()).expect("compiled");
    assert!(!compiled.cached);
    allows(&compiled);
    assert!(!compiler.module(&good()).expect("compiled").cached);
    fs::write(folder.join("proof"), [0; 4096]).expect_err("the disk is not full");
    fs::remove_file(folder.join("proof")).expect("what fitted");
}

#[test]
fn a_full_disk_costs_time_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = std::process::Command::new("/bin/sh")
        .args(["-c", "ulimit -f 1; trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "on_a_full_disk", "--nocapture", "--ignored"])
        .env(FULL, folder.path())
        .output()
        .expect("a process");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 0);
}
