//! The program `arqon-shield`: a manifest in, a Shield until a signal comes.

fn main() {}
