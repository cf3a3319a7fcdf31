//! The Spine.

pub mod manifest;
mod sys;
