//! `arq dev restart` without Docker: the running `arq dev up` is asked by a file and a signal.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::record::Record;
use crate::context::{Context, write_private};
use crate::failure::{Doing as _, Failure, Result};
use crate::progress::Progress;

/// How long all parts together may take.
const LIMIT: Duration = Duration::from_secs(180);

/// What is asked, and in the same file how it went.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) parts: Vec<String>,
    /// The pid of who asks; an answer to another is none.
    asker: u32,
    answer: Option<Answer>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    failed: Option<String>,
}

impl Request {
    fn file(context: &Context) -> PathBuf {
        context.dev_folder().join("restart.json")
    }

    fn read(context: &Context) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Self::file(context)).ok()?).ok()
    }

    fn write(&self, context: &Context) -> Result {
        write_private(&Self::file(context), &serde_json::to_vec(self)?)
    }

    /// What waits for an answer.
    pub(super) fn open(context: &Context) -> Option<Self> {
        Self::read(context).filter(|request| request.answer.is_none())
    }

    /// Tells the asker how it went.
    pub(super) fn answer(mut self, context: &Context, outcome: &Result) -> Result {
        self.answer = Some(Answer {
            failed: outcome
                .as_ref()
                .err()
                .map(|failure| failure.message.clone()),
        });
        self.write(context)
    }
}

/// Restarts parts of the `arq dev up` that runs in a folder, or all of them.
pub(super) fn run(context: &Context, parts: &[String]) -> Result<Vec<String>> {
    let Some(record) = Record::read(context).filter(|record| record.supervisor.alive()) else {
        return Err(Failure::new(format!(
            "no `arq dev up` runs in {}",
            context.folder.display()
        ))
        .hint("`arq dev up` starts it"));
    };
    let running: Vec<String> = record
        .children
        .iter()
        .map(|child| child.name.clone())
        .collect();
    let chosen = if parts.is_empty() { &running } else { parts };
    super::known(chosen, &running)?;
    // One at a time: a second question would be written over by the answer to the first.
    let turn = context.dev_folder().join("restart.lock");
    let turn = std::fs::File::create(&turn).doing(format!("cannot open {}", turn.display()))?;
    turn.lock().doing("cannot wait for another restart")?;
    let asker = std::process::id();
    Request {
        parts: chosen.to_vec(),
        asker,
        answer: None,
    }
    .write(context)?;
    record.supervisor.signal(Signal::USR1);
    let _progress = Progress::waiting(format!("restarting {}", chosen.join(", ")));
    let until = Instant::now() + LIMIT;
    loop {
        let answer = Request::read(context).filter(|request| request.asker == asker);
        if let Some(answer) = answer.and_then(|request| request.answer) {
            let _ = std::fs::remove_file(Request::file(context));
            return match answer.failed {
                None => Ok(chosen.to_vec()),
                Some(why) => Err(Failure::new(why).hint("`arq dev logs` shows what the parts say")),
            };
        }
        if !record.supervisor.alive() {
            return Err(Failure::new("`arq dev up` ended meanwhile")
                .hint("its terminal says why; `arq dev logs` shows what the parts said"));
        }
        if Instant::now() > until {
            return Err(Failure::new(format!(
                "the parts are not back after {} s",
                LIMIT.as_secs()
            ))
            .hint("`arq dev logs` shows what they say"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
