//! The wire side of Brain: a port program between NATS and the BEAM.

fn main() {}
