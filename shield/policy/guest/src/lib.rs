//! Writing policies for ArqonBus in Rust.
//!
//! A policy is asked about every message before it is published. Implement
//! [`Policy`], name the type in [`export!`], and build a `cdylib` for
//! `wasm32-unknown-unknown`; `arq policy build` makes the component of it.
//!
//! ```
//! use arqon_policy_guest::{Message, Policy, Verdict, export};
//!
//! /// Blocks what is longer than the configuration allows.
//! struct Short {
//!     at_most: usize,
//! }
//!
//! impl Policy for Short {
//!     fn configure(config: &[u8]) -> Result<Self, String> {
//!         let text = std::str::from_utf8(config).map_err(|_| "not UTF-8".to_owned())?;
//!         let at_most = text.trim().parse().map_err(|e| format!("a number of bytes: {e}"))?;
//!         Ok(Self { at_most })
//!     }
//!
//!     fn on_message(&mut self, message: &Message) -> Verdict {
//!         if message.payload.len() > self.at_most {
//!             return Verdict::block("too long");
//!         }
//!         Verdict::Allow
//!     }
//! }
//!
//! export!(Short);
//!
//! # fn main() {
//! // A policy is an ordinary type: its tests run on any machine.
//! let mut short = Short::configure(b"3").unwrap();
//! assert_eq!(short.on_message(&Message::of("abc")), Verdict::Allow);
//! assert_eq!(short.on_message(&Message::of("abcd")), Verdict::block("too long"));
//! assert!(Short::configure(b"three").is_err());
//! # }
//! ```
//!
//! What to know:
//!
//! - A panic is a trap: the message is blocked, and the instance with all it
//!   remembers is gone. There is no stack trace; [`log!`] what you need to know.
//! - `configure` runs once for each instance, `on_message` for each message. An
//!   instance may be replaced at any time, so what `on_message` keeps in `self`
//!   is a cache and nothing more.
//! - There is no clock, no randomness, no file and no network. What of `std`
//!   needs them fails or traps.

// Here and not in Cargo.toml, which projects of their own get too.
#![deny(unsafe_code)]
#![warn(missing_docs)]

#[doc(hidden)]
pub mod bindings;
mod logging;
mod message;
#[doc(hidden)]
pub mod state;

pub use bindings::arqon::policy::{
    host::Level,
    types::{Header, Message, Rewrite, Verdict},
};
pub use logging::log;

/// A policy: one value of it is one instance.
pub trait Policy: Sized + 'static {
    /// Makes an instance of the binding's configuration, which may be empty.
    ///
    /// # Errors
    ///
    /// What is wrong with the configuration, in words for whoever binds the
    /// policy. The binding is then refused.
    fn configure(config: &[u8]) -> Result<Self, String>;

    /// Says what is to become of a message.
    fn on_message(&mut self, message: &Message) -> Verdict;
}

/// Makes a type the policy of this component. Once in a crate, beside the
/// `impl` of [`Policy`].
#[macro_export]
macro_rules! export {
    ($policy:ty) => {
        const _: () = {
            struct Component;

            ::std::thread_local! {
                static STATE: $crate::state::State<$policy> =
                    const { $crate::state::State::new() };
            }

            impl $crate::bindings::Guest for Component {
                fn configure(
                    config: ::std::vec::Vec<u8>,
                ) -> ::std::result::Result<(), ::std::string::String> {
                    STATE.with(|state| state.configure(&config))
                }

                fn on_message(message: $crate::Message) -> $crate::Verdict {
                    STATE.with(|state| state.on_message(&message))
                }
            }

    $crate::bindings::export_component!(Component with_types_in $crate::bindings);
        };
    };
}

/// Writes a formatted line to the log of the policy: `log!(Warn, "odd: {}", n)`.
#[macro_export]
macro_rules! log {
    ($level:ident, $($text:tt)+) => {
        $crate::log($crate::Level::$level, &::std::format!($($text)+))
    };
}
