//! The one policy of a component. What [`crate::export!`] expands to.

use std::cell::RefCell;

use crate::{Message, Policy, Verdict};

/// The policy, once it is configured.
#[derive(Debug)]
pub struct State<P>(RefCell<Option<P>>);

impl<P> State<P> {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(RefCell::new(None))
    }
}

impl<P> Default for State<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Policy> State<P> {
    /// Makes the policy. One that was there is gone, also after a failure.
    ///
    /// # Errors
    ///
    /// What the policy has against the configuration.
    pub fn configure(&self, config: &[u8]) -> Result<(), String> {
        let mut place = self.0.borrow_mut();
        *place = None;
        *place = Some(P::configure(config)?);
        Ok(())
    }

    /// Asks the policy.
    ///
    /// # Panics
    ///
    /// If there is none: a host that asks before it configures is broken, and
    /// a trap blocks the message.
    pub fn on_message(&self, message: &Message) -> Verdict {
        match &mut *self.0.borrow_mut() {
            Some(policy) => policy.on_message(message),
            None => panic!("on-message before configure"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counts(usize);

    impl Policy for Counts {
        fn configure(config: &[u8]) -> Result<Self, String> {
            if config.is_empty() {
                return Err("nothing to count to".into());
            }
            Ok(Self(config.len()))
        }

        fn on_message(&mut self, _: &Message) -> Verdict {
            match self.0.checked_sub(1) {
                Some(left) => {
                    self.0 = left;
                    Verdict::Allow
                }
                None => Verdict::block("enough"),
            }
        }
    }

    #[test]
    fn a_policy_keeps_its_state_between_messages() {
        let state = State::<Counts>::new();
        state.configure(b"12").unwrap();
        let message = Message::of("");
        assert_eq!(state.on_message(&message), Verdict::Allow);
        assert_eq!(state.on_message(&message), Verdict::Allow);
        assert_eq!(state.on_message(&message), Verdict::block("enough"));
    }

    #[test]
    fn configuring_again_starts_anew() {
        let state = State::<Counts>::new();
        state.configure(b"1").unwrap();
        assert_eq!(state.on_message(&Message::of("")), Verdict::Allow);
        state.configure(b"1").unwrap();
        assert_eq!(state.on_message(&Message::of("")), Verdict::Allow);
    }

    #[test]
    #[should_panic(expected = "before configure")]
    fn nothing_judges_after_a_refused_configuration() {
        let state = State::<Counts>::new();
        state.configure(b"1").unwrap();
        assert_eq!(state.configure(b""), Err("nothing to count to".into()));
        let _ = state.on_message(&Message::of(""));
    }
}
