//! What state that is shared without one lock around it is made of.
//! `shield/loom` compiles the same files with loom's types in this place.

pub(crate) use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

pub(crate) use futures_util::task::AtomicWaker;
