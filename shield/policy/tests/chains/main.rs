//! Chains of policies, with real components: who is judged by what, who
//! suffers when one fails, and what happens while it all changes.

mod budgets;
mod order;
mod places;
mod rig;
mod swap;
