//! Which metrics of the catalogue the suite has seen move. Each test process
//! adds what it saw to a file beside the programs; `tests/catalogue.rs` looks
//! at all of them after the suite.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A process that is about to be killed, or is frozen, is not waited for.
const PATIENCE: Duration = Duration::from_millis(300);

/// In front of the name of a metric that was shown and had not moved.
pub const STILL: &str = "still ";

static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Where the files are: below the folder of the programs.
pub fn folder() -> PathBuf {
    crate::program::programs().join("arqon-moved")
}

/// Takes note of what has moved by a text of metrics.
pub fn note(text: &str) {
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let before = seen.len();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else {
            continue;
        };
        let name = series.split('{').next().unwrap_or(series);
        let name = ["_total", "_bucket", "_count", "_sum"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .unwrap_or(name);
        if value.parse::<f64>().is_ok_and(|value| value != 0.0) {
            seen.insert(name.to_owned());
        } else {
            seen.insert(format!("{STILL}{name}"));
        }
    }
    if seen.len() > before {
        let names: Vec<&str> = seen.iter().map(String::as_str).collect();
        let folder = folder();
        let file = folder.join(std::process::id().to_string());
        let written =
            std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(file, names.join("\n")));
        written.expect("what moved is written down");
    }
}

/// As `note`, of a process that shows its metrics at this address, if it still does.
pub(crate) fn note_at(address: SocketAddr) {
    if let Some(text) = fetch(address) {
        note(&text);
    }
}

/// Waits as a `Drop` may: not by the runtime, which may be ending.
fn fetch(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).ok()?;
    let mut answer = String::new();
    // A time-out after the last byte loses nothing.
    let _ = stream.read_to_string(&mut answer);
    Some(answer)
}
