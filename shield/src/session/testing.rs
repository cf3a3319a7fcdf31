//! An outbox read without a socket, for the tests of those who fill it.

use std::{collections::VecDeque, task::Context, task::Waker};

use arqon_proto::codes::CloseCode;

use super::{
    Frame, Outbox,
    outbox::{Load, Take},
};

/// Takes all that is queued, as if it were written, and the close code at the end.
pub(crate) fn read(outbox: &Outbox) -> (Vec<Frame>, Option<CloseCode>) {
    let cx = Context::from_waker(Waker::noop());
    let (mut frames, mut written, mut batch) = (Vec::new(), Load::default(), VecDeque::new());
    loop {
        match outbox.take(&cx, written, &mut batch) {
            Take::Empty => return (frames, None),
            Take::Close(code) => return (frames, Some(code)),
            Take::Frames => {}
        }
        written = Load::default();
        for entry in batch.drain(..) {
            written.add(&entry);
            frames.push(entry.frame);
        }
    }
}
