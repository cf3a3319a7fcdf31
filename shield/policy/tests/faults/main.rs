//! Every way a policy can fail, in both configurations of the engine.

mod guest;
mod isolation;
mod limits;
mod load;
mod verdicts;
