//! How a command fails: one line, perhaps a hint, and an exit code.

use std::fmt::Display;

/// The exit codes of `arq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The command could not do what was asked.
    Failed = 1,
    /// What was typed makes no sense.
    Usage = 2,
    /// The manifest does not hold.
    BadManifest = 64,
}

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What went wrong, one line, lower case, no full stop.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) hint: Option<String>,
    /// With what the process ends.
    pub(crate) exit: Exit,
    /// True where the answer was printed already and only the exit code is left to give.
    pub(crate) silent: bool,
}

/// The result of a command.
pub(crate) type Result<T = (), E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure with exit code 1.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
            exit: Exit::Failed,
            silent: false,
        }
    }

    /// A failure of what was typed, exit code 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Usage,
            ..Self::new(message)
        }
    }

    /// A failure that has been told already.
    pub(crate) fn told(exit: Exit) -> Self {
        Self {
            exit,
            silent: true,
            ..Self::new("")
        }
    }

    /// The same with a hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The message of an error and of all its causes, joined by colons.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat their source in their own text.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(chain(&error))
    }
}

/// Says what was being done when an error came.
pub(crate) trait Doing<T> {
    /// Puts `what` before the error's text.
    fn doing(self, what: impl Display) -> Result<T>;
    /// Adds a hint.
    fn hint(self, hint: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<Failure>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Display) -> Result<T> {
        self.map_err(|error| {
            let mut failure = error.into();
            failure.message = format!("{what}: {}", failure.message);
            failure
        })
    }

    fn hint(self, hint: impl Into<String>) -> Result<T> {
        self.map_err(|error| error.into().hint(hint))
    }
}
