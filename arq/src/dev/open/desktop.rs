//! Opens the address in the browser of the desktop.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::output::Output;

/// A desktop that has no browser says so within this; what ends later is the browser itself.
const FAILS_WITHIN: Duration = Duration::from_secs(10);

/// Whether the desktop was asked to open it.
///
/// Only on Linux: the address stands in the browser's command line, which other users can read,
/// and only there `peer` keeps them out.
pub(super) fn open(url: &str, output: Output) -> bool {
    use std::os::unix::process::CommandExt;
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if !cfg!(target_os = "linux") || !(set("DISPLAY") || set("WAYLAND_DISPLAY")) {
        return false;
    }
    let started = Command::new("xdg-open")
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C here must not end a browser that was started there.
        .process_group(0)
        .spawn();
    match started {
        Ok(mut child) => {
            let since = Instant::now();
            std::thread::spawn(move || {
                let well = child.wait().is_ok_and(|status| status.success());
                if !well && since.elapsed() < FAILS_WITHIN {
                    output.note("xdg-open found no browser: open the address above in one");
                }
            });
            true
        }
        Err(_) => false,
    }
}
