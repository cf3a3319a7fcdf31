//! `arq dev logs`: what the parts of a bus without Docker have said, from their files.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::context::Context;
use crate::failure::{Doing, Failure, Result};
use crate::output::{Output, Paint, escaped};

/// How often a file is looked at for more.
const LOOK: Duration = Duration::from_millis(200);

struct Log {
    part: String,
    reader: BufReader<std::fs::File>,
    path: PathBuf,
    /// What was read of a line that has no end yet.
    open: String,
}

/// Prints the last lines of each part, and goes on if asked to.
pub(super) fn run(
    context: &Context,
    parts: &[String],
    follow: bool,
    lines: Option<usize>,
    output: &Output,
) -> Result {
    let all = parts_with_logs(context)?;
    if all.is_empty() {
        return Err(Failure::new(format!(
            "there are no logs in {}",
            context.logs_folder().display()
        ))
        .hint("`arq dev up` makes them"));
    }
    super::known(parts, &all)?;
    let chosen = if parts.is_empty() { &all } else { parts };
    let width = chosen.iter().map(String::len).max().unwrap_or(0);
    let mut logs = Vec::new();
    for part in chosen {
        let mut log = Log::open(context, part)?;
        let last = log.last_lines(lines.unwrap_or(usize::MAX))?;
        for line in last {
            show(part, width, &line, output)?;
        }
        logs.push(log);
    }
    if !follow {
        return Ok(());
    }
    loop {
        std::thread::sleep(LOOK);
        for log in &mut logs {
            log.look_again()?;
            while let Some(line) = log.line()? {
                show(&log.part, width, &line, output)?;
            }
        }
    }
}

fn parts_with_logs(context: &Context) -> Result<Vec<String>> {
    let folder = context.logs_folder();
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).doing(format!("cannot read {}", folder.display())),
    };
    let mut parts: Vec<String> = entries
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".log")?.to_owned()))
        .collect();
    parts.sort();
    Ok(parts)
}

/// A line with its part; what a part says may quote a client.
pub(super) fn show(part: &str, width: usize, line: &str, output: &Output) -> Result {
    if output.json {
        return output.object_line(&json!({"part": part, "line": line}));
    }
    let label = output.paint(Paint::Cyan, &format!("{part:width$} |"));
    output.line(format!("{label} {}", escaped(line)))
}

impl Log {
    fn open(context: &Context, part: &str) -> Result<Self> {
        let path = context.logs_folder().join(format!("{part}.log"));
        let file = std::fs::File::open(&path).doing(format!("cannot read {}", path.display()))?;
        Ok(Self {
            part: part.to_owned(),
            reader: BufReader::new(file),
            path,
            open: String::new(),
        })
    }

    fn last_lines(&mut self, count: usize) -> Result<VecDeque<String>> {
        let mut last = VecDeque::new();
        while let Some(line) = self.line()? {
            if last.len() >= count {
                last.pop_front();
            }
            if count > 0 {
                last.push_back(line);
            }
        }
        Ok(last)
    }

    /// The next whole line.
    fn line(&mut self) -> Result<Option<String>> {
        let mut bytes = Vec::new();
        self.reader
            .read_until(b'\n', &mut bytes)
            .doing(format!("cannot read {}", self.path.display()))?;
        self.open.push_str(&String::from_utf8_lossy(&bytes));
        if !self.open.ends_with('\n') {
            return Ok(None);
        }
        let line = std::mem::take(&mut self.open);
        Ok(Some(line.trim_end().to_owned()))
    }

    /// Begins anew where the file was cut or made again.
    fn look_again(&mut self) -> Result {
        let at = self.reader.stream_position()?;
        let size = std::fs::metadata(&self.path).map_or(at, |data| data.len());
        if size < at {
            let file = std::fs::File::open(&self.path)
                .doing(format!("cannot read {}", self.path.display()))?;
            self.reader = BufReader::new(file);
            self.reader.seek(SeekFrom::Start(0))?;
            self.open.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_last_lines_are_read_and_an_open_one_waits_for_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let context = Context::at(folder.path()).unwrap();
        std::fs::create_dir(context.logs_folder()).unwrap();
        let file = context.logs_folder().join("shield.log");
        std::fs::write(&file, "one\ntwo\nthree\nfo").unwrap();
        assert_eq!(parts_with_logs(&context).unwrap(), ["shield"]);
        let mut log = Log::open(&context, "shield").unwrap();
        assert_eq!(log.last_lines(2).unwrap(), ["two", "three"]);
        assert_eq!(log.line().unwrap(), None);
        std::fs::write(&file, "one\ntwo\nthree\nfour\n").unwrap();
        log.look_again().unwrap();
        assert_eq!(log.line().unwrap().unwrap(), "four");
        std::fs::write(&file, "new\n").unwrap();
        log.look_again().unwrap();
        assert_eq!(log.line().unwrap().unwrap(), "new");
    }
}
