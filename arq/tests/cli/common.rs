//! What the tests of `arq` share: a folder of its own, and running the program in it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, Once};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long anything may take: these machines are small and shared.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with an ArqonBus of its own, deleted at the end.
pub(crate) struct Folder {
    folder: tempfile::TempDir,
}

/// What a command said, and how it ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path().join(".arqon")
    }

    /// `arq` with these arguments, in the folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_arq"));
        command
            .args(arguments)
            .arg("--state")
            .arg(self.state())
            .current_dir(self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn arq(&self, arguments: &[&str]) -> Answer {
        self.command(arguments).output().unwrap().into()
    }

    pub(crate) fn arq_with_input(&self, arguments: &[&str], input: &str) -> Answer {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        child.wait_with_output().unwrap().into()
    }

    /// Runs a command until it succeeds.
    pub(crate) fn until_ok(&self, arguments: &[&str]) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.arq(arguments);
            if answer.code == 0 {
                return answer;
            }
            assert!(Instant::now() < deadline, "{arguments:?}: {answer:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A port that nobody listens on and nobody else is given.
pub(crate) fn free_port() -> u16 {
    arqon_spine::ports::free_port().unwrap()
}

/// The body that an HTTP address of this machine answers with.
pub(crate) fn get(url: &str) -> String {
    let (address, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET /{path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(" 200 "), "{head}");
    body.to_owned()
}

/// Waits for a state, with a name for the failure.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a process runs; one that has ended and waits to be reaped does not.
pub(crate) fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}

/// Sends a signal by name.
pub(crate) fn signal(child: &Child, name: &str) {
    signal_pid(child.id(), name);
}

pub(crate) fn signal_pid(pid: u32, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

/// An ArqonBus run by `arq dev up`, stopped at the end.
pub(crate) struct Bus {
    pub(crate) folder: Folder,
    pub(crate) child: Child,
    /// What it printed when it was ready.
    pub(crate) ready: serde_json::Value,
}

impl Bus {
    /// Without a Brain: most of what `arq` does needs none, and starts sooner.
    pub(crate) fn start() -> Self {
        Self::start_in(Folder::new(), &["--port-base", "0", "--no-brain"])
    }

    /// With this many Brains.
    pub(crate) fn start_with_brains(count: usize) -> Self {
        build_brain();
        let count = count.to_string();
        Self::start_in(Folder::new(), &["--port-base", "0", "--brains", &count])
    }

    pub(crate) fn start_in(folder: Folder, options: &[&str]) -> Self {
        build_shield();
        let arguments = [&["dev", "up", "--native", "--quiet", "--json"], options].concat();
        let log = std::fs::File::create(folder.path().join("up.err")).unwrap();
        let mut child = folder.command(&arguments).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let said = std::fs::read_to_string(folder.path().join("up.err")).unwrap();
        let ready = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not ready: {said}"));
        Self {
            folder,
            child,
            ready,
        }
    }

    pub(crate) fn arq(&self, arguments: &[&str]) -> Answer {
        self.folder.arq(arguments)
    }

    /// Ends it by a signal and gives its exit code.
    pub(crate) fn end(&mut self, name: &str) -> Option<i32> {
        signal(&self.child, name);
        self.child.wait().unwrap().code()
    }

    /// The process id of a part.
    pub(crate) fn part(&self, name: &str) -> u32 {
        let status = self.arq(&["--json", "dev", "status"]).json();
        let parts = status["parts"].as_array().unwrap();
        let part = parts.iter().find(|part| part["name"] == name).unwrap();
        part["pid"].as_u64().unwrap().try_into().unwrap()
    }

    /// A listener of a room that has joined.
    pub(crate) fn hear(&self, arguments: &[&str]) -> Listener {
        let arguments = [&["sub"], arguments].concat();
        let listener = Listener::start(&self.folder, &arguments);
        until("a listener joins", || listener.count("JOINED") == 1);
        listener
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            signal(&self.child, "TERM");
            let _ = self.child.wait();
        }
    }
}

/// A command that prints an object a line, and goes on; what it prints is kept.
pub(crate) struct Listener {
    pub(crate) child: Child,
    frames: Arc<Mutex<Vec<serde_json::Value>>>,
    reader: Option<JoinHandle<()>>,
}

impl Listener {
    /// Starts `arq` with these arguments and `--json`.
    pub(crate) fn start(folder: &Folder, arguments: &[&str]) -> Self {
        let arguments = [&["--json"], arguments].concat();
        let mut child = folder.command(&arguments).spawn().unwrap();
        let frames = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let reader = {
            let frames = frames.clone();
            std::thread::spawn(move || {
                for line in lines.map_while(Result::ok) {
                    frames
                        .lock()
                        .unwrap()
                        .push(serde_json::from_str(&line).unwrap());
                }
            })
        };
        Self {
            child,
            frames,
            reader: Some(reader),
        }
    }

    /// All that it has printed.
    pub(crate) fn all(&self) -> Vec<serde_json::Value> {
        self.frames.lock().unwrap().clone()
    }

    /// Those objects in which a field has this value.
    pub(crate) fn with(&self, field: &str, value: &str) -> Vec<serde_json::Value> {
        let mut all = self.all();
        all.retain(|object| object[field] == value);
        all
    }

    pub(crate) fn frames(&self, op: &str) -> Vec<serde_json::Value> {
        self.with("op", op)
    }

    pub(crate) fn count(&self, op: &str) -> usize {
        self.frames(op).len()
    }

    /// Waits for a message with this payload.
    #[track_caller]
    pub(crate) fn hears(&self, payload: &str) {
        until(&format!("`{payload}` is heard"), || {
            self.frames("MESSAGE")
                .iter()
                .any(|frame| frame["payload"] == payload)
        });
    }

    /// Waits for its end and gives its exit code and stderr.
    pub(crate) fn wait(mut self) -> (i32, String) {
        let mut said = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        self.reader.take().unwrap().join().unwrap();
        (code, said)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds the release of Brain, once.
fn build_brain() {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/brain");
        assert!(
            Command::new(script).status().unwrap().success(),
            "Brain does not build"
        );
    });
}

/// Puts arqon-shield beside the arq under test, once. The whole workspace is named, as everywhere
/// in scripts/: alone, its dependencies would have other features and be compiled anew.
pub(crate) fn build_shield() {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--workspace", "--bins"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(built.success(), "arqon-shield does not build");
    });
}
