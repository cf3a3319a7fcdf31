//! Composition: a manifest in, a running Shield out.
