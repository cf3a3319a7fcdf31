//! Every interleaving, up to the bound of preemptions that loom's authors found to find nearly all.

use arqon_loom::readers::{Beside, read};
use arqon_loom::turns::at_once;

fn every(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

#[test]
fn no_wake_up_is_lost() {
    every(|| assert_eq!(read(1, 2, 100, Beside::Nothing), [vec![0, 1]]));
}

#[test]
fn no_wake_up_is_lost_between_two_streams() {
    every(|| assert_eq!(read(2, 1, 100, Beside::Nothing), [vec![0], vec![0]]));
}

#[test]
fn no_wake_up_is_lost_where_a_budget_ends_each_look() {
    every(|| assert_eq!(read(2, 1, 1, Beside::Nothing), [vec![0], vec![0]]));
}

#[test]
fn what_came_to_a_held_stream_is_read_when_it_is_released() {
    every(|| assert_eq!(read(1, 2, 100, Beside::Release), [vec![0, 1]]));
}

#[test]
fn a_stream_that_takes_the_place_of_another_is_read() {
    every(|| assert_eq!(read(2, 1, 100, Beside::Replace)[1], [0]));
}

#[test]
fn a_burst_has_as_many_turns_as_it_says_whoever_comes_first() {
    every(|| assert_eq!(at_once(3, 2), 2));
    every(|| assert_eq!(at_once(3, 5), 3));
}
