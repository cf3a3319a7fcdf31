//! What can go wrong with a policy, in classes that metrics and audits name.

use std::fmt;

/// Why a policy gave no verdict. Whatever it is, the message is blocked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{class}: {detail}")]
pub struct Fault {
    /// The class.
    pub class: FaultClass,
    /// For the operator. Never bytes of the message.
    pub detail: String,
}

/// The classes of faults. Their texts are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FaultClass {
    /// It trapped: unreachable, division by zero, an address out of bounds.
    Trap,
    /// It overflowed its stack.
    Stack,
    /// It took more CPU or wall-clock time than it may.
    Timeout,
    /// It wanted more memory than it may, and failed over that.
    Memory,
    /// It answered with something that is no legal verdict.
    BadVerdict,
    /// It refuses its configuration, or was not done with it in time.
    Configure,
    /// There was no place to run it.
    NoSlot,
    /// Its version cannot be had or used.
    Missing,
    /// It failed for several senders and rests.
    Quarantined,
}

impl Fault {
    /// A fault of this class.
    pub fn new(class: FaultClass, detail: impl Into<String>) -> Self {
        Self {
            class,
            detail: detail.into(),
        }
    }
}

impl FaultClass {
    /// All classes.
    pub const ALL: [Self; 9] = [
        Self::Trap,
        Self::Stack,
        Self::Timeout,
        Self::Memory,
        Self::BadVerdict,
        Self::Configure,
        Self::NoSlot,
        Self::Missing,
        Self::Quarantined,
    ];

    /// The stable text, as metrics and audits name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Stack => "stack",
            Self::Timeout => "timeout",
            Self::Memory => "memory",
            Self::BadVerdict => "bad_verdict",
            Self::Configure => "configure",
            Self::NoSlot => "no_slot",
            Self::Missing => "missing",
            Self::Quarantined => "quarantined",
        }
    }

    /// Whether the message itself may have caused it. Else the policy cannot
    /// run at all at the moment, whoever sends what.
    #[must_use]
    pub const fn is_of_message(self) -> bool {
        matches!(
            self,
            Self::Trap | Self::Stack | Self::Timeout | Self::Memory | Self::BadVerdict
        )
    }
}

impl fmt::Display for FaultClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
